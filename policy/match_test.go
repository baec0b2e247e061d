package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

const matchPolicy = `
[defaults]
keep.last = 1

[policy.web]
domains = ["web-*"]
exclude = ["web-scratch", "web-old-?"]

[policy.db]
domains = ["db[0-9]", "ledger"]

[policy.all-one]
domains = ["*-1"]
exclude = ["db*"]
disks = ["vd[ab]", "sda"]
`

func TestMatch(t *testing.T) {
	f := mustParse(t, matchPolicy)
	a := f.Match([]string{"web-2", "web-scratch", "web-old-3", "web-old-33", "db7", "db77", "ledger", "x-1", "x-2", "db-1"})
	rules := a.Rules
	if len(a.Conflicts) > 0 {
		t.Errorf("conflicts %v", a.Conflicts)
	}
	got := map[string]string{}
	for domain, r := range rules {
		got[domain] = r.Name
	}
	want := map[string]string{"web-2": "web", "web-old-33": "web", "db7": "db", "ledger": "db", "x-1": "all-one"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if rules["db7"] != rules["ledger"] || rules["db7"] == nil {
		t.Error("domains of one policy have different rules")
	}
}

func TestADomainOfTwoPoliciesIsAConflictAndTheOthersHaveTheirRules(t *testing.T) {
	a := mustParse(t, matchPolicy).Match([]string{"web-b-1", "web-2", "web-1", "web-1", "nobody"})
	for _, domain := range []string{"web-1", "web-b-1"} {
		want := `test.toml:13: policy.all-one.domains: domain "` + domain + `" is matched by policy web (its domains: line 6)` +
			` and by policy all-one (its domains: line 13): take it out of all but one with exclude = ["` + domain + `"]`
		c := a.Conflicts[domain]
		if c == nil || c.Problem.Error() != want || !slices.Equal(c.Names(), []string{"web", "all-one"}) {
			t.Errorf("%s: got %+v\nwant %s", domain, c, want)
		}
	}
	if len(a.Conflicts) != 2 || len(a.Rules) != 1 || a.Rules["web-2"].Name != "web" {
		t.Errorf("got %+v", a)
	}
}

// What is told as the remedy is one, whatever the domain's name.
func TestTheRemedyForAConflictEndsIt(t *testing.T) {
	const policies = "[policy.a]\ndomains = ['*']\nkeep.last = 1\n[policy.b]\ndomains = ['*']\nkeep.last = 1\n"
	for _, domain := range []string{"web", `a[1]`, `we*`, `\`, `"quoted"`, "[!x]", "ü"} {
		f := mustParse(t, policies)
		_, remedy, _ := strings.Cut(f.Match([]string{domain}).Conflicts[domain].Problem.Text, " with ")
		f = mustParse(t, policies+remedy)
		if a := f.Match([]string{domain, "other"}); len(a.Conflicts) != 1 || a.Rules[domain] == nil {
			t.Errorf("%s: %s: %+v", domain, remedy, a)
		}
	}
}

func TestCovers(t *testing.T) {
	f := mustParse(t, matchPolicy)
	for target, want := range map[string]bool{"vda": true, "vdb": true, "vdc": false, "sda": true, "sdb": false, "": false} {
		if got := f.Rules[0].Covers(target); got != want {
			t.Errorf("%v covers %q: %t", f.Rules[0].Disks, target, got)
		}
	}
	if !f.Rules[1].Covers("anything") {
		t.Error("a rule without disks must cover every disk")
	}
}

func TestExcludedDisksAreNotCovered(t *testing.T) {
	for _, c := range []struct{ keys, yes, no string }{
		{"exclude_disks = ['vdc']", "vda sda", "vdc"},
		{"exclude_disks = ['vd[!a]', 'sd?']", "vda vdaa hda", "vdb sda"},
		{"disks = ['vd*']\nexclude_disks = ['vdc']", "vda vdcc", "vdc sda"},
		{"disks = ['vda']\nexclude_disks = ['vd*']", "", "vda vdb"},
	} {
		r := &mustParse(t, "[policy.p]\ndomains = ['a']\nkeep.last = 1\n"+c.keys).Rules[0]
		for _, target := range strings.Fields(c.yes) {
			if !r.Covers(target) {
				t.Errorf("%s: %s is left out", c.keys, target)
			}
		}
		for _, target := range strings.Fields(c.no) {
			if r.Covers(target) {
				t.Errorf("%s: %s is covered", c.keys, target)
			}
		}
	}
}

func TestWarningsTellWhenChainsGrowTooLong(t *testing.T) {
	const head = "[policy.a]\ndomains = ['a']\nevery = '1h'\n"
	tests := []struct{ policy, want string }{
		{"keep.last = 29", ""},
		{"keep = { last = 28, daily = 2 }", ""},
		{"keep = { last = 29, daily = 2 }", "31 layers (1 base, 30 kept, 0 taken while the window is closed), more than max_chain 30"},
		{"keep.last = 9\nwindow = '01:00-05:00'", ""},
		{"keep.last = 10\nwindow = '01:00-05:00'", "31 layers (1 base, 10 kept, 20 taken while the window is closed)"},
		{"keep.last = 10\nwindow = '01:00-04:59'", "32 layers (1 base, 10 kept, 21 taken while the window is closed)"},
		{"keep.last = 29\nwindow = '00:00-24:00'", ""},
	}
	for _, test := range tests {
		got := mustParse(t, head+test.policy).Warnings()
		if (test.want == "") != (len(got) == 0) || !strings.Contains(got.Error(), test.want) {
			t.Errorf("%s: got %q, want %q", test.policy, got, test.want)
		}
	}
}

func TestDue(t *testing.T) {
	now := at(t, "2026-11-20T12:00:00Z")
	tests := []struct {
		every, age time.Duration
		want       bool
	}{
		{time.Hour, time.Hour, true},
		{time.Hour, time.Hour - 3*time.Second, true}, // the timer was early
		{time.Hour, 55 * time.Minute, true},
		{time.Hour, 55*time.Minute - 1, false},
		{24 * time.Hour, 23*time.Hour + 50*time.Minute, true},
		{24 * time.Hour, 23*time.Hour + 50*time.Minute - 1, false},
		{time.Second, 0, false},
		{time.Hour, -time.Minute, false},
		{time.Hour, -time.Minute - 1, true}, // from the future
		{time.Hour, -10 * 365 * 24 * time.Hour, true},
	}
	for _, test := range tests {
		r := Rule{Every: test.every}
		if got := r.Due(now.Add(-test.age), now); got != test.want {
			t.Errorf("every %v, newest is %v old: due = %t", test.every, test.age, got)
		}
	}
	if r := (Rule{Every: 24 * time.Hour}); !r.Due(time.Time{}, now) {
		t.Error("without any snapshot, none is due")
	}
}
