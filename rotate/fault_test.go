package rotate

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// threeDomains are a, b and c with three snapshots each.
func threeDomains(t *testing.T) *hosttest.Host {
	h := hosttest.New(t)
	for _, n := range []string{"a", "b", "c"} {
		d := h.Add(n)
		d.Agent = true
		h.Disk(d, "vda", n+".qcow2")
		h.Take(d, []int{9, 10, 11})
	}
	return h
}

// A drive without a medium is no matter.
func TestDrivesWithoutAMediumAreNoMatter(t *testing.T) {
	for _, device := range []string{"cdrom", "floppy"} {
		for _, state := range []host.State{host.Running, host.ShutOff} {
			h := hosttest.New(t)
			web := h.Add("web")
			web.State = state
			web.Disks = append(web.Disks, host.Disk{Target: "hda", Device: device, ReadOnly: device == "cdrom"})
			h.Disk(web, "vda", "web.qcow2")
			h.Take(web, []int{9, 10, 11}, "vda")
			p := runAll(h, t, rotator(h, rule(1)))["web"]
			if p.Result != decide.ResultDone || p.Error != "" {
				t.Errorf("%s, %s: %+v", device, state, p)
			}
			w := see(h, t)
			Status(w, w.Domain("web"), rule(1), nil, hosttest.Hour(12))
			if found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)); slices.ContainsFunc(found, func(f decide.Finding) bool { return !f.Note }) {
				t.Errorf("%s, %s: %+v", device, state, found)
			}
			if len(w.Faults) > 0 {
				t.Errorf("%s, %s: %v", device, state, w.Faults)
			}
		}
	}
}

// A fault in the work on one domain is that domain's: the others are rotated.
func TestAFaultInOneDomainIsItsOwn(t *testing.T) {
	places := []string{"call domains", "quiesced snapshot", "call drop-metadata", "block of merge", "call redefine", "before delete-file", "overlays made"}
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			h := threeDomains(t)
			r := rotator(h, rule(2))
			var mu sync.Mutex
			working, stacks := "", 0
			r.Options.MaxParallel = 1
			r.Report = func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Kind != EventFault {
					working = e.Domain
				}
				if e.Kind == EventFault && strings.Contains(e.Text, "goroutine") && e.Domain == "b" {
					stacks++
				}
			}
			fault := func(at string) {
				mu.Lock()
				now := working == "b" && strings.HasSuffix(at, place)
				if now {
					working = ""
				}
				mu.Unlock()
				if now {
					panic("a fault at " + at)
				}
			}
			h.Event = func(what string) error { fault(what); return nil }
			r.crash = fault
			plans := runAll(h, t, r)
			if p := plans["b"]; p.Result != decide.ResultFailed || !strings.Contains(p.Error, "a fault at") || stacks == 0 {
				t.Errorf("b: %+v, told %d times", p, stacks)
			}
			for _, other := range []string{"a", "c"} {
				if p := plans[other]; p.Result != decide.ResultDone {
					t.Errorf("%s: %+v", other, p)
				}
			}
			if place == "quiesced snapshot" && h.Thawed == 0 {
				t.Error("the guest was not thawed")
			}
			checkData(h, t)
			h.Event = func(string) error { return nil }
			h.AfterCrash(hosttest.JobsDie)
			finishes(h, t, rule(2), decide.Options{})
			checkDone(h, t)
		})
	}
}

// A fault in looking at a domain, or in deciding, is told, and all that the domain names
// is left alone.
func TestAFaultInLookingIsTheDomains(t *testing.T) {
	h := threeDomains(t)
	r := rotator(h, rule(2))
	inspect, active := r.Observer.Inspect, h.Find("b").Disks[0].Active().Path
	r.Observer.Inspect = func(path, format string) (chain.Image, error) {
		if path == active && format != "" {
			panic("in looking")
		}
		return inspect(path, format)
	}
	told := 0
	r.Report = func(e Event) {
		if e.Kind == EventFault {
			told++
		}
	}
	plans := runAll(h, t, r)
	if p := plans["b"]; p.Result != decide.ResultRefused || !strings.Contains(p.Refused[0].Detail, "a fault of virt-rotate") || told == 0 {
		t.Errorf("%+v, told %d times", p, told)
	}
	if plans["a"].Result != decide.ResultDone || plans["c"].Result != decide.ResultDone {
		t.Errorf("%+v", plans)
	}
	w, err := r.Observer.Observe(t.Context())
	hosttest.Must(err)
	if found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)); len(found) != 1 || found[0].Domain != "b" {
		t.Errorf("%+v", found)
	}
	checkData(h, t)
}
