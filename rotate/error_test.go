package rotate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

var errSim = errors.New("simulated failure")

// The n-th call of the host fails, with or without its effect.
func TestACallThatFailsIsToldAndTheNextRunFinishes(t *testing.T) {
	for i, s := range crashScenes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			h, r := s.host(t, 0)
			runAll(h, t, r)
			want := shapeOf(h)
			n, step := thorough(2, i)
			for ; s.fails(t, n, want); n += step {
			}
			if n < 15 {
				t.Errorf("only %d calls", n-1)
			}
		})
	}
}

func (s *crashScene) fails(t *testing.T, n int, want string) bool {
	t.Helper()
	h, r := s.host(t, uint64(n))
	count, at := 0, ""
	h.Event = func(what string) error {
		if count++; count != n {
			return nil
		}
		at = what
		return errSim
	}
	plans, err := r.Run(context.Background(), nil)
	if count < n {
		return false
	}
	told := errors.Is(err, errSim)
	for _, p := range plans {
		told = told || strings.Contains(p.Error, errSim.Error()) && p.Result == decide.ResultFailed
	}
	if !told && at != "call quiesced snapshot" {
		t.Errorf("call %d, %q: nobody was told: %v %+v", n, at, err, plans)
	}
	checkData(h, t)
	finishes(h, t, s.rule, s.options)
	checkDone(h, t)
	if have := shapeOf(h); have != want {
		t.Errorf("%s, want %s", have, want)
	}
	if t.Failed() {
		t.Fatalf("call %d, %q", n, at)
	}
	return true
}

func TestOneDomainsFailureLeavesTheOthersDone(t *testing.T) {
	h := hosttest.New(t)
	for _, name := range []string{"web1", "web2", "web3"} {
		d := h.Add(name)
		h.Disk(d, "vda", name+".qcow2")
		h.Take(d, []int{9, 10, 11})
	}
	h.Find("web2").State = "migrating"
	var failed atomic.Bool
	h.Event = func(what string) error {
		if what == "call merge" && failed.CompareAndSwap(false, true) {
			return errSim
		}
		return nil
	}
	results := map[string]int{}
	for _, p := range runAll(h, t, rotator(h, rule(1))) {
		results[p.Result]++
	}
	if results[decide.ResultFailed] != 1 || results[decide.ResultDone] != 1 || results[decide.ResultRefused] != 1 {
		t.Errorf("results: %v", results)
	}
	runs, err := LastRuns(filepath.Join(h.Dir, "state"))
	if err != nil || runs["uuid-of-web2"].Result != decide.ResultRefused || len(runs) != 3 {
		t.Errorf("last runs: %+v, %v", runs, err)
	}
}

func TestASnapshotThatFailsLeavesNoOverlay(t *testing.T) {
	for _, place := range []string{"call snapshot", "an overlay made"} {
		h := hosttest.New(t)
		web := h.Add("web")
		h.Disk(web, "vda", "web.qcow2")
		h.Disk(web, "vdb", "data.qcow2")
		r := rotator(h, rule(1))
		if place == "call snapshot" {
			h.Event = func(what string) error {
				if what == place {
					return errSim
				}
				return nil
			}
		} else { // another program takes the name of the second overlay
			r.crash = func(at string) {
				if at == place {
					_ = os.WriteFile(h.Img("web."+hosttest.Name(12)+".qcow2"), []byte("somebody's"), 0o600)
				}
			}
		}
		p := runAll(h, t, r)["web"]
		if p.Result != decide.ResultFailed || len(web.Snapshots) > 0 {
			t.Errorf("%s: %+v", place, p)
		}
		if place != "call snapshot" {
			if data, _ := os.ReadFile(h.Img("web." + hosttest.Name(12) + ".qcow2")); string(data) != "somebody's" {
				t.Error("a file that we did not make was touched")
			}
			hosttest.Must(os.Remove(h.Img("web." + hosttest.Name(12) + ".qcow2")))
		}
		checkDone(h, t)
	}
}

