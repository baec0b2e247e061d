package rotate

import (
	"context"
	"errors"
	"fmt"
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

// asking lets the two hosts tell each other by a store, on storage whose locks stay on each of them; those of asks have the
// hook that tells of starts.
func (p *pair) asking(store coord.Store, asks ...bool) {
	for i, r := range p.r {
		r.Observer.Fleet.Store, r.Observer.Fleet.Beat = store, 10*time.Millisecond
		r.Observer.Fleet.Asks = func() bool { return asks[i] }
		r.Observer.Probes.LocksStayLocal = func(string) (string, error) { return "the mount has the option nolock", nil }
	}
}

// starts is what libvirt's hook does on the second host before that guest starts: another process, with nothing but what
// lies in the state directory.
func (p *pair) starts(d *hosttest.Domain) error { return p.startsOn(1, d) }

func (p *pair) startsOn(i int, d *hosttest.Domain) error {
	run := p.r[i]
	p.boot(i)
	hook := p.r[i]
	hook.Observer.Fleet.Store, hook.Observer.Fleet.Visible, hook.Observer.Probes = run.Observer.Fleet.Store, run.Observer.Fleet.Visible, run.Observer.Probes
	p.r[i] = run
	as := d.Observed(nil)
	return hook.Observer.Starting(context.Background(), &as)
}

// hidden is a clone on a disk of the second host's own, as if it were still to be defined: nobody has seen it.
func (p *pair) hidden(t *testing.T, base string) *hosttest.Domain {
	own, err := filepath.Rel(p.h[1].Dir, filepath.Join(t.TempDir(), "clone.qcow2")) // a file system that no storage is on
	hosttest.Must(err)
	c := p.h[1].Add("clone")
	p.h[1].Disk(c, "vda", p.shared(base), own)
	p.h[1].Guests = slices.DeleteFunc(p.h[1].Guests, func(d *hosttest.Domain) bool { return d == c })
	return c
}

// Where locks stay on each host, merges go on once no guest starts without asking; else the host is named that does not ask.
func TestMergesGoOnWhereGuestsAskBeforeTheyStart(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		for name, asks := range map[string][]bool{"": {true, true}, "host2": {true, false}, "this host": {false, true}} {
			p, web := newPair(t, 9, 10, 11)
			web.State = state
			p.asking(&coordtest.Memory{}, asks...)
			p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
			p.run(t, 1)
			p.run(t, 0) // which tells that it asks
			ran := p.run(t, 0)["web"]
			if refused := refusedWith(ran, host.CodeLocalLocks); refused != (name != "") || refused == (merges(ran) > 0) || !strings.Contains(fmt.Sprint(ran.Refused), name) {
				t.Errorf("%s, %q: %+v", state, name, ran)
			}
			p.check(t)
		}
	}
}

// A guest on a clone that nobody has told of starts on the other host at any place of a run: it starts before, and is kept, or
// it does not start.
func TestAGuestStartsAtAnyPlaceOfAnothersMerge(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		started, held := 0, 0
		for place, over := 1, false; !over; place++ {
			p, web := newPair(t, 9, 10, 11)
			web.State = state
			p.asking(&coordtest.Memory{}, true, true)
			p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
			p.run(t, 1)
			p.run(t, 0)
			clone := p.hidden(t, "web.qcow2")
			n, came := 0, false
			p.r[0].crash = func(at string) {
				if n++; n != place {
					return
				}
				came = true
				var work *coord.WorkError
				switch err := p.starts(clone); {
				case err == nil:
					p.h[1].Guests = append(p.h[1].Guests, clone)
					started++
				case errors.As(err, &work) && work.Host == "host1" && work.Guest == "web":
					held++
				default:
					t.Fatalf("%s, place %d, %s: %v", state, place, at, err)
				}
				over = at == "after the end of the intent"
			}
			ran := p.run(t, 0)["web"]
			if !came {
				t.Fatalf("%s: no place %d", state, place)
			}
			if p.check(t); ran.Error != "" {
				t.Errorf("%s, place %d: %s", state, place, ran.Error)
			}
			if there := slices.Contains(p.h[1].Guests, clone); there == (merges(ran) > 0) || there && len(web.Snapshots) < 3 {
				t.Errorf("%s, place %d: the clone runs: %t; %v, %d snapshots", state, place, there, ran.Steps, len(web.Snapshots))
			}
			p.r[0].crash = nil
			if err := p.starts(clone); err != nil {
				t.Errorf("%s, place %d: nothing is merged, and it cannot start: %v", state, place, err)
			}
		}
		if started < 3 || held < 3 {
			t.Errorf("%s: started at %d places, not at %d", state, started, held)
		}
	}
}

