package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// pool makes n images in a storage pool, last written to so long ago.
func pool(t *testing.T, h *hosttest.Host, n int, ago time.Duration) {
	t.Helper()
	h.PoolDirs = []string{h.Img("far/")}
	hosttest.Must(os.MkdirAll(h.Img("far/"), 0o755))
	for i := range n {
		path := h.Img(fmt.Sprintf("far/%d.qcow2", i))
		h.Store(path, hosttest.Image{Format: "qcow2", Size: hosttest.Size, Blocks: hosttest.Blocks{}})
		then := time.Now().Add(-ago)
		hosttest.Must(os.Chtimes(path, then, then))
	}
}

func TestHeadersThatHaveNotChangedAreReadOnce(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10)(h, h.Add("web"))
	pool(t, h, 50, time.Hour)
	looked := map[string]int{}
	run := func() {
		r := rotator(h, rule(7))
		r.Observer.Inspect = func(path, format string) (chain.Image, error) {
			if filepath.Dir(path) == filepath.Dir(h.Img("far/x")) {
				looked[path]++
			}
			return h.Inspect(path, format)
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
	h.Change(h.Img("far/7.qcow2"), func(i *hosttest.Image) { i.Backing, i.BackingFormat = h.Img("web.qcow2"), "qcow2" })
	run()
	if len(looked) != 1 || looked[h.Img("far/7.qcow2")] == 0 {
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
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		pool(t, h, 1, time.Hour)
		h.Change(h.Img("far/0.qcow2"), func(i *hosttest.Image) { i.Backing, i.BackingFormat = h.Img("web.qcow2"), "qcow2" })
		if !readable {
			hosttest.Must(os.WriteFile(h.Img("far/0.qcow2"), []byte("{broken"), 0o600))
		} else {
			h.Pictures[h.Img("far/0.qcow2")] = h.Read(h.Img("web.qcow2"))
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
