package policy

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// TOML writes the rule as a [policy.NAME] table with every effective value.
// Parse reads it back to an equal rule, apart from Line.
func (r *Rule) TOML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[policy.%s]\n", toml.Key{r.Name})
	for _, f := range fields(r) {
		fmt.Fprintf(&b, "%-11s = %s\n", f.key, f.text())
	}
	return b.String()
}

// text is the value of the field in TOML, on one line.
func (f field) text() string {
	if f.sub == nil {
		return f.print()
	}
	var pairs []string
	for _, s := range f.sub {
		if s.omit == nil || !s.omit() {
			pairs = append(pairs, s.key+" = "+s.text())
		}
	}
	return "{ " + strings.Join(pairs, ", ") + " }"
}

// MarshalJSON spells scalars as the policy file does: "1h", "10%",
// "200MiB/s". Empty lists are [], never null.
func (r Rule) MarshalJSON() ([]byte, error) {
	type plain Rule // has no MarshalJSON
	for _, list := range []*[]string{&r.Domains, &r.Exclude, &r.Disks} {
		if *list == nil {
			*list = []string{}
		}
	}
	return json.Marshal(struct {
		plain
		Every interval `json:"every"` // hides the one of plain
	}{plain(r), interval(r.Every)})
}
