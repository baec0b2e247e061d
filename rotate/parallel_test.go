package rotate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// many adds domains with a disk each, half of them on the second file system.
func many(h *hosttest.Host, n int) {
	h.Writes = rand.New(rand.NewPCG(1, 1))
	for i := range n {
		d := h.Add(fmt.Sprintf("web%d", i))
		h.Disk(d, "vda", []string{"img", "fs2"}[i%2]+fmt.Sprintf("/web%d.qcow2", i))
		h.Take(d, []int{8, 9, 10, 11})
	}
}

func TestOneMergeAtATimeOnAFileSystem(t *testing.T) {
	h := hosttest.New(t)
	many(h, 8)
	both := make(chan struct{}) // closed once merges run on both file systems
	var once sync.Once
	h.Event = func(what string) error {
		if what != "block of merge" {
			return nil
		}
		h.Mu.Lock()
		if h.Merging[1] > 0 && h.Merging[2] > 0 {
			once.Do(func() { close(both) })
		}
		h.Mu.Unlock()
		select {
		case <-both:
		case <-time.After(5 * time.Second):
			return errors.New("the other file system's merge does not start")
		}
		return nil
	}
	for name, p := range runAll(h, t, rotator(h, rule(1))) {
		if p.Result != decide.ResultDone {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if h.MostAtOnce[1] != 1 || h.MostAtOnce[2] != 1 {
		t.Errorf("merges at once, by file system: %v", h.MostAtOnce)
	}
	checkDone(h, t)
}

func TestManyDomainsInParallel(t *testing.T) {
	h := hosttest.New(t)
	many(h, 16)
	r := rotator(h, rule(2))
	for n := 12; n < 15; n++ {
		h.Now = hosttest.Hour(n)
		for name, p := range runAll(h, t, r) {
			if p.Result != decide.ResultDone {
				t.Errorf("%s: %+v", name, p)
			}
		}
		checkDone(h, t)
	}
}

// Disks of several domains often have one name; in one overlay directory they
// must not get in each other's way.
func TestParallelDomainsDoNotShareOverlayNames(t *testing.T) {
	h := hosttest.New(t)
	for i := range 4 {
		hosttest.Must(mkdir(h.Img(fmt.Sprintf("far/%d", i))))
		h.Disk(h.Add(fmt.Sprintf("web%d", i)), "vda", fmt.Sprintf("far/%d/disk.qcow2", i))
	}
	r := rotator(h, with(rule(2), func(r *policy.Rule) { r.OverlayDir = filepath.Join(h.Dir, "fs2") }))
	r.Observer.Scan = []string{filepath.Join(h.Dir, "fs2")}
	all := make(chan struct{}, 4)
	r.crash = func(place string) { // all decide before one goes on
		if place == "before snapshot" {
			all <- struct{}{}
			for n := 0; len(all) < 4 && n < 500; n++ {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for name, p := range runAll(h, t, r) {
		if p.Result != decide.ResultDone {
			t.Errorf("%s: %s %s", name, p.Result, h.Brief(p.Error))
		}
	}
	checkData(h, t)
}

func TestACancelledRunStopsAndTheNextFinishes(t *testing.T) {
	places := []string{"call merge", "block of merge", "call snapshot", "call drop-metadata", "call redefine"}
	for _, place := range places {
		h := hosttest.New(t)
		many(h, 3)
		ctx, cancel := context.WithCancel(context.Background())
		h.Event = func(what string) error {
			if what == place {
				cancel()
			}
			return nil
		}
		plans, err := rotator(h, rule(2)).Run(ctx, nil)
		if err != nil {
			t.Fatalf("%s: %v", place, err)
		}
		for _, p := range plans {
			if p.Result != decide.ResultCanceled || !strings.Contains(p.Error, "interrupted") {
				t.Errorf("%s: %+v", place, p)
			}
		}
		checkData(h, t)
		h.Event = func(string) error { return nil }
		finishes(h, t, rule(2), decide.Options{})
		checkDone(h, t)
	}
}

func TestAStorageLockWaitsOnlyForItsFileSystem(t *testing.T) {
	var locks storageLocks
	release, err := locks.take(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := locks.take(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := locks.take(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one on the same file system: %v", err)
	}
	release()
	if again, err := locks.take(t.Context(), 1); err != nil {
		t.Error(err)
	} else {
		again()
	}
}

// One domain at a time, if that is wanted; and the figures of the run.
func TestMaxParallelBoundsTheDomainsAtWork(t *testing.T) {
	for _, limit := range []int{1, 3} {
		h := hosttest.New(t)
		many(h, 6)
		var mu sync.Mutex
		at, most := map[string]bool{}, 0
		r := rotator(h, rule(2))
		r.Options.MaxParallel = limit
		r.Report = func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			at[e.Domain] = true
			if e.Kind == EventDone && e.Step.Op == decide.OpDeleteFile { // the last step of each
				delete(at, e.Domain)
			}
			most = max(most, len(at))
		}
		plans, err := r.Run(t.Context(), nil)
		if err != nil || most > limit || limit == 1 && most != 1 {
			t.Errorf("%d at a time, at most %d wanted: %v", most, limit, err)
		}
		sum := decide.Summarize(plans)
		if sum.Domains != 6 || sum.Done != 6 || sum.Taken != 6 || sum.Merged == 0 || sum.Freed == 0 || sum.Failed+sum.Refused+sum.Nothing != 0 {
			t.Errorf("%+v", sum)
		}
	}
}
