package rotate

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A verdictCase has the domain web with snapshots at 10 and 11 o'clock.
type verdictCase struct {
	name   string
	build  func(h *hosttest.Host, web *hosttest.Domain)
	rule   func(r *policy.Rule)
	past   Past
	now    time.Time // half past eleven if zero
	level  Level
	want   []string // level and code of each reason
	detail string   // part of the first reason's
	since  time.Time
}

func at(hour float64) time.Time {
	return hosttest.Hour(0).Add(time.Duration(hour * float64(time.Hour)))
}

func atOf(hour float64) *time.Time { t := at(hour); return &t }

func ranAt(hour float64, result string, refused ...decide.Refusal) *LastRun {
	return &LastRun{Time: at(hour), Result: result, Error: map[bool]string{true: "no luck"}[result == decide.ResultFailed], Refused: refused}
}

func stopped(_ *hosttest.Host, web *hosttest.Domain) { web.State = host.ShutOff }

func fullStorage(h *hosttest.Host, _ *hosttest.Domain) {
	h.Space = func(string) (vfs.Space, error) { return vfs.Space{Total: 100 << 30, Free: 5 << 30}, nil }
}

func tenPercent(r *policy.Rule) { r.MinFree = policy.MinFree{Percent: 10} }

func nightly(r *policy.Rule) { r.Keep.Last, r.Window = 1, policy.Window{Start: 60, End: 300} }

