package rotate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// dieAt runs r until it reaches a place, where it dies: nothing of it runs any
// more. It tells whether the place was reached.
func dieAt(h *hosttest.Host, r *Rotator, place string) bool {
	return die(h, r, func(at string) bool { return at == place })
}

// die runs r until at says that it is to die, at an event of the host or at a
// boundary between steps. It tells whether it did.
func die(h *hosttest.Host, r *Rotator, at func(place string) bool) bool {
	return dieWith(h, r, func() { _, _ = r.Run(context.Background(), nil) }, at)
}

// dieWith is die for whatever else r does.
func dieWith(h *hosttest.Host, r *Rotator, do func(), at func(place string) bool) bool {
	var mu sync.Mutex
	dead := false
	check := func(place string) {
		mu.Lock()
		dead = dead || place != "end of domains" && at(place) // a look has no effect to die after
		now := dead
		mu.Unlock()
		if now {
			runtime.Goexit()
		}
	}
	alive := h.Event
	h.Event = func(what string) error { check(what); return nil }
	r.crash = check
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
	h.Event, r.crash = alive, nil
	return dead
}

// A crashScene is a host on which a run dies, and the policy that it follows.
type crashScene struct {
	name    string
	build   func(h *hosttest.Host)
	rule    *policy.Rule
	options decide.Options
	places  int // at least so many places at which to die
}

func crashScenes() []crashScene {
	return append(handScenes(), []crashScene{
		{"snapshot and one merge", func(h *hosttest.Host) { one(9, 10, 11)(h, h.Add("web")) }, rule(2), decide.Options{}, 50},
		{"two disks, neighbours", func(h *hosttest.Host) {
			web := h.Add("web")
			web.Agent = true
			h.Disk(web, "vda", "web.qcow2")
			h.Disk(web, "vdb", "data.raw")
			h.Take(web, []int{8}, "vda")
			h.Take(web, []int{9, 10, 11})
		}, rule(1), decide.Options{}, 70},
		{"shut off", func(h *hosttest.Host) {
			web := h.Add("web")
			one(9, 10, 11)(h, web)
			web.State = host.ShutOff
		}, rule(1), decide.Options{}, 50},
		{"shut off, nothing is kept", func(h *hosttest.Host) {
			web := h.Add("web")
			one(9, 10, 11)(h, web)
			h.Disk(web, "vdb", "data.raw")
			h.Take(web, []int{12}, "vdb")
			web.State = host.ShutOff
		}, with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }), decide.Options{}, 40},
		{"shut off, pulled up", func(h *hosttest.Host) {
			web := h.Add("web")
			one(7, 8, 9, 10, 11)(h, web)
			for i, at := range []time.Duration{0, 1, 2, 3, 4} {
				web.Snapshots[i].Time = hosttest.Hour(1).Add(at * 30 * time.Minute)
			}
			web.State = host.ShutOff
		}, with(rule(1), func(r *policy.Rule) { r.Keep, r.Method = policy.Keep{Last: 1, Hourly: 10}, policy.MethodPull }), decide.Options{}, 40},
		{"shut off, detached", func(h *hosttest.Host) {
			golden(h)
			h.Find("web").State = host.ShutOff
		}, with(rule(7), func(r *policy.Rule) { r.Detach = true }), decide.Options{}, 15},
		{"detached", golden, with(rule(7), func(r *policy.Rule) { r.Detach = true }), decide.Options{}, 15},
		{"grafted", func(h *hosttest.Host) {
			h.CannotClone = nil
			one(9, 10, 11)(h, h.Add("web"))
		}, with(rule(2), func(r *policy.Rule) { r.Method = policy.MethodGraft }), decide.Options{}, 60},
		{"grafted, two disks, separate ones", func(h *hosttest.Host) {
			h.CannotClone = nil
			web := h.Add("web")
			h.Disk(web, "vda", "web.qcow2")
			h.Disk(web, "vdb", "data.raw")
			h.Take(web, []int{7, 8, 9, 10, 11})
			for i, at := range []time.Duration{0, 1, 2, 3, 4} {
				web.Snapshots[i].Time = hosttest.Hour(1).Add(at * 30 * time.Minute)
			}
		}, with(rule(1), func(r *policy.Rule) { r.Keep, r.Method = policy.Keep{Last: 1, Hourly: 10}, policy.MethodGraft }), decide.Options{}, 60},
		{"nothing is kept", func(h *hosttest.Host) { one(9, 10, 11)(h, h.Add("web")) },
			with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }), decide.Options{}, 30},
		{"nothing is kept, on a raw base", func(h *hosttest.Host) {
			web := h.Add("web")
			h.Disk(web, "vda", "web.raw")
			h.Disk(web, "vdb", "data.raw")
			h.Take(web, []int{9, 10, 11})
		}, with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }), decide.Options{}, 40},
		{"separate ones", func(h *hosttest.Host) {
			web := h.Add("web")
			one(7, 8, 9, 10, 11)(h, web)
			for i, at := range []time.Duration{0, 1, 2, 3, 4} {
				web.Snapshots[i].Time = hosttest.Hour(1).Add(at * 30 * time.Minute)
			}
		}, with(rule(1), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1, Hourly: 10} }), coalesce(), 50},
		{"libvirt went back", func(h *hosttest.Host) { runsOn(h, reverted(h, 9)) }, rule(2), decide.Options{}, 60},
		{"libvirt went back to the newest", func(h *hosttest.Host) { runsOn(h, reverted(h, 11)) }, rule(1), decide.Options{}, 60},
		{"foreign snapshots and clones", func(h *hosttest.Host) {
			web := h.Add("web")
			h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
			h.Take(web, []int{7, 8})
			h.Foreign(web, "mine", 9)
			h.Take(web, []int{10, 11})
			h.Disk(h.Add("other"), "vda", "golden.qcow2", "clone.qcow2")
			h.Picture("template.qcow2", "web.qcow2")
		}, rule(1), decide.Options{}, 50},
	}...)
}

