package rotate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// looks counts how often each image beside the layers is looked at.
type looks struct {
	mu    sync.Mutex // guards count
	count map[string]int
}

func (l *looks) stat(path string) (vfs.Info, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[path]++
	return vfs.Stat(path)
}

// A host can have ten thousand images beside the layers: a run with a merge looks at each
// of them twice at most, though it looks at the domain many times.
func TestARunLooksAtEachNeighbourTwiceAtMost(t *testing.T) {
	for _, domains := range []int{1, 5} {
		h := hosttest.New(t)
		for i := range domains {
			d := h.Add(fmt.Sprintf("web%d", i))
			h.Disk(d, "vda", fmt.Sprintf("img/web%d.qcow2", i))
			h.Take(d, []int{9, 10, 11})
		}
		other := h.Add("other")
		h.Disk(other, "vda", "img/golden.qcow2")
		for i := range 20 {
			h.Picture(fmt.Sprintf("img/clone%d.qcow2", i), "golden.qcow2")
		}
		r := rotator(h, rule(2))
		l := &looks{count: map[string]int{}}
		r.Observer.Probes.Stat = l.stat
		for name, p := range runAll(h, t, r) {
			if p.Result != decide.ResultDone || !slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
				t.Errorf("%s: %s %s %v", name, p.Result, p.Error, p.Steps)
			}
		}
		for i := range 20 {
			path := h.Img(fmt.Sprintf("img/clone%d.qcow2", i))
			if n := l.count[path]; n < 1 || n > 2 {
				t.Errorf("%d domains: %s was looked at %d times", domains, path, n)
			}
		}
	}
}

// What is new beside the layers is seen by every look, whatever was seen a moment ago; what
// is there no more, too.
func TestANewNeighbourIsSeenAtOnce(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	o := observer(h)
	w, err := o.Observe(t.Context())
	hosttest.Must(err)
	clones := func() int {
		w, err = o.Again(t.Context(), w, "web")
		hosttest.Must(err)
		l := w.Forest.Find(w.Key(web.Disks[0].Chain[0].Path))
		n := 0
		for _, c := range l.Children {
			if strings.HasPrefix(c.Path, h.Img("img/clone")) {
				n++
			}
		}
		return n
	}
	base := filepath.Base(web.Disks[0].Chain[0].Path)
	for i := range 3 {
		if n := clones(); n != i {
			t.Errorf("%d clones were seen, want %d", n, i)
		}
		h.Picture(fmt.Sprintf("img/clone%d.qcow2", i), base)
	}
}