func verdictCases() []verdictCase {
	return []verdictCase{
		{name: "all is well"},
		{name: "a run that was missed, but no more than one", now: at(12.9)},
		{name: "overdue", now: at(13.1), level: Warning, want: []string{"WARNING overdue"}, detail: "the newest snapshot is 2h06m old; one is due every 1h00m", since: at(13)},
		{name: "overdue for long", now: at(15.1), level: Critical, want: []string{"CRITICAL overdue"}, since: at(13)},
		{name: "factors of the policy", now: at(12.6), rule: func(r *policy.Rule) { r.Check.Warn, r.Check.Crit = 1.2, 1.5 }, level: Critical, want: []string{"CRITICAL overdue"}},
		{name: "more often than the timer fires", now: at(12.9), rule: func(r *policy.Rule) { r.Every = 5 * time.Minute }},
		{name: "more often than the timer fires, and overdue", now: at(13.1), rule: func(r *policy.Rule) { r.Every = 5 * time.Minute }, level: Warning, want: []string{"WARNING overdue"}},
		{name: "a timer that is as fast", now: at(11.5), rule: func(r *policy.Rule) { r.Every, r.Check.Timer = 5*time.Minute, 5*time.Minute }, level: Critical, want: []string{"CRITICAL overdue"}},
		{name: "a daily one", now: at(50), rule: func(r *policy.Rule) { r.Every = 24 * time.Hour }},
		{name: "a clock that went back", now: at(5)},
		{name: "no snapshots are wanted", now: at(40), rule: func(r *policy.Rule) { r.Keep = policy.Keep{} }},
		{name: "off, and nothing was written since", now: at(400), build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Change(web.Disks[0].Active().Path, func(i *hosttest.Image) { i.Blocks = nil })
			stopped(h, web)
		}},
		{name: "off, and it wrote", now: at(15.1), build: func(h *hosttest.Host, web *hosttest.Domain) { h.Write(web, "vda", 1); stopped(h, web) }, level: Critical, want: []string{"CRITICAL overdue"}},
		{name: "off, and left alone by the policy", now: at(40), build: func(h *hosttest.Host, web *hosttest.Domain) { h.Write(web, "vda", 1); stopped(h, web) },
			rule: func(r *policy.Rule) { r.Offline = policy.OfflineSkip }},
		{name: "off with checkpoints: it has to start", now: at(40), build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Write(web, "vda", 1)
			stopped(h, web)
			web.Checkpoints = 2
		},
			level: Warning, want: []string{"WARNING overdue"}, detail: "2 checkpoints of a backup program"},
		{name: "no snapshot yet", build: func(_ *hosttest.Host, web *hosttest.Domain) { bare(web) }, level: Warning, want: []string{"WARNING no-snapshot"}, detail: "no run is on record"},
		{name: "no snapshot, after one run", build: func(_ *hosttest.Host, web *hosttest.Domain) { bare(web) }, past: Past{First: atOf(11)}, level: Warning, want: []string{"WARNING no-snapshot"}, since: at(11)},
		{name: "no snapshot, after many runs", build: func(_ *hosttest.Host, web *hosttest.Domain) { bare(web) }, past: Past{First: atOf(3)}, level: Critical, want: []string{"CRITICAL no-snapshot"}, since: at(3)},
		{name: "refused, since", build: func(_ *hosttest.Host, web *hosttest.Domain) { web.ManagedSave = true }, past: Past{Refused: map[string]time.Time{host.CodeManagedSave: at(9)}},
			level: Warning, want: []string{"WARNING managed-save"}, detail: "virsh managedsave-remove", since: at(9)},
		{name: "refused, and overdue for long", now: at(15.1), build: func(_ *hosttest.Host, web *hosttest.Domain) { web.ManagedSave = true }, level: Critical, want: []string{"CRITICAL overdue", "WARNING managed-save"}},
		{name: "refused by the last run, not by the next", past: Past{LastRun: ranAt(11, decide.ResultRefused, decide.Refusal{Code: host.CodeManagedSave})}},
		{name: "a hook", past: Past{LastRun: ranAt(11, decide.ResultRefused, decide.Refusal{Code: host.CodeHook, Detail: "exit status 1"}), Refused: map[string]time.Time{host.CodeHook: at(8)}},
			level: Warning, want: []string{"WARNING hook"}, detail: "the last run refused: exit status 1", since: at(8)},
		{name: "an I/O error", build: func(_ *hosttest.Host, web *hosttest.Domain) { web.State, web.IOError = host.Paused, true }, level: Critical, want: []string{"CRITICAL io-error"}},
		{name: "failed", past: Past{LastRun: ranAt(11, decide.ResultFailed), Failed: atOf(7)}, level: Warning, want: []string{"WARNING run-failed"}, detail: "no luck", since: at(7)},
		{name: "interrupted once", past: Past{LastRun: ranAt(11, decide.ResultCanceled), Failed: atOf(11)}},
		{name: "interrupted again and again", past: Past{LastRun: ranAt(11, decide.ResultCanceled), Failed: atOf(7)}, level: Warning, want: []string{"WARNING run-failed"}},
		{name: "merges wait for the night", rule: nightly, past: Past{Waiting: atOf(-20)}},
		{name: "merges wait for too long", rule: nightly, past: Past{Waiting: atOf(-40)}, level: Warning, want: []string{"WARNING merges-wait"}, detail: "within the window 01:00-05:00", since: at(-40)},
		{name: "merges that waited are done", rule: nightly, now: at(26), past: Past{Waiting: atOf(-40)}, level: Critical, want: []string{"CRITICAL overdue"}},
		{name: "the next snapshot makes the chain too long", rule: func(r *policy.Rule) { r.MaxChain = 3; r.Keep.Last = 9 }, level: Warning, want: []string{"WARNING chain-too-long"}, detail: "when the next snapshot is due: "},
		{name: "the storage is full", build: fullStorage, rule: tenPercent, level: Warning, want: []string{"WARNING no-space"}, detail: "min_free = 10% keeps 10.0 GiB"},
		{name: "the storage is full, and no snapshot is wanted", build: fullStorage, rule: func(r *policy.Rule) {
			tenPercent(r)
			r.Keep = policy.Keep{}
			r.Window = policy.Window{Start: 60, End: 300}
		},
			level: Warning, want: []string{"WARNING low-space"}, detail: "5.0 GiB are free on its storage, min_free = 10% keeps 10.0 GiB"},
	}
}

