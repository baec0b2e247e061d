package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// Hosts merge into layers of one storage while members are killed at random: never into one that
// another host has told it uses, and each host gets its turns.
func TestMergesExcludeEachOtherWhileMembersDie(t *testing.T) {
	hosts, cycles := 20, 1000
	if n, err := strconv.Atoi(os.Getenv("VIRT_ROTATE_ETCD_CYCLES")); err != nil || n < cycles {
		hosts, cycles = 6, 60
	}
	c := etcdtest.Start(t, 3)
	mergeBeside(t, c, hosts, cycles, func(ctx context.Context) { killAtRandom(ctx, c) })
}

// mergeBeside lets hosts merge while there is trouble: two that exclude each other never do at the same time, and each cycle
// comes to its end.
func mergeBeside(t *testing.T, c *etcdtest.Cluster, hosts, cycles int, trouble func(context.Context)) {
	t.Helper()
	h := newHouse(t, c, hosts)
	m := &merging{limit: 3, bases: hosts}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); trouble(ctx) }()
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() { m.work(t, h.at(i), i, cycles/hosts) })
	}
	wg.Wait()
	cancel()
	<-over
	t.Logf("%d merges, %d given up because another host uses the layer, %d failures of the cluster, at most %d at a time", m.done.Load(), m.used.Load(), m.failed.Load(), m.most.Load())
	if m.done.Load()+m.used.Load() != int64(cycles/hosts*hosts) || m.most.Load() > int64(m.limit) || m.done.Load() < int64(cycles/10) || m.used.Load() < int64(cycles/10) || m.most.Load() < 2 {
		t.Error("not each cycle came to its end, or too many at a time, or nothing was excluded")
	}
}

// Disks of members hang, one at a time, and then two, for longer than a lease: that costs time alone.
func TestDisksOfMembersHang(t *testing.T) {
	cycles, most := 16, 4
	if os.Getenv("VIRT_ROTATE_ETCD_CYCLES") != "" {
		cycles, most = 100, 1000
	}
	c := etcdtest.StartOnDisks(t, 3)
	hung := 0
	mergeBeside(t, c, 4, cycles, func(ctx context.Context) {
		r := rand.New(rand.NewPCG(3, 4))
		for ; (ctx.Err() == nil || hung < 4) && hung < most; hung++ {
			i, both := r.IntN(3), hung%4 == 3
			c.Hang(i)
			if both {
				c.Hang((i + 1) % 3)
				time.Sleep(7 * time.Second)
				c.GoOn((i + 1) % 3)
			} else {
				time.Sleep(time.Duration(500+r.IntN(2000)) * time.Millisecond)
			}
			c.GoOn(i)
			c.Wait()
		}
	})
	t.Logf("disks hung %d times", hung)
}

// killAtRandom kills one member at a time, and lets it come back.
func killAtRandom(ctx context.Context, c *etcdtest.Cluster) {
	r := rand.New(rand.NewPCG(1, 2))
	for ctx.Err() == nil {
		i := r.IntN(3)
		if r.IntN(3) == 0 {
			c.Freeze(i)
			time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
			c.Thaw(i)
		} else {
			c.Kill(i)
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
			c.Run(i)
		}
		c.Wait()
	}
}

// merging counts what hosts do at the same time.
type merging struct {
	limit, bases       int
	now, most          atomic.Int64
	done, used, failed atomic.Int64
	mu                 sync.Mutex
	busy               map[string]int // layer: the host that merges into it
}

// work tells of a guest on one of the bases, and merges into that base unless another host has
// told that it uses it; then the guest goes on to the next.
func (m *merging) work(t *testing.T, s coord.Storage, me, cycles int) {
	r := rand.New(rand.NewPCG(uint64(me), 7))
	for n := 0; n < cycles; {
		base := fmt.Sprintf("base%d.qcow2", r.IntN(m.bases))
		what := coord.Told{Guests: []coord.Guest{{UUID: fmt.Sprint("u-", me), Name: fmt.Sprint("g", me), Layers: []coord.Layer{{Path: base}}}}}
		merged, err := m.cycle(t, s, me, base, what)
		switch {
		case err != nil:
			m.failed.Add(1)
			continue
		case merged:
			m.done.Add(1)
		default:
			m.used.Add(1)
		}
		n++
	}
}

func (m *merging) cycle(t *testing.T, s coord.Storage, me int, base string, what coord.Told) (merged bool, err error) {
	ctx := context.Background()
	if err := tellAt(s, m.clock(), what); err != nil {
		return false, err
	}
	slot, err := s.Take(ctx, m.limit)
	if err != nil {
		return false, err
	}
	defer slot.Release()
	v, err := s.View(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range v.Peers {
		if p.Problem != "" {
			return false, errors.New(p.Problem)
		}
		for _, g := range p.Told.Guests {
			if g.Layers[0].Path == base {
				return false, nil
			}
		}
	}
	if err := slot.Err(); err != nil {
		return false, err
	}
	m.merge(t, base, me)
	return true, nil
}

// clock is a host's, which jumps by up to a day at each look.
func (m *merging) clock() time.Time {
	return time.Now().Add(time.Duration(rand.Int64N(int64(48*time.Hour))) - 24*time.Hour)
}

// merge is at work on a layer for a moment.
func (m *merging) merge(t *testing.T, base string, me int) {
	m.mu.Lock()
	if m.busy == nil {
		m.busy = map[string]int{}
	}
	if other, is := m.busy[base]; is {
		t.Errorf("hosts %d and %d merge into %s at the same time", me, other, base)
	}
	m.busy[base] = me
	m.most.Store(max(m.most.Load(), m.now.Add(1)))
	m.mu.Unlock()
	m.together()
	m.now.Add(-1)
	m.mu.Lock()
	delete(m.busy, base)
	m.mu.Unlock()
}

// together merges for a moment, the first ones until two of them have met: short merges of a few
// hosts need not.
func (m *merging) together() {
	time.Sleep(30 * time.Millisecond)
	for end := time.Now().Add(10 * time.Second); m.most.Load() < 2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}
