package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/coordtest"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A pair is two hosts. The directory img of the first is a storage of both; the second has
// one of its own, too.
type pair struct {
	h [2]*hosttest.Host
	r [2]*Rotator
}

// newPair has a domain web on the first host, with snapshots of these hours.
func newPair(t *testing.T, hours ...int) (*pair, *hosttest.Domain) {
	p := &pair{h: [2]*hosttest.Host{hosttest.New(t), hosttest.New(t)}}
	web := p.h[0].Add("web")
	one(hours...)(p.h[0], web)
	p.boot(0)
	p.boot(1)
	return p, web
}

// boot makes a rotator that remembers nothing but what is on disk.
func (p *pair) boot(i int) {
	r := rotator(p.h[i], rule(2))
	r.Options = coalesce()
	r.Mover = p.h[i]
	r.Observer.Clock = p.h[i].Clock
	r.Observer.Fleet = &coord.Fleet{StateDir: r.Observer.StateDir, Shared: []string{filepath.Join(p.h[0].Dir, "img")},
		Name: fmt.Sprintf("host%d", i+1), Clock: p.h[i].Clock, Beat: 200 * time.Millisecond, Wait: 10 * time.Second}
	p.r[i] = r
}

// shared is the name that the second host has for an image of the storage.
func (p *pair) shared(name string) string {
	rel, err := filepath.Rel(p.h[1].Dir, p.h[0].Img(name))
	hosttest.Must(err)
	return rel
}

// clone gives the second host a guest on an image of its own disk that builds on the storage's.
func (p *pair) clone(base string) *hosttest.Domain {
	other := p.h[1].Add("other-clone")
	p.h[1].Disk(other, "vda", p.shared(base), "clone.qcow2")
	return other
}

func (p *pair) run(t *testing.T, i int) map[string]decide.Plan {
	t.Helper()
	return runAll(p.h[i], t, p.r[i])
}

// as lets the second host have the domain of the first, as it is now.
func (p *pair) as(web *hosttest.Domain) *hosttest.Domain {
	copied := &hosttest.Domain{Domain: web.Observed(nil), Want: web.Want, States: web.States, Deleted: map[string]bool{}}
	p.h[1].Guests = append(p.h[1].Guests, copied)
	return copied
}

func (p *pair) check(t *testing.T) {
	t.Helper()
	for _, h := range p.h {
		checkData(h, t)
	}
}

func refusedWith(p decide.Plan, code string) bool {
	return slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == code })
}

func merges(p decide.Plan) int {
	return len(slices.DeleteFunc(slices.Clone(p.Steps), func(s decide.Step) bool { return s.Op != decide.OpMerge }))
}

// Whatever another host builds on a layer, and wherever it has it: the layer stays as it is.
func TestABaseOfAnotherHostsGuestIsKept(t *testing.T) {
	for name, build := range map[string]func(p *pair){
		"a clone on its own disk": func(p *pair) { p.clone("web.qcow2") },
		"a clone that is off":     func(p *pair) { p.clone("web.qcow2").State = host.ShutOff },
		"a clone of which the XML lists the top only": func(p *pair) {
			c := p.clone("web.qcow2")
			c.State, c.Cut = host.ShutOff, true
		},
		"a disk that it has after a restart": func(p *pair) {
			p.h[1].Picture("later.qcow2", p.shared("web.qcow2"))
			delete(p.h[1].Pictures, p.h[1].Img("later.qcow2"))
			other := p.h[1].Add("other")
			p.h[1].Disk(other, "vda", "own.qcow2")
			other.Elsewhere = []string{p.h[1].Img("later.qcow2")}
		},
		"a snapshot's state": func(p *pair) {
			other := p.h[1].Add("other")
			p.h[1].Disk(other, "vda", "own.qcow2")
			other.Snapshots = []host.Snapshot{{Name: "mine", Disks: []host.SnapshotDisk{{Target: "vdz", State: []string{p.h[0].Img("web.qcow2")}}}}}
		},
		"an image of nobody on its own disk": func(p *pair) {
			p.h[1].Disk(p.h[1].Add("other"), "vda", "own.qcow2")
			p.h[1].Picture("template.qcow2", p.shared("web.qcow2"))
		},
	} {
		for _, state := range []host.State{host.Running, host.ShutOff} {
			t.Run(name+", web "+string(state), func(t *testing.T) {
				p, web := newPair(t, 9, 10, 11)
				web.State = state
				build(p)
				p.run(t, 1)
				before := pinned(p.h[0])
				planned := planOf(p.h[0], t, p.r[0], "web")
				ran := p.run(t, 0)["web"]
				if merges(planned)+merges(ran) > 0 || pinned(p.h[0]) != before {
					t.Errorf("planned %v, did %v", planned.Steps, ran.Steps)
				}
				if !slices.Equal(lines(p.h[0], t, planned.Steps), lines(p.h[0], t, ran.Steps)) {
					t.Errorf("planned %v, did %v", planned.Steps, ran.Steps)
				}
				told := fmt.Sprint(ran.Refused)
				for _, s := range ran.Steps {
					told += s.Reason
				}
				if !strings.Contains(told, "host2") {
					t.Errorf("not told: %s", told)
				}
				checkData(p.h[0], t)
			})
		}
	}
}

