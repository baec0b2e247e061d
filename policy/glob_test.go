package policy

import (
	"strings"
	"testing"
)

// What a glob matches is what a shell's would (bash, in the C locale), apart from the
// backslash within a class, which takes a meaning away.
func TestGlobsMeanWhatTheyMeanInAShell(t *testing.T) {
	for _, c := range []struct{ glob, yes, no string }{
		{"vd[!c]", "vda vdb", "vdc vd vdcc"},
		{"vd[^c]", "vda vdb", "vdc"},
		{"vd[!ac-e]", "vdb vdf vd!", "vda vdc vdd vde"},
		{"[!a]*[!b]", "xa xya", "aa xb x"},
		{"a[b!]", "ab a!", "ac a"},
		{"a[!!]", "ab", "a!"},
		{"a[!^]", "ab a!", "a^"},
		{"a[]b]", "a] ab", "ac a["},
		{"[!]a]", "b [", "] a"},
		{"[^]a]", "b [", "] a"},
		{`a\[!c]`, "a[!c]", "ab a^"},
		{`a\\[!c]`, `a\b`, `a\c`},
		{`[\!a]`, "! a", "b"},
		{`[\]a]`, "] a", "b"},
		{`[!\]a]`, "b !", "] a"},
		{"[[!]", "[ !", "a"},
		{"a!c", "a!c", "abc"},
		{"!a", "!a", "b"},
		{"x-[0-9]?", "x-17", "x-1 x-177"},
	} {
		for _, name := range strings.Fields(c.yes) {
			if !matchAny([]string{c.glob}, name) {
				t.Errorf("%s does not match %s", c.glob, name)
			}
		}
		for _, name := range strings.Fields(c.no) {
			if matchAny([]string{c.glob}, name) {
				t.Errorf("%s matches %s", c.glob, name)
			}
		}
	}
}

func TestWhatIsNoGlobIsRefused(t *testing.T) {
	for _, glob := range []string{"[", "[!", "[!]", "[]", "a[b", `a\`, `[a\`, `[\]`, "[a-]", "[!-a]", ""} {
		if _, err := globList([]string{glob}); err == nil {
			t.Errorf("%q passes", glob)
		}
	}
}

func TestALiteralMatchesItsNameOnly(t *testing.T) {
	for _, name := range []string{"web", "[!a]", "*", "?", `\`, `a\*`, "]"} {
		if ok, err := match(literal(name), name); !ok || err != nil {
			t.Errorf("%s: %s does not match it: %v", name, literal(name), err)
		}
		if ok, _ := match(literal(name), name+"x"); ok {
			t.Errorf("%s matches more", literal(name))
		}
	}
}
