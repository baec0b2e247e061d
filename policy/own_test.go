package policy

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const ownFile = `
metadata.allow = true
defaults = { keep.last = 3, every = "1h" }
policy.web = { domains = ["web-*", "bot?"], hooks.failed = ["/bin/tell"] }
policy.db  = { domains = ["db-*", "both"], keep.daily = 7 }
policy.gold = { every = "15m" }
`

func TestADomainSaysWhichPolicyIsIts(t *testing.T) {
	for _, c := range []struct {
		domain string
		own    *Own
		want   string // the policy, "" for none, or a piece of the problem
	}{
		{"web-1", nil, "web"},
		{"web-1", &Own{}, "web"},
		{"web-1", &Own{Enabled: "yes"}, "web"},
		{"web-1", &Own{Enabled: "no"}, ""},
		{"both", &Own{Enabled: "no"}, ""},
		{"both", nil, `is matched by policy web`},
		{"both", &Own{Text: "every = '2h'"}, `is matched by policy web`},
		{"both", &Own{Name: "db"}, "db"},
		{"other", nil, ""},
		{"other", &Own{Name: "gold"}, "gold"},
		{"other", &Own{Name: "silver"}, `metadata of other: policy: name="silver": test.toml has no such policy`},
		{"other", &Own{Enabled: "maybe"}, `enabled="maybe": want yes or no`},
		{"other", &Own{Text: "every = '2h'"}, "no policy selects the domain"},
		{"other", &Own{Problem: "several elements"}, "metadata of other: policy: several elements"},
		{"web-1", &Own{Text: "every = "}, "metadata of web-1: policy: "},
		{"web-1", &Own{Text: "evry = '2h'\nmethod = 'magic'"}, `evry: unknown key; did you mean every?; method: "magic": want`},
		{"web-1", &Own{Text: "hooks.failed = ['/bin/evil']"}, "hooks: unknown key"},
		{"web-1", &Own{Text: "overlay_dir = '/'"}, "overlay_dir: unknown key"},
		{"web-1", &Own{Text: "domains = ['*']"}, "domains: unknown key"},
		{"web-1", &Own{Text: "keep.last = 40"}, "more than max_chain"},
		{"web-1", &Own{Text: "every = '1h'\nevery = '2h'"}, "every"},
		{"web-1", &Own{Text: strings.Repeat("#", MaxOwn+1)}, "bytes of keys"},
	} {
		f := mustParse(t, ownFile)
		a := f.MatchGuests([]Guest{{Name: c.domain, Own: c.own}})
		got := ""
		if r := a.Rules[c.domain]; r != nil {
			got = r.Name
		}
		if k := a.Conflicts[c.domain]; k != nil {
			got = k.Problem.Error()
		}
		if got != c.want && (a.Conflicts[c.domain] == nil || c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s %+v: %q, want %q", c.domain, c.own, got, c.want)
		}
	}
}

// What a domain says changes its own rule, and nobody else's.
func TestADomainHasValuesOfItsOwn(t *testing.T) {
	f, untouched := mustParse(t, ownFile), mustParse(t, ownFile)
	a := f.MatchGuests([]Guest{
		{Name: "web-1", Own: &Own{Text: "every = '6h'\nkeep = { last = 14 }\nexclude_disks = ['vdb']\nquiesce = 'no'"}},
		{Name: "web-2"},
		{Name: "x", Own: &Own{Name: "db", Text: "keep.daily = 0"}},
	})
	one, two, x := a.Rules["web-1"], a.Rules["web-2"], a.Rules["x"]
	if one == nil || two == nil || x == nil {
		t.Fatalf("%+v", a)
	}
	if one.Name != "web" || one.Every != 6*time.Hour || one.Keep.Last != 14 || one.Covers("vdb") || one.Quiesce != QuiesceNo || one.Hooks.Failed[0] != "/bin/tell" {
		t.Errorf("%+v", one)
	}
	if two.Every != time.Hour || two.Keep.Last != 3 || !two.Covers("vdb") {
		t.Errorf("%+v", two)
	}
	if x.Keep != (Keep{Last: 3}) {
		t.Errorf("%+v", x.Keep)
	}
	if !reflect.DeepEqual(f.Rules, untouched.Rules) {
		t.Error("the rules of the file have changed")
	}
}

func TestWhatDomainsSayCountsOnlyWhereItIsAllowed(t *testing.T) {
	f := mustParse(t, strings.NewReplacer("metadata.allow = true", "", `policy.gold = {`, `policy.gold = { domains = ["g"],`).Replace(ownFile))
	for _, own := range []Own{{Name: "db"}, {Enabled: "no"}, {Text: "every = '6h'"}, {Problem: "x"}} {
		if r := f.MatchGuests([]Guest{{Name: "web-1", Own: &own}}).Rules["web-1"]; r == nil || r.Name != "web" || r.Every != time.Hour {
			t.Errorf("%+v: %+v", own, r)
		}
	}
	if _, err := Parse("test.toml", []byte(`policy.gold = { keep.last = 1 }`)); err == nil || !strings.Contains(err.Error(), "names no domain") {
		t.Errorf("a policy without domains: %v", err)
	}
}
