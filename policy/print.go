package policy

import (
	"cmp"
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
		fmt.Fprintf(&b, "%-13s = %s\n", f.key, f.text())
	}
	return b.String()
}

// MarshalJSON writes empty lists as [], never null.
func (s Storage) MarshalJSON() ([]byte, error) {
	type plain Storage // has no MarshalJSON
	for _, list := range []*[]string{&s.Scan, &s.Ignore, &s.Shared} {
		if *list == nil {
			*list = []string{}
		}
	}
	return json.Marshal(struct {
		plain
		SilentAfter interval `json:"silent_after"` // hides the one of plain
		Slots       int      `json:"slots"`        // the same
	}{plain(s), interval(cmp.Or(s.SilentAfter, silentAfter)), cmp.Or(s.Slots, slots)})
}

// TOML writes the [storage] table as the file has it; "" where it has none.
func (s *Storage) TOML() string {
	var b strings.Builder
	for _, f := range storageFields(s) {
		if text := f.text(); text != "[]" && !s.usual(f.key) {
			fmt.Fprintf(&b, "%-13s = %s\n", f.key, text)
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "[storage]\n" + b.String()
}

// usual tells of keys that have a default whether the value is that.
func (s *Storage) usual(key string) bool {
	return key == "silent_after" && (s.SilentAfter == silentAfter || s.SilentAfter == 0) || key == "slots" && (s.Slots == slots || s.Slots == 0)
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
	for _, list := range []*[]string{&r.Domains, &r.Exclude, &r.Disks, &r.ExcludeDisks} {
		if *list == nil {
			*list = []string{}
		}
	}
	return json.Marshal(struct {
		plain
		Every interval `json:"every"` // hides the one of plain
	}{plain(r), interval(r.Every)})
}