// bare takes the snapshots away.
func bare(web *hosttest.Domain) {
	web.Snapshots, web.Disks[0].Chain, web.Disks[0].Inactive = nil, web.Disks[0].Chain[:1], web.Disks[0].Inactive[:1]
}

func verdictOf(t *testing.T, r *Rotator, past Past, now time.Time) Verdict {
	t.Helper()
	w, err := r.Observer.Observe(t.Context())
	hosttest.Must(err)
	return Check(w, w.Domain("web"), r.Match(guests("web")), past, now)
}

func reasonsOf(v *Verdict) []string {
	var got []string
	for _, r := range v.Reasons {
		got = append(got, r.Level.String()+" "+r.Code)
	}
	return got
}

func TestVerdicts(t *testing.T) {
	for _, c := range verdictCases() {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one(10, 11)(h, web)
			if c.build != nil {
				c.build(h, web)
			}
			r := rule(3)
			if c.rule != nil {
				c.rule(r)
			}
			if c.now.IsZero() {
				c.now = at(11.5)
			}
			v := verdictOf(t, rotator(h, r), c.past, c.now)
			if got := reasonsOf(&v); v.Level != c.level || !slices.Equal(got, c.want) {
				t.Fatalf("%s %q, want %s %q\n%+v", v.Level, got, c.level, c.want, v.Reasons)
			}
			if len(v.Reasons) == 0 {
				return
			}
			if first := v.Reasons[0]; !strings.Contains(first.Detail, c.detail) || !c.since.IsZero() && (first.Since == nil || !first.Since.Equal(c.since)) {
				t.Errorf("%+v since %v", first, first.Since)
			}
		})
	}
}

func TestAVerdictHasItsFigures(t *testing.T) {
	h := hosttest.New(t)
	one(10, 11)(h, h.Add("web"))
	r := rule(3)
	tenPercent(r)
	success := at(11)
	v := verdictOf(t, rotator(h, r), Past{LastSuccess: &success}, at(11.5))
	if v.Domain != "web" || v.Policy != "p" || v.Snapshots != 2 || !v.Newest.Equal(at(11)) || v.Age(at(11.5)) != 30*time.Minute ||
		v.MaxAge != 2*time.Hour || v.CritAge != 4*time.Hour || v.Layers != 3 || v.MaxChain != 30 || v.Allocated == 0 ||
		v.Free != 50<<30 || v.MinFree != 10<<30 || v.LastSuccess == nil {
		t.Errorf("%+v", v)
	}
}

func TestInterruptedWorkIsToldUnlessARunIsAtWork(t *testing.T) {
	h, _ := interrupted(t, "after merge", hosttest.JobsDie)
	r := rotator(h, rule(3))
	v := verdictOf(t, r, Past{}, at(11.5))
	if got := reasonsOf(&v); !slices.Equal(got, []string{"WARNING unfinished-run"}) || v.Reasons[0].Since == nil {
		t.Errorf("%+v", v.Reasons)
	}
	if v = verdictOf(t, r, Past{Working: true}, at(11.5)); v.Level != OK {
		t.Errorf("beside a run: %+v", v.Reasons)
	}
}

func TestLostSnapshotsAreCritical(t *testing.T) {
	h, _ := pivotedBelow(t)
	v := verdictOf(t, rotator(h, rule(3)), Past{}, at(11.5))
	if v.Level != Critical || len(v.Reasons) == 0 || v.Reasons[0].Code != host.CodeDestroyed {
		t.Errorf("%+v", v.Reasons)
	}
}