// The host that merges dies at any place: what it was about holds starts back until it has finished that, or another host has taken
// the guest over.
func TestWhatADeadHostWasAboutHoldsStartsBack(t *testing.T) {
	held := 0
	for place := 1; ; place++ {
		p, web := newPair(t, 9, 10, 11)
		store := &coordtest.Memory{}
		p.asking(store, true, true)
		p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
		p.run(t, 1)
		p.run(t, 0)
		clone := p.hidden(t, "web.qcow2")
		before := pinned(p.h[0])
		if at := cut(p, place); at == "after the end of the intent" || at == "" {
			if at == "" {
				t.Error("it did not die at the end of the intent")
			}
			break
		}
		err := p.starts(clone)
		if err == nil && pinned(p.h[0]) != before {
			t.Errorf("place %d: the layers have changed, and the clone starts", place)
		}
		if err == nil {
			p.h[1].Guests = append(p.h[1].Guests, clone)
		} else {
			held++
		}
		p.boot(0)
		p.asking(store, true, true)
		first := true
		p.r[0].crash = func(at string) {
			if first && err != nil && p.starts(clone) == nil {
				t.Errorf("place %d: it was held back, and starts as the next run comes to %s", place, at)
			}
			first = false
		}
		p.run(t, 0)
		p.r[0].crash = nil
		p.check(t)
		if err := p.starts(clone); err != nil {
			t.Errorf("place %d: it cannot start after the next run: %v", place, err)
		}
		if web.State == host.Running && len(web.Snapshots) < 2 {
			t.Errorf("place %d: %d snapshots", place, len(web.Snapshots))
		}
	}
	if held < 3 {
		t.Errorf("held back at %d places", held)
	}
}

// cut lets the first host die at a place of its run, and tells what comes there.
func cut(p *pair, place int) (at string) {
	r, n := p.r[0], 0
	r.Observer.Fleet.Crash = func(here string) {
		if r.crash != nil {
			r.crash(here)
		}
	}
	die(p.h[0], r, func(here string) bool {
		if n++; n == place {
			at = here
		}
		return n == place
	})
	return at
}

// What is not known of a guest that starts may be anything; and a run tells of the others without forgetting it.
func TestAStartOutlivesARunThatDidNotSeeIt(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.asking(&coordtest.Memory{}, true, true)
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
	p.run(t, 1)
	p.run(t, 0)
	clone := p.hidden(t, "web.qcow2")
	hosttest.Must(p.starts(clone))
	p.run(t, 1) // libvirt has not begun with it
	if ran := p.run(t, 0)["web"]; merges(ran) > 0 || !hasStep(ran, decide.OpDropMetadata) || !strings.Contains(ran.Steps[0].Reason, "host2 has started") {
		t.Errorf("%+v %s", ran, ran.Steps[0].Reason)
	}
	p.h[1].Now = p.h[1].Now.Add(time.Hour)
	p.h[0].Now = p.h[0].Now.Add(time.Hour)
	p.run(t, 1) // it is not there any more
	if ran := p.run(t, 0)["web"]; merges(ran) != 1 {
		t.Errorf("%+v", ran)
	}
	as := clone.Observed(nil)
	as.Disks[0].Chain[len(as.Disks[0].Chain)-1].Path = filepath.Join(p.h[1].Dir, "gone.qcow2")
	clone.Disks = as.Disks
	hosttest.Must(p.starts(clone))
	w, err := p.r[0].Observer.Observe(context.Background())
	hosttest.Must(err)
	if s := w.Shares[0]; !strings.Contains(s.Problem, "host2 has started guest clone") || s.Locks || s.Remedy == "" {
		t.Errorf("%+v", s)
	}
}