// A host alone does all that it does on storage of its own.
func TestAHostAloneOnSharedStorageMerges(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		p, web := newPair(t, 9, 10, 11)
		web.State = state
		planned := planOf(p.h[0], t, p.r[0], "web")
		ran := p.run(t, 0)["web"]
		if ran.Result != decide.ResultDone || merges(ran) != 1 || !slices.Equal(lines(p.h[0], t, planned.Steps), lines(p.h[0], t, ran.Steps)) {
			t.Errorf("%s: planned %v, did %+v", state, planned.Steps, ran)
		}
		p.check(t)
		p.boot(0)
		hosttest.Must(os.Remove(filepath.Join(p.h[0].Dir, "state", "host.json"))) // the state is lost
		if again := p.run(t, 0)["web"]; again.Result != decide.ResultNothing || len(again.Refused) > 0 {
			t.Errorf("%s: %+v", state, again)
		}
	}
}

func TestStorageOfOneHostIsNotWrittenTo(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.r[0].Observer.Fleet.Shared = nil
	p.run(t, 0)
	for _, path := range []string{"img/.virt-rotate", "state/host.json"} {
		if _, err := os.Lstat(filepath.Join(p.h[0].Dir, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A host comes with a guest on the base at every place of another's run. Before the merge
// begins that keeps the base; what it finds afterwards stays where it is.
func TestAHostComesAtAnyPlaceOfAnothersRun(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		for place := 1; ; place++ {
			p, web := newPair(t, 9, 10, 11)
			web.State = state
			clone := p.clone("web.qcow2")
			clone.State = host.ShutOff
			n, began, came := 0, false, false
			p.r[0].crash = func(at string) {
				began = began || at == "merge starts"
				if n++; n == place && !began {
					came = true
					p.run(t, 1)
				}
			}
			ran := p.run(t, 0)["web"]
			if !came {
				if place < 5 {
					t.Fatalf("only %d places", place)
				}
				break
			}
			if merges(ran) > 0 || ran.Error != "" {
				t.Fatalf("%s, place %d: %v; %s", state, place, ran.Steps, ran.Error)
			}
			p.check(t)
			if refused := len(ran.Refused) > 0; refused && len(web.Snapshots) != 3 {
				t.Errorf("%s, place %d: refused, and %d snapshots are left", state, place, len(web.Snapshots))
			}
			p.r[0].crash = nil
			if again := p.run(t, 0)["web"]; again.Error != "" || merges(again) > 0 {
				t.Errorf("%s, place %d, then: %+v", state, place, again)
			}
			p.check(t)
		}
	}
}

// The layer that goes gets a user on another host while the merge runs: it is not deleted.
func TestALayerThatAnotherHostUsesIsNotDeleted(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	top := "web." + hosttest.Name(9) + ".qcow2"
	p.r[0].crash = func(at string) {
		if at == "merge is over" {
			p.clone(top)
			p.run(t, 1)
		}
	}
	ran := p.run(t, 0)["web"]
	if _, err := os.Stat(p.h[0].Img(top)); err != nil || merges(ran) != 1 || !strings.Contains(ran.Error, "host2") {
		t.Errorf("%v; %+v", err, ran)
	}
}

// What a host uses is not known: nothing is merged until it is, and plan, doctor and status say so.
func TestAHostThatIsNotHeardKeepsAll(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		do   func(p *pair)
	}{
		"silent":       {host.CodeHosts, func(p *pair) { p.h[0].Now = p.h[0].Now.Add(8 * 24 * time.Hour) }},
		"of to-morrow": {host.CodeHosts, func(p *pair) { p.h[0].Now = p.h[0].Now.Add(-time.Hour) }},
		"damaged":      {host.CodeHosts, func(p *pair) { hosttest.Must(os.Truncate(usersOf(p, 1), 3)) }},
		"in doubt": {host.CodeHosts, func(p *pair) {
			p.h[1].Guests[0].Unknown = []string{"volume x of pool y"}
			_, err := p.r[1].Run(context.Background(), nil)
			hosttest.Must(err)
		}},
		"not seen": {host.CodeLocalLocks, func(p *pair) {
			leave := p.r[1].Observer.Fleet.Enter(context.Background())
			p.r[0].Observer.Fleet.Blind = true
			_, err := p.r[0].Run(context.Background(), []string{})
			hosttest.Must(err)
			leave()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, web := newPair(t, 9, 10, 11)
			p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
			p.run(t, 1)
			c.do(p)
			before := pinned(p.h[0])
			planned := planOf(p.h[0], t, p.r[0], "web")
			ran := p.run(t, 0)["web"]
			if !refusedWith(planned, c.code) || !refusedWith(ran, c.code) || merges(ran) > 0 || pinned(p.h[0]) != before || len(web.Snapshots) != 3 {
				t.Errorf("planned %+v\nran %+v", planned, ran)
			}
			w, err := p.r[0].Observer.Observe(context.Background())
			hosttest.Must(err)
			found := decide.Diagnose(w, nil, p.r[0].Match(decide.Guests(w)), p.h[0].Now)
			if !slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == c.code && f.Remedy != "" }) {
				t.Errorf("doctor: %+v", found)
			}
		})
	}
}

