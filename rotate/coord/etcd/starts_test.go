package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// Hosts start guests on layers of one storage, and merge into them, while members are killed at random: never both at the
// same time, though no lock tells one of the other.
func TestNoGuestStartsOnWhatIsBeingMergedWhileMembersDie(t *testing.T) {
	hosts, cycles := 6, 10
	c := etcdtest.Start(t, 3)
	h := newHouse(t, c, hosts)
	s := &starting{merging: map[string]int{}, running: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); killAtRandom(ctx, c) }()
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() { s.work(t, h.at(i), i, cycles) })
	}
	wg.Wait()
	cancel()
	<-over
	t.Logf("%d merges, %d given up for a start; %d starts, %d held back; %d failures of the cluster", s.merged.Load(), s.gaveUp.Load(), s.started.Load(), s.held.Load(), s.failed.Load())
	if s.merged.Load() < 3 || s.gaveUp.Load() < 1 || s.started.Load() < 3 || s.held.Load() < 1 {
		t.Error("one of the ways was not met")
	}
}

// starting counts what is done with each layer at the same time.
type starting struct {
	merged, gaveUp, started, held, failed atomic.Int64

	mu               sync.Mutex // guards what follows
	merging, running map[string]int
}

// work starts guests on a host of an odd number, and merges on the others, until each has had its turns.
func (s *starting) work(t *testing.T, at coord.Storage, me, cycles int) {
	r := rand.New(rand.NewPCG(uint64(me), 11))
	do := s.merge
	if me%2 == 1 {
		do = s.start
	}
	for n := 0; n < cycles; {
		if err := do(t, at, me, fmt.Sprintf("base%d.qcow2", r.IntN(2))); err != nil {
			s.failed.Add(1)
			continue
		}
		n++
	}
}

func (s *starting) merge(t *testing.T, at coord.Storage, me int, layer string) error {
	ctx := context.Background()
	if err := tellAt(at, time.Now(), coord.Told{Merging: []coord.Work{{UUID: fmt.Sprint("m", me), Name: "m", Layers: []coord.Layer{{Path: layer}}}}}); err != nil {
		return err
	}
	v, err := at.View(ctx)
	if err != nil {
		return err
	}
	if startedOn(&v, layer) {
		s.gaveUp.Add(1)
	} else {
		s.with(t, s.merging, s.running, layer)
		s.merged.Add(1)
	}
	for tellAt(at, time.Now(), coord.Told{}) != nil { // while it is on record, it only holds back
		s.failed.Add(1)
	}
	return nil
}

func startedOn(v *coord.View, layer string) bool {
	for _, p := range v.Peers {
		for _, start := range p.Told.Starts {
			if start.Layers[0].Path == layer {
				return true
			}
		}
	}
	return false
}

func (s *starting) start(t *testing.T, at coord.Storage, me int, layer string) error {
	ctx := context.Background()
	uuid := fmt.Sprint("s", me)
	var work *coord.WorkError
	switch err := coord.Begin(ctx, at, coord.Start{UUID: uuid, Name: uuid, When: time.Now(), Layers: []coord.Layer{{Path: layer}}}); {
	case errors.As(err, &work):
		s.held.Add(1)
		time.Sleep(20 * time.Millisecond)
		return nil
	case err != nil:
		return err
	}
	s.with(t, s.running, s.merging, layer)
	s.started.Add(1)
	for coord.Withdraw(ctx, at, uuid) != nil {
		s.failed.Add(1)
	}
	return nil
}

// with is at work on the layer for a moment, in which nobody may do the other thing with it.
func (s *starting) with(t *testing.T, mine, others map[string]int, layer string) {
	s.mu.Lock()
	mine[layer]++
	if others[layer] > 0 {
		t.Errorf("%s: a guest runs on it, and it is merged", layer)
	}
	s.mu.Unlock()
	time.Sleep(30 * time.Millisecond)
	s.mu.Lock()
	mine[layer]--
	s.mu.Unlock()
}
