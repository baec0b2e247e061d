package rotate

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	info, err := vfs.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Allocated
}

func TestARunTellsWhatItMergedAndFreed(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.qcow2")
	h.Take(web, []int{9, 10, 11})
	var gone int64
	for i := range web.Disks {
		gone += allocated(t, web.Disks[i].Chain[1].Path) + allocated(t, web.Disks[i].Chain[2].Path)
	}
	r := rotator(h, rule(2))
	var mu sync.Mutex
	var ended []decide.Plan
	r.Ended = func(p decide.Plan) {
		mu.Lock()
		defer mu.Unlock()
		ended = append(ended, p)
	}
	p := runAll(h, t, r)["web"]
	var now int64
	for i := range web.Disks {
		for _, l := range web.Disks[i].Chain {
			now += allocated(t, l.Path)
		}
	}
	ran := p.Ran
	if gone == 0 || ran.Merged != gone || ran.Freed != gone || ran.Allocated != now || ran.Layers != 3 || ran.UUID != web.UUID {
		t.Errorf("%+v; want %d merged and freed, %d allocated, 3 layers", ran, gone, now)
	}
	if !ran.Start.Before(ran.End) || ran.End.Sub(ran.Start) > time.Minute {
		t.Errorf("from %s to %s", ran.Start, ran.End)
	}
	if len(ended) != 1 || ended[0].Ran != ran || !slices.Equal(ended[0].Steps, p.Steps) {
		t.Errorf("told at the end: %+v", ended)
	}
}

// A domain that fails is told, too, with what was done until then.
func TestARunThatFailsTellsWhatItDid(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	merged := false
	h.Event = func(what string) error {
		merged = merged || what == "block of merge"
		if what == "call redefine" && merged {
			return errSim
		}
		return nil
	}
	r := rotator(h, rule(2))
	told := 0
	r.Ended = func(p decide.Plan) {
		told++
		if p.Result != decide.ResultFailed || p.Ran.Merged == 0 || p.Ran.Freed != 0 {
			t.Errorf("%+v %+v", p, p.Ran)
		}
	}
	runAll(h, t, r)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