func usersOf(p *pair, place int) string {
	found, err := filepath.Glob(filepath.Join(p.h[0].Dir, "img", coord.Subdirectory, fmt.Sprintf("users-%d-*", place-1)))
	hosttest.Must(err)
	return found[0]
}

func TestAHostThatIsForgottenIsNotWaitedFor(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
	p.run(t, 1)
	p.h[0].Now = p.h[0].Now.Add(8 * 24 * time.Hour)
	if ran := p.run(t, 0)["web"]; merges(ran) > 0 {
		t.Fatalf("%+v", ran)
	}
	for _, s := range p.r[0].Observer.Fleet.All() {
		hosttest.Must(s.Forget(context.Background(), "host2"))
	}
	if ran := p.run(t, 0)["web"]; merges(ran) != 1 {
		t.Errorf("%+v", ran)
	}
}

// As many hosts merge at the same time as there are slots; who waits decides anew.
func TestAMergeWaitsForASlotOfTheStorage(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
	p.run(t, 1)
	dir := filepath.Join(p.h[0].Dir, "img")
	for _, r := range p.r {
		r.Observer.Fleet.Slots = 1
	}
	slot, err := p.r[1].Observer.Fleet.Take(context.Background(), dir)
	hosttest.Must(err)
	soon, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	plans, err := p.r[0].Run(soon, nil)
	if err != nil || merges(plans[0]) > 0 {
		t.Fatalf("%+v %v", plans, err)
	}
	slot.Release()
	p.boot(0)
	if ran := p.run(t, 0)["web"]; merges(ran) != 1 {
		t.Errorf("%+v", ran)
	}
	p.check(t)
}

// What other hosts see of a run: those of single guests do not count.
func TestOthersAreToldHowARunHasEnded(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.clone("web.qcow2")
	p.run(t, 1)
	p.run(t, 0)
	before := p.r[0].Clock()
	_, err := p.r[0].Run(context.Background(), []string{"web"})
	hosttest.Must(err)
	v, err := p.r[1].Observer.Fleet.All()[0].View(context.Background())
	hosttest.Must(err)
	if ran := v.Peers[0].Told.Ran; ran == nil || ran.End.After(before) || ran.Domains != 1 || ran.Failed != 0 {
		t.Errorf("%+v", ran)
	}
}

// A slot is lost in the middle of a merge: the run stops behind it, says so, and the next one does the rest.
func TestASlotThatIsLostEndsTheRunAtItsNextBoundary(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.clone("other.qcow2")
	store := &coordtest.Memory{Lost: errors.New("its lease has ended")}
	for _, r := range p.r {
		r.Observer.Fleet.Store = store
	}
	p.run(t, 1)
	plans, err := p.r[0].Run(context.Background(), nil)
	hosttest.Must(err)
	if ran := plans[0]; ran.Result != decide.ResultFailed || !strings.Contains(ran.Error, "its lease has ended") || hasStep(ran, decide.OpDeleteFile) {
		t.Errorf("%+v", ran)
	}
	p.check(t)
	store.Lost = nil
	p.boot(0)
	p.r[0].Observer.Fleet.Store = store
	if ran := p.run(t, 0)["web"]; len(ran.Refused) > 0 || ran.Error != "" || !hasStep(ran, decide.OpDeleteFile) {
		t.Errorf("%+v", ran)
	}
	p.check(t)
}

func hasStep(p decide.Plan, op decide.Op) bool {
	return slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == op })
}