// runsOn starts a guest, which writes.
func runsOn(h *hosttest.Host, d *hosttest.Domain) {
	d.State = host.Running
	h.Write(d, "vda", 3)
	h.Write(d, "vdb", 3)
}

// golden has a guest with snapshots on an image that another one uses, too.
func golden(h *hosttest.Host) {
	web := h.Add("web")
	h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	h.Disk(h.Add("other"), "vda", "golden.qcow2", "clone.qcow2")
}

func (s *crashScene) host(t *testing.T, seed uint64) (*hosttest.Host, *Rotator) {
	h := hosttest.New(t)
	s.build(h)
	h.Writes = rand.New(rand.NewPCG(seed, 0))
	r := rotator(h, s.rule)
	r.Options = s.options
	return h, r
}

// The central property: wherever a run dies, no guest, no snapshot and no
// other image reads differently, and the next runs finish.
func TestARunThatDiesAnywhereLosesNothingAndIsFinished(t *testing.T) {
	fates := []string{hosttest.JobsGoOn, hosttest.JobsDie, hosttest.JobsFinish}
	for i, s := range crashScenes() {
		for k, fate := range fates {
			t.Run(s.name+", "+fate, func(t *testing.T) {
				t.Parallel()
				h, r := s.host(t, 0)
				runAll(h, t, r)
				want := shapeOf(h)
				first, step := thorough(len(fates), i+k) // so that each place has one of the fates
				n := first
				for ; s.dies(t, n, fate, want); n += step {
				}
				if n <= s.places {
					t.Errorf("only %d places to die at: is a hook broken?", n-1)
				}
			})
		}
	}
}

// thorough is the first place to try, and how many lie between two: make crash tries all, and else each step-th is, from another
// one on for another i.
func thorough(step, i int) (first, between int) {
	if os.Getenv("VIRT_ROTATE_CRASH_STATES") != "" {
		return 1, 1
	}
	return 1 + i%step, step
}

// dies lets a run die at place n and checks what follows; it tells whether
// there was such a place.
func (s *crashScene) dies(t *testing.T, n int, fate, want string) bool {
	t.Helper()
	h, r := s.host(t, uint64(n))
	at, count := "", 0
	if !die(h, r, func(place string) bool { count++; at = place; return count == n }) {
		return false
	}
	h.AfterCrash(fate)
	checkData(h, t)
	finishes(h, t, s.rule, s.options)
	checkDone(h, t)
	if have := shapeOf(h); have != want {
		t.Errorf("place %d, %q:\n%s\nwithout a crash:\n%s", n, at, have, want)
	}
	if t.Failed() {
		t.Fatalf("place %d, %q", n, at)
	}
	return true
}

// finishes runs until nothing is left to do.
func finishes(h *hosttest.Host, t *testing.T, r *policy.Rule, o decide.Options) {
	t.Helper()
	for range 4 {
		rotator := rotator(h, r)
		rotator.Options = o
		idle := true
		for _, p := range runAll(h, t, rotator) {
			if p.Error != "" || len(p.Refused) > 0 {
				t.Errorf("after the crash: %s %+v", p.Error, p.Refused)
			}
			idle = idle && len(p.Steps) == 0
		}
		checkData(h, t)
		if idle {
			return
		}
	}
	t.Error("the runs never end")
}

// shapeOf tells which snapshots there are, how long the chains, and whether guests run.
func shapeOf(h *hosttest.Host) string {
	text := ""
	for _, d := range h.Guests {
		text += string(d.State) + " "
		for i := range d.Snapshots {
			text += d.Snapshots[i].Name + " "
		}
		for i := range d.Disks {
			text += fmt.Sprintf("%s:%d ", d.Disks[i].Target, len(d.Disks[i].Chain))
		}
	}
	return h.Brief(text)
}

// Runs that die again and again, at random places, lose nothing either.
func TestRunsThatDieRepeatedlyLoseNothing(t *testing.T) {
	fates := []string{hosttest.JobsGoOn, hosttest.JobsDie, hosttest.JobsFinish}
	for i, s := range crashScenes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(12) {
				h, r := s.host(t, seed)
				chance := rand.New(rand.NewPCG(seed, uint64(i)))
				for range 5 {
					left := 1 + chance.IntN(60)
					if !die(h, r, func(string) bool { left--; return left == 0 }) {
						break
					}
					h.AfterCrash(fates[chance.IntN(3)])
					checkData(h, t)
				}
				finishes(h, t, s.rule, s.options)
				checkDone(h, t)
			}
		})
	}
}
