package rotate

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// contested has the guests web, db and both, which two policies match.
func contested(t *testing.T) (*hosttest.Host, *Rotator, *int) {
	t.Helper()
	h := hosttest.New(t)
	for _, name := range []string{"web", "both", "db"} {
		d := h.Add(name)
		h.Disk(d, "vda", name+".qcow2")
		h.Take(d, []int{9, 10, 11})
	}
	hooks := policy.Hooks{Before: []string{"/bin/before"}, After: []string{"/bin/after"}, Failed: []string{"/bin/failed"}}
	r := rotator(h, with(rule(1), func(r *policy.Rule) { r.Hooks = hooks }))
	single := r.Match
	r.Match = func(all []policy.Guest) policy.Assignment {
		a := single(all)
		a.Conflicts = map[string]*policy.Conflict{"both": {Domain: "both", Rules: []*policy.Rule{{Name: "a"}, {Name: "b"}},
			Problem: policy.Problem{File: "/p.toml", Text: "policies a and b"}}}
		delete(a.Rules, "both")
		return a
	}
	ran := new(int)
	r.Hook = func(_ context.Context, k decide.Hook) error {
		if k.Env["VIRT_ROTATE_DOMAIN"] == "both" {
			*ran++
		}
		return nil
	}
	return h, r, ran
}

func isConflict(p *decide.Plan) bool {
	return p.Result == decide.ResultRefused && len(p.Steps) == 0 && p.Policy == "a and b" && len(p.Refused) == 1 &&
		p.Refused[0] == decide.Refusal{Code: host.CodeTwoPolicies, Path: "/p.toml", Detail: "policies a and b"}
}

func TestADomainOfTwoPoliciesIsRefusedAndTheOthersAreRotated(t *testing.T) {
	h, r, ran := contested(t)
	var ended []string
	r.Ended = func(p decide.Plan) { ended = append(ended, p.Domain+" "+p.Ran.UUID) }
	r.Options = decide.Options{MaxParallel: 1}
	plans, _, err := r.Plan(t.Context(), nil)
	if err != nil || len(plans) != 3 || !isConflict(&plans[1]) {
		t.Errorf("plan: %+v, %v", plans, err)
	}
	done, err := r.Run(t.Context(), nil)
	if err != nil || len(done) != 3 || !isConflict(&done[1]) || len(done[1].Hooks) > 0 || *ran > 0 {
		t.Errorf("%d hooks, run: %+v, %v", *ran, done, err)
	}
	if done[0].Result != decide.ResultDone || done[2].Result != decide.ResultDone || !slices.Contains(ended, "both uuid-of-both") || len(ended) != 3 {
		t.Errorf("%+v, told of %q", done, ended)
	}
	if n := len(h.Find("both").Snapshots); n != 3 {
		t.Errorf("it has %d snapshots", n)
	}
	checkData(h, t)
	last, err := LastRuns(filepath.Join(h.Dir, "state"))
	if err != nil || last["uuid-of-both"].Result != decide.ResultRefused {
		t.Errorf("%+v, %v", last, err)
	}
}

func TestOnlyTheNamedDomainsConflictCounts(t *testing.T) {
	_, r, _ := contested(t)
	if plans, err := r.Run(t.Context(), []string{"web"}); err != nil || len(plans) != 1 || plans[0].Result != decide.ResultDone {
		t.Errorf("web: %+v, %v", plans, err)
	}
	if plans, err := r.Run(t.Context(), []string{"both"}); err != nil || len(plans) != 1 || !isConflict(&plans[0]) {
		t.Errorf("both: %+v, %v", plans, err)
	}
}

func TestADomainOfTwoPoliciesIsNotRestored(t *testing.T) {
	h, r, _ := contested(t)
	before := filesOf(h, t)
	for state, o := range map[host.State]decide.RestoreOptions{host.ShutOff: {}, host.Running: {Stop: &decide.StopOptions{Force: true}}} {
		h.Find("both").State = state
		p, err := r.Restore(t.Context(), "both", hosttest.Name(9), o)
		if err != nil || !isConflict(&p) || !slices.Equal(before, filesOf(h, t)) || h.Find("both").State != state {
			t.Errorf("%s: %+v, %v", state, p, err)
		}
	}
}

func TestStatusOfADomainOfTwoPolicies(t *testing.T) {
	h, r, _ := contested(t)
	w, err := observer(h).Observe(t.Context())
	hosttest.Must(err)
	s := ConflictStatus(w, w.Domain("both"), r.Match(guests("both")).Conflicts["both"], nil)
	if s.Policy != "a and b" || s.Due != nil || len(s.Refused) != 1 || len(s.Disks) != 1 || len(s.Snapshots) != 3 {
		t.Errorf("%+v", s)
	}
	if snap := s.Snapshots[0]; !snap.Keep || !strings.Contains(snap.Reason, "several policies") {
		t.Errorf("%+v", snap)
	}
}

// The domain alone is refused whose metadata names a policy that is not there, and doctor
// tells what to do.
func TestADomainWhoseMetadataIsAtFaultIsRefused(t *testing.T) {
	h := hosttest.New(t)
	for _, name := range []string{"web", "db"} {
		d := h.Add(name)
		h.Disk(d, "vda", name+".qcow2")
		h.Take(d, []int{9, 10, 11})
	}
	h.Find("db").Own = &host.OwnPolicy{Name: "gone"}
	f, err := policy.Parse("/p.toml", []byte("metadata.allow = true\npolicy.p = { domains = ['*'], every = '1h', keep.last = 1, min_free = '0%' }\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := rotator(h, rule(1))
	r.Match = f.MatchGuests
	before := filesOf(h, t)
	all := runAll(h, t, r)
	p := all["db"]
	want := decide.Refusal{Code: host.CodeOwnPolicy, Path: "metadata of db", Detail: `name="gone": /p.toml has no such policy`}
	if p.Result != decide.ResultRefused || len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0] != want {
		t.Errorf("%+v", p)
	}
	if all["web"].Result != decide.ResultDone {
		t.Errorf("%+v", all["web"])
	}
	for _, f := range before {
		if strings.Contains(f, "db") && !slices.Contains(filesOf(h, t), f) {
			t.Errorf("%s is gone", f)
		}
	}
	w := see(h, t)
	found := decide.Diagnose(w, []string{"db"}, r.Match(decide.Guests(w)), h.Now)
	if len(found) != 1 || !strings.Contains(found[0].Remedy, "virsh metadata") {
		t.Errorf("%+v", found)
	}
	h.Find("db").Own = &host.OwnPolicy{Text: "keep.last = 2"}
	if p := runAll(h, t, r)["db"]; p.Result != decide.ResultDone || len(h.Find("db").Snapshots) != 2 {
		t.Errorf("%+v, %d snapshots", p, len(h.Find("db").Snapshots))
	}
}
