package policy

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// sameRule compares all but Line.
func sameRule(a, b Rule) bool {
	a.Line, b.Line = 0, 0
	return reflect.DeepEqual(a, b)
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

func randomRule(r *rand.Rand) Rule {
	globs := func() []string {
		return pick(r, nil, []string{"*"}, []string{"web-*", "db[0-9]"}, []string{`a "quoted" \* name`, "tab\tnewline\nü\x7f\x01"})
	}
	keep := randomKeep(r)
	keep.Last++
	return Rule{
		Name:    pick(r, "web", "a.b", "1", "_x-Y.9"),
		Domains: append([]string{"always"}, globs()...), Exclude: globs(), Disks: globs(), ExcludeDisks: globs(),
		OnUnsuitable: pick(r, UnsuitableRefuse, UnsuitableSkip),
		Every:        time.Duration(1+r.Int64N(1<<uint(1+r.IntN(33)))) * time.Second,
		Keep:         keep,
		Method:       pick(r, MethodAuto, MethodCommit, MethodPull, MethodGraft),
		Quiesce:      pick(r, QuiesceAuto, QuiesceYes, QuiesceNo),
		OverlayDir:   pick(r, "", "/", "/srv/over lays"),
		MaxChain:     keep.Last + 1 + r.IntN(100),
		MinFree:      pick(r, MinFree{Percent: r.IntN(100)}, MinFree{Size: 1 + r.Int64N(1<<50)}),
		Bandwidth:    Bandwidth(pick(r, 0, r.Int64(), r.Int64N(5000)<<20)),
		Window:       pick(r, Window{}, Window{r.IntN(720), 720 + r.IntN(721)}, Window{720 + r.IntN(720), r.IntN(720)}),
		Offline:      pick(r, OfflineNative, OfflineSkip),
		Hooks: Hooks{
			Before:  pick(r, nil, []string{"/bin/true"}, []string{"/opt/a program", "", "a\tb \"ü\" $HOME"}),
			After:   pick(r, nil, []string{"/usr/bin/logger", "--", "done"}),
			Failed:  pick(r, nil, []string{"/../x", "\x01"}),
			Timeout: time.Duration(1+r.Int64N(100_000)) * time.Second,
		},
		Check: Check{
			Warn: pick(r, 1, 1.5, 2), Crit: pick(r, 2, 2.0625, 10000),
			Timer: time.Duration(1+r.Int64N(100_000)) * time.Second, Waiting: time.Duration(1+r.Int64N(1000_000)) * time.Second,
		},
	}
}

func TestTOMLIsReadBackToAnEqualRule(t *testing.T) {
	for seed := range uint64(2000) {
		rule := randomRule(rand.New(rand.NewPCG(seed, 2)))
		f, err := Parse("printed", []byte(rule.TOML()))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, rule.TOML())
		}
		if len(f.Rules) != 1 || !sameRule(f.Rules[0], rule) || f.Rules[0].Line != 1 {
			t.Fatalf("seed %d:\ngot  %+v\nwant %+v\n%s", seed, f.Rules, rule, rule.TOML())
		}
	}
}

func TestJSONSpellsScalarsAsTheFileDoes(t *testing.T) {
	f := mustParse(t, `policy.a = { domains = ["<a>"], every = "1d", keep = { last = 2 }, bandwidth = "200MiB/s", window = "01:00-05:00", hooks = { after = ["/bin/x", "1"] } }`)
	const want = `{"name":"a","domains":["<a>"],"exclude":[],"disks":[],"exclude_disks":[],"on_unsuitable":"refuse",` +
		`"keep":{"last":2,"hourly":0,"daily":0,"weekly":0,"monthly":0,"yearly":0},"method":"auto","quiesce":"auto","overlay_dir":"",` +
		`"max_chain":30,"min_free":"10%","bandwidth":"200MiB/s","window":"01:00-05:00","offline":"native","detach":false,` +
		`"hooks":{"before":[],"after":["/bin/x","1"],"failed":[],"timeout":"5m"},"check":{"warn":2,"crit":4,"timer":"1h","waiting":"48h"},"line":1,"every":"24h"}`
	for _, v := range []any{f.Rules[0], &f.Rules[0]} {
		got, err := json.Marshal(v)
		if err != nil || !sameJSON(t, string(got), want) {
			t.Errorf("got %s, %v\nwant %s", got, err, want)
		}
	}
	if f.Rules[0].Disks != nil || f.Rules[0].ExcludeDisks != nil || f.Rules[0].Hooks.Before != nil {
		t.Error("MarshalJSON changed the rule")
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}
