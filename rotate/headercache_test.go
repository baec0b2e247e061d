package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// pool makes n images in a storage pool, last written to so long ago.
func pool(t *testing.T, h *simHost, n int, ago time.Duration) {
	t.Helper()
	h.pools = []string{h.img("far/")}
	must(os.MkdirAll(h.img("far/"), 0o755))
	for i := range n {
		path := h.img(fmt.Sprintf("far/%d.qcow2", i))
		h.store(path, simImage{Format: "qcow2", Size: simSize, Blocks: blocks{}})
		then := time.Now().Add(-ago)
		must(os.Chtimes(path, then, then))
	}
}

func TestHeadersThatHaveNotChangedAreReadOnce(t *testing.T) {
	h := newSim(t)
	one(9, 10)(h, h.add("web"))
	pool(t, h, 50, time.Hour)
	looked := map[string]int{}
	run := func() {
		r := rotator(h, rule(7))
		r.Observer.Inspect = func(path, format string) (chain.Image, error) {
			if filepath.Dir(path) == filepath.Dir(h.img("far/x")) {
				looked[path]++
			}
			return h.inspect(path, format)
		}
		runAll(h, t, r)
	}
	run()
	if len(looked) != 50 {
		t.Fatalf("%d images of the pool were looked at", len(looked))
	}
	clear(looked)
	run()
	if len(looked) != 0 {
		t.Errorf("looked at again: %v", looked)
	}
	h.change(h.img("far/7.qcow2"), func(i *simImage) { i.Backing, i.BackingFormat = h.img("web.qcow2"), "qcow2" })
	run()
	if len(looked) != 1 || looked[h.img("far/7.qcow2")] == 0 {
		t.Errorf("changed: looked at %v", looked)
	}
	clear(looked)
	run() // it was written to just now: it could be again within the same tick
	if len(looked) != 1 {
		t.Errorf("young: looked at %v", looked)
	}
}

func TestABaseWithAUserInAStoragePoolIsNotMergedInto(t *testing.T) {
	for _, readable := range []bool{true, false} {
		h := newSim(t)
		web := h.add("web")
		one(9, 10, 11)(h, web)
		pool(t, h, 1, time.Hour)
		h.change(h.img("far/0.qcow2"), func(i *simImage) { i.Backing, i.BackingFormat = h.img("web.qcow2"), "qcow2" })
		if !readable {
			must(os.WriteFile(h.img("far/0.qcow2"), []byte("{broken"), 0o600))
		} else {
			h.pictures[h.img("far/0.qcow2")] = h.read(h.img("web.qcow2"))
		}
		r := rotator(h, rule(2))
		r.Options = coalesce()
		runAll(h, t, r)
		checkData(h, t)
		if n := len(web.Disks[0].Chain); (n == 4) != readable {
			t.Errorf("readable %v: %d layers; the one that is no image blocks its own directory only", readable, n)
		}
	}
}