// A block device that a guest on another host has been started on since that was heard last: no lock tells.
func TestAStartOnABlockDeviceIsKnown(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	store := &coordtest.Memory{}
	p.onDevices(store, "wwn:1", "wwn:1")
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("web.qcow2"))
	p.h[1].Guests = nil
	p.run(t, 1)
	clone := p.hidden(t, "web.qcow2")
	for _, r := range p.r {
		r.Observer.Fleet.Asks = func() bool { return true }
	}
	hosttest.Must(p.starts(clone))
	if ran := p.run(t, 0)["web"]; merges(ran) > 0 {
		t.Errorf("%+v", ran)
	}
}

// askingPair has a guest that is off on the first host, both hosts on record, and a clone on the second that nobody has seen.
func askingPair(t *testing.T) (p *pair, web, clone *hosttest.Domain, store coord.Store) {
	p, web = newPair(t, 9, 10, 11)
	web.State = host.ShutOff
	store = &coordtest.Memory{}
	p.asking(store, true, true)
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
	p.run(t, 1)
	p.run(t, 0)
	return p, web, p.hidden(t, "web.qcow2"), store
}

// The hook's file is touched while a run is at work: what is merged is told all the same.
func TestWhatIsMergedIsToldWhateverBecomesOfTheHook(t *testing.T) {
	p, _, clone, _ := askingPair(t)
	p.r[0].crash = func(at string) {
		switch at {
		case "before the intent":
			p.r[0].Observer.Fleet.Asks = func() bool { return false }
		case "merge starts":
			if p.starts(clone) == nil {
				t.Error("it starts on what is merged")
			}
		}
	}
	if ran := p.run(t, 0)["web"]; merges(ran) != 1 {
		t.Errorf("%+v", ran)
	}
	p.check(t)
}

// What a run that was cut off has left half merged holds starts back also once the host does not ask any more.
func TestHalfAMergeIsToldWhateverBecomesOfTheHook(t *testing.T) {
	p, _, clone, store := askingPair(t)
	if !dieAt(p.h[0], p.r[0], "merged, not on record") {
		t.Fatal("it did not die")
	}
	p.boot(0)
	p.asking(store, false, true)
	if ran := p.run(t, 0)["web"]; !refusedWith(ran, host.CodeLocalLocks) {
		t.Errorf("%+v", ran)
	}
	if p.starts(clone) == nil {
		t.Error("it starts on what is half merged")
	}
	p.asking(store, true, true)
	p.run(t, 0)
	p.run(t, 0)
	p.check(t)
	if err := p.starts(clone); err != nil {
		t.Error(err)
	}
}

// A guest whose layers its owner merges is made another host's only by the word that this one is down; then it may start.
func TestAGuestThatIsBeingMergedIsNotAdopted(t *testing.T) {
	p, web, clone, _ := askingPair(t)
	dieAt(p.h[0], p.r[0], "merge starts")
	mine := p.as(web)
	if p.starts(mine) == nil {
		t.Error("it starts while the other host merges its layers")
	}
	if plan, err := p.r[1].TakeOver(context.Background(), "web", "", false); err != nil || plan.Result != decide.ResultRefused || !strings.Contains(fmt.Sprint(plan.Refused), "about to merge") {
		t.Errorf("%+v %v", plan, err)
	}
	tookOver(t, p, 1, "host1")
	if err := p.starts(mine); err != nil {
		t.Error(err)
	}
	if p.starts(clone) == nil {
		t.Error("a clone starts on what may be half merged")
	}
}

// A merge that gives way to a start holds nothing back; nor does what a dead host has started hold back who has taken its guest over.
func TestNothingIsHeldBackForNothing(t *testing.T) {
	p, _, clone, _ := askingPair(t)
	other := p.hidden(t, "web.qcow2")
	p.r[0].crash = func(at string) {
		if at == "before the intent" {
			hosttest.Must(p.starts(clone))
		}
	}
	plans, err := p.r[0].Run(context.Background(), []string{"web"})
	if hosttest.Must(err); merges(plans[0]) > 0 {
		t.Errorf("%+v", plans)
	}
	if err := p.starts(other); err != nil {
		t.Error(err)
	}

	p, web, _, _ := askingPair(t)
	hosttest.Must(p.startsOn(0, web))
	p.as(web)
	tookOver(t, p, 1, "host1")
	if ran := p.run(t, 1)["web"]; merges(ran) != 1 {
		t.Errorf("%+v", ran)
	}
	checkData(p.h[1], t) // the definition on the first one is an old one
}