// A chain that merges cannot shorten is told before the snapshot is refused.
func TestAChainThatIsLongerThanThePolicyExplains(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	for n := 1; n <= 8; n++ {
		h.Foreign(web, "mine"+string(rune('0'+n)), n)
	}
	h.Take(web, []int{10, 11})
	r := rule(3)
	r.Keep.Last, r.MaxChain = 2, 12
	if v := verdictOf(t, rotator(h, r), Past{}, at(11.5)); v.Level != OK {
		t.Errorf("images below are no fault: %+v", v.Reasons)
	}
	h = hosttest.New(t)
	web = h.Add("web")
	one(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)(h, web)
	r.Window, r.MaxChain, r.Every = policy.Window{Start: 60, End: 300}, 15, 24*time.Hour
	v := verdictOf(t, rotator(h, r), Past{}, at(11.5))
	if got := reasonsOf(&v); !slices.Equal(got, []string{"WARNING long-chain"}) || !strings.Contains(v.Reasons[0].Detail, "12 layers") {
		t.Errorf("%+v", v.Reasons)
	}
}

func TestADomainOfTwoPoliciesOrOfNone(t *testing.T) {
	h := hosttest.New(t)
	one(10, 11)(h, h.Add("web"))
	w, err := observer(h).Observe(t.Context())
	hosttest.Must(err)
	d := w.Domain("web")
	two := policy.Assignment{Conflicts: map[string]*policy.Conflict{"web": {Domain: "web", Rules: []*policy.Rule{rule(1), rule(2)}, Problem: policy.Problem{Text: "both"}}}}
	if v := Check(w, d, two, Past{}, at(11.5)); v.Level != Critical || v.Reasons[0].Code != host.CodeTwoPolicies {
		t.Errorf("two: %+v", v)
	}
	for severity, want := range map[policy.Severity]Level{policy.SeverityIgnore: OK, policy.SeverityWarn: Warning, policy.SeverityCrit: Critical} {
		v := Uncovered(w, d, severity, Past{})
		if v.Level != want || (len(v.Reasons) == 0) != (want == OK) || v.Snapshots != 2 || v.Policy != "" {
			t.Errorf("%s: %+v", severity, v)
		}
	}
}

// What goes wrong in judging is unknown, not fine.
func TestAFaultInJudgingIsUnknown(t *testing.T) {
	h := hosttest.New(t)
	one(10, 11)(h, h.Add("web"))
	w, err := observer(h).Observe(t.Context())
	hosttest.Must(err)
	w.Forest = nil
	v := Check(w, w.Domain("web"), policy.Assignment{Rules: map[string]*policy.Rule{"web": rule(3)}}, Past{}, at(11.5))
	if v.Level != Unknown || v.Reasons[0].Code != host.CodeFault || v.Policy != "p" {
		t.Errorf("%+v", v)
	}
}

func TestJudgingChangesNothing(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, with(rule(3), func(r *policy.Rule) { r.Keep.Last = 1 }))
	w, err := r.Observer.Observe(t.Context())
	hosttest.Must(err)
	before, err := json.Marshal(w)
	hosttest.Must(err)
	one := Check(w, w.Domain("web"), r.Match(guests("web")), Past{}, at(11.5))
	two := Check(w, w.Domain("web"), r.Match(guests("web")), Past{}, at(11.5))
	after, err := json.Marshal(w)
	hosttest.Must(err)
	if string(before) != string(after) || len(one.Reasons) != len(two.Reasons) {
		t.Error("the world was changed, or two looks differ")
	}
}

func TestLevels(t *testing.T) {
	for _, l := range []Level{OK, Warning, Critical, Unknown} {
		text, err := l.MarshalText()
		var back Level
		if err != nil || back.UnmarshalText(text) != nil || back != l || l.Worst(OK) != l || OK.Worst(l) != l || Critical.Worst(l) != Critical {
			t.Errorf("%s: %v, %v", l, back, err)
		}
	}
	if new(Level).UnmarshalText([]byte("ok")) == nil || Warning.Worst(Unknown) != Unknown {
		t.Error("a wrong word is read, or a warning hides what is not known")
	}
}