// An empty file that another program made is not ours to remove.
func TestAnOverlayThatSomebodyElseMadeStays(t *testing.T) {
	h := hosttest.New(t)
	one()(h, h.Add("web"))
	r := rotator(h, rule(1))
	path := h.Img("web." + hosttest.Name(12) + ".qcow2")
	r.crash = func(at string) {
		if at == "first intent of the snapshot" {
			_ = os.WriteFile(path, nil, 0o600)
		}
	}
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || !strings.Contains(p.Error, "file exists") {
		t.Errorf("%+v", p)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	checkNoIntent(h, t)
}

func TestAnOverlayWithDataIsNeverRemoved(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	path := h.Img("web." + hosttest.Name(12) + ".qcow2")
	h.Event = func(what string) error {
		if what != "call snapshot" {
			return nil
		}
		h.Store(path, hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: h.Img("web.qcow2"), BackingFormat: "qcow2", Blocks: hosttest.Blocks{1: 1}})
		return errSim
	}
	p := runAll(h, t, rotator(h, rule(1)))["web"]
	if p.Result != decide.ResultFailed || !strings.Contains(p.Error, "holds data") {
		t.Errorf("%+v", p)
	}
	h.Event = func(string) error { return nil }
	for range 2 { // and the next runs say so too
		p = runAll(h, t, rotator(h, rule(1)))["web"]
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLeftover || p.Refused[0].Path != path {
			t.Errorf("%+v", p)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// A merge that ends without having done its work must not count as done.
func TestAJobThatIsGoneIsNotTakenForDone(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	h.Event = func(what string) error {
		if what == "call pivot" {
			h.EndJob("web/vda")
		}
		return nil
	}
	r := rotator(h, rule(2))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultFailed || !strings.Contains(p.Error, "nothing was deleted") {
		t.Errorf("%+v", p)
	}
	checkData(h, t)
	h.Event = func(string) error { return nil }
	finishes(h, t, rule(2), coalesce())
	checkDone(h, t)
}

// The guest runs on the merged chain, but would start on the old one.
func TestAMergeThatThePersistentConfigurationMissedDeletesNothing(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	h.Event = func(what string) error {
		if what == "end of pivot" {
			web.Disks[0].Inactive = slices.Insert(web.Disks[0].Inactive, 1, h.Img("web."+hosttest.Name(9)+".qcow2"))
		}
		return nil
	}
	r := rotator(h, rule(2))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultFailed || !strings.Contains(p.Error, "persistent configuration") || !strings.Contains(p.Error, "nothing was deleted") {
		t.Errorf("%+v", p)
	}
	if _, err := os.Stat(h.Img("web." + hosttest.Name(9) + ".qcow2")); err != nil {
		t.Error(err)
	}
	checkData(h, t)
}

func TestABrokenIntentStopsItsDomainAlone(t *testing.T) {
	for _, text := range []string{"{", `{"version": 2, "uuid": "uuid-of-web"}`, `{"version": 1, "uuid": "else"}`} {
		h := hosttest.New(t)
		one(9, 10, 11)(h, h.Add("web"))
		db := h.Add("db")
		h.Disk(db, "vda", "db.qcow2")
		h.Take(db, []int{9, 10, 11})
		hosttest.Must(os.Mkdir(filepath.Join(h.Dir, "state/intents"), 0o700))
		hosttest.Must(os.WriteFile(filepath.Join(h.Dir, "state/intents/uuid-of-web.json"), []byte(text), 0o600))
		plans := runAll(h, t, rotator(h, rule(1)))
		if p := plans["web"]; p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeIntent || len(p.Steps) > 0 {
			t.Errorf("%s: %+v", text, p)
		}
		if p := plans["db"]; p.Result != decide.ResultDone || !slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
			t.Errorf("%s: another domain: %+v", text, p)
		}
		checkData(h, t)
	}
}

func TestNamesThatNobodyKnows(t *testing.T) {
	h := hosttest.New(t)
	one()(h, h.Add("web"))
	h.Disk(h.Add("other"), "vda", "other.qcow2")
	_, err := rotator(h, rule(1)).Run(context.Background(), []string{"web", "wbe", "other"})
	if !errors.Is(err, observe.ErrNoSuchDomain) || !errors.Is(err, decide.ErrNoPolicy) || !strings.Contains(err.Error(), "wbe") {
		t.Errorf("%v", err)
	}
	if len(h.Find("web").Snapshots) > 0 {
		t.Error("something was done all the same")
	}
}

// The domain is undefined while it is worked on.
func TestADomainThatGoesAwayEndsItsRun(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		web.State = state
		h.Event = func(what string) error {
			if what == "end of drop-metadata" {
				h.Mu.Lock()
				h.Guests = nil
				h.Mu.Unlock()
			}
			return nil
		}
		r := rotator(h, rule(2))
		r.Options = coalesce()
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || !strings.Contains(p.Error, "the domain is gone") {
			t.Errorf("%s: %+v", state, p)
		}
	}
}
