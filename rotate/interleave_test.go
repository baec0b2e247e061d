package rotate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A baton lets one of several goroutines run at a time. Each hands it on at every event
// of the host and at every boundary between steps; a seed chooses who gets it.
type baton struct {
	mu      sync.Mutex // guards all below
	rng     *rand.Rand
	active  int // goroutines that have not ended
	blocked int // of them, those that wait for a lock
	waiting []chan struct{}
	turns   int
}

// hand waits until it is this goroutine's turn again.
func (b *baton) hand() {
	b.mu.Lock()
	if b.active == 0 {
		b.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	b.waiting = append(b.waiting, turn)
	b.next()
	b.mu.Unlock()
	<-turn
}

// next gives the baton to one of those that wait, once nobody has it.
func (b *baton) next() {
	if n := len(b.waiting); n > 0 && n+b.blocked == b.active {
		i := b.rng.IntN(n)
		b.turns++
		close(b.waiting[i])
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
}

// block is called by who waits for a lock, the returned function once he has it.
func (b *baton) block() func() {
	b.mu.Lock()
	b.blocked++
	b.next()
	b.mu.Unlock()
	return func() {
		b.mu.Lock()
		b.blocked--
		b.mu.Unlock()
		b.hand()
	}
}

func (b *baton) end() {
	b.mu.Lock()
	b.active--
	b.next()
	b.mu.Unlock()
}

// interleaved runs the rotation of n domains, one step of any of them at a time.
func interleaved(t *testing.T, h *hosttest.Host, r *Rotator, n int, seed uint64) map[string]decide.Plan {
	t.Helper()
	b := &baton{rng: rand.New(rand.NewPCG(seed, 7))}
	started := false
	h.Event = func(what string) error {
		if what == "end of domains" && !started { // all is planned: the domains start
			started, b.active = true, n
			return nil
		}
		if started {
			b.hand()
		}
		return nil
	}
	r.crash = func(string) { b.hand() }
	r.storages.blocked = b.block
	r.Ended = func(decide.Plan) { b.end() }
	r.Options.MaxParallel = n
	plans := runAll(h, t, r)
	h.Event, r.crash, r.storages.blocked, r.Ended = func(string) error { return nil }, nil, nil, nil
	if len(plans) != n {
		t.Fatalf("%d domains at work, want %d", len(plans), n)
	}
	if b.turns < 20*n {
		t.Fatalf("the baton was handed on %d times only", b.turns)
	}
	return plans
}

// crowd builds domains in one directory: clones and others, running and shut off, some of
// them with a branch that a restore has left.
func crowd(t *testing.T, seed uint64) (*hosttest.Host, *policy.Rule, int) {
	h := hosttest.New(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	r := rule(1 + rng.IntN(2))
	if rng.IntN(2) == 0 {
		h.CannotClone, r.Method = nil, policy.MethodGraft
	}
	h.Create("golden.qcow2", nil)
	h.Pictures[h.Img("golden.qcow2")] = h.Read(h.Img("golden.qcow2"))
	n := 2 + rng.IntN(3)
	for i := range n {
		d := h.Add(fmt.Sprintf("web%d", i))
		d.Agent = rng.IntN(2) == 0
		if rng.IntN(2) == 0 {
			h.Disk(d, "vda", "golden.qcow2", d.Name+".qcow2")
		} else {
			h.Disk(d, "vda", d.Name+".qcow2")
		}
		if rng.IntN(2) == 0 {
			h.Disk(d, "vdb", d.Name+"-data.qcow2")
		}
		h.Take(d, []int{6, 7, 8, 9})
		if i == 0 || rng.IntN(2) == 0 {
			goBack(h, t, d, hosttest.Name(6+rng.IntN(3)))
		}
		if rng.IntN(4) == 0 {
			d.State = host.ShutOff
		}
	}
	return h, r, n
}

// goBack restores a snapshot of the domain and starts it.
func goBack(h *hosttest.Host, t *testing.T, d *hosttest.Domain, snapshot string) {
	t.Helper()
	d.State = host.ShutOff
	p, err := rotator(h, rule(20)).Restore(context.Background(), d.Name, snapshot, decide.RestoreOptions{})
	if err != nil || p.Result != decide.ResultDone {
		t.Fatalf("%+v %v", p, err)
	}
	for target, state := range d.States[snapshot] {
		d.Want[target] = maps.Clone(state)
	}
	d.State = host.Running
	h.Write(d, "vda", 3)
}

// whole is all of what a run leaves, without the directory.
func whole(h *hosttest.Host, t *testing.T, plans map[string]decide.Plan) string {
	var out strings.Builder
	for _, d := range h.Guests {
		p := plans[d.Name]
		fmt.Fprintf(&out, "%s %s %s %v\n", d.Name, p.Result, h.Brief(p.Error), p.Refused)
		for _, line := range lines(h, t, p.Steps) {
			fmt.Fprintln(&out, "  ", line)
		}
		for i := range d.Disks {
			fmt.Fprintln(&out, "  ", d.Disks[i].Target, h.Short(host.Paths(d.Disks[i].Chain)))
		}
		for i := range d.Snapshots {
			s := &d.Snapshots[i]
			for _, sd := range s.Disks {
				fmt.Fprintln(&out, "  ", h.Brief(s.Name), s.Parent != "", sd.Target, h.Short(sd.State), blockLines(h, h.Read(sd.State[len(sd.State)-1])))
			}
		}
	}
	fmt.Fprintln(&out, h.Short(filesOf(h, t)))
	return out.String()
}

// Whatever order the steps of several domains take, each ends as if it had been alone.
func TestDomainsInParallelEndAsOneAfterTheOther(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			alone, r, _ := crowd(t, seed)
			one := rotator(alone, r)
			one.Options.MaxParallel = 1
			want := whole(alone, t, runAll(alone, t, one))
			checkDone(alone, t)
			for order := range uint64(4) {
				h, r, n := crowd(t, seed)
				have := whole(h, t, interleaved(t, h, rotator(h, r), n, order))
				checkDone(h, t)
				if have != want {
					t.Fatalf("order %d:\n%s\none after the other:\n%s", order, have, want)
				}
			}
		})
	}
}
