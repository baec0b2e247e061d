package policy_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

// A retention rule is applied to a list of times, oldest first. The clock is an
// argument, and its location says where days begin.
func ExampleKeep_Apply() {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var taken []policy.Snapshot
	for hours := 60; hours > 0; hours -= 12 {
		t := now.Add(-time.Duration(hours) * time.Hour)
		taken = append(taken, policy.Snapshot{Name: t.Format("Mon 15:04"), Time: t})
	}
	for _, v := range (policy.Keep{Last: 1, Daily: 3}).Apply(taken, now) {
		fmt.Printf("%s  keep %-5v  %s\n", v.Name, v.Keep, strings.Join(v.Reasons, ", "))
	}
	// Output:
	// Fri 00:00  keep false  no rule keeps it
	// Fri 12:00  keep true   daily 2026-11-20
	// Sat 00:00  keep false  no rule keeps it
	// Sat 12:00  keep true   daily 2026-11-21
	// Sun 00:00  keep true   newest, last 1 of 1, daily 2026-11-22
}

// A policy file is read as a whole: what is wrong with it comes with file, line and
// key, all at once.
func ExampleParse() {
	file, err := policy.Parse("policy.toml", []byte(`
[policy.nightly]
domains = ["web*", "db1"]
exclude = ["web-test"]
every = "1d"
keep.last = 3
keep.weekly = 4
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for domain, rule := range file.Match([]string{"web1", "web-test"}).Rules {
		fmt.Printf("%s: %s, every %v, %d snapshots at most\n", domain, rule.Name, rule.Every, rule.Keep.Most())
	}

	_, err = policy.Parse("policy.toml", []byte(`
[policy.nightly]
domains = ["*"]
every = "soon"
keep = 3
`))
	fmt.Println(err)
	// Output:
	// web1: nightly, every 24h0m0s, 6 snapshots at most
	// policy.toml:4: policy.nightly.every: "soon": want a duration such as "90m", "1h", "1d" or "1w"
	// policy.toml:5: policy.nightly.keep: want a table, not the integer 3
}

// A snapshot is due when the newest one is older than the rule says; a timer that is a
// little early does not have to wait for the next time.
func ExampleRule_Due() {
	rule := policy.Rule{Every: time.Hour}
	newest := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	fmt.Println(rule.Due(newest, newest.Add(30*time.Minute)))
	fmt.Println(rule.Due(newest, newest.Add(59*time.Minute)))
	// Output:
	// false
	// true
}
