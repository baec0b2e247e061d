package vhdbridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// A byHand is a repository in which somebody moves files about, and puts them back later.
type byHand struct {
	t      *testing.T
	dir    string
	chance *rand.Rand
	log    []string
	back   []func() // to be called in the reverse order
}

// newByHand makes trees: each node builds on one before it or on none, nodes with children are
// hidden, and so are some others, which are garbage. Some bases are raw.
func newByHand(t *testing.T, seed uint64) *byHand {
	t.Helper()
	b := &byHand{t: t, dir: t.TempDir(), chance: rand.New(rand.NewPCG(seed, 8))}
	const nodes = 9
	parents, inner := make([]int, nodes), make([]bool, nodes)
	for i := range nodes {
		if parents[i] = -1; i > 1 && b.chance.IntN(5) > 0 {
			parents[i] = b.chance.IntN(i)
			inner[parents[i]] = true
		}
	}
	raw := map[int]bool{}
	for i := range nodes {
		if parents[i] < 0 && inner[i] && b.chance.IntN(3) == 0 {
			raw[i] = true
			must(t, os.WriteFile(filepath.Join(b.dir, fmt.Sprint("n", i, ".raw")), bytes.Repeat([]byte{byte(i + 1)}, oddSize), 0o600))
			continue
		}
		b.node(i, parents[i], inner[i] || b.chance.IntN(4) == 0, raw[max(parents[i], 0)])
	}
	return b
}

func (b *byHand) node(i, parent int, hidden, onRaw bool) {
	b.t.Helper()
	n := srtest.Node{Name: fmt.Sprint("n", i), Size: oddSize, Hidden: hidden}
	n.Own = append(make([]byte, b.chance.IntN(6)<<19), bytes.Repeat([]byte{byte(i + 1)}, 1<<19)...)
	if parent >= 0 && !onRaw {
		n.Parent = fmt.Sprint("n", parent)
	}
	srtest.Write(b.t, b.dir, n)
	if parent >= 0 && onRaw {
		relinkTo(b.t, b.dir, n.Name+".vhd", fmt.Sprint("n", parent, ".raw"), formatRaw, "")
	}
}

// views are what the visible nodes read as, by VDI; of those that can be read.
func (b *byHand) views() map[string]string {
	b.t.Helper()
	r := scan(b.t, vfs.OS(), b.dir)
	br := bridge(vfs.OS())
	br.Store.Locate = r.Locate
	groups, _, err := r.Groups(nil, false)
	must(b.t, err)
	views := map[string]string{}
	for _, g := range groups {
		if !g.Node.Hidden {
			views[g.Node.VDI] = sumOf(b.t, br, g.Node)
		}
	}
	return views
}

// move gives a file another name, until it is put back under whatever has that name then.
func (b *byHand) move(from, to string) {
	b.t.Helper()
	b.log = append(b.log, from+" → "+to)
	rename(b.t, b.dir, from, to)
	stem := func(name string) string { return strings.TrimSuffix(name, filepath.Ext(name)) }
	b.back = append(b.back, func() {
		for _, names := range [][2]string{{to, from}, {stem(to) + ".raw", stem(from) + ".raw"}} { // a leaf on a raw disk becomes one
			if _, err := os.Lstat(filepath.Join(b.dir, names[0])); !errors.Is(err, fs.ErrNotExist) {
				rename(b.t, b.dir, names[0], names[1])
				return
			}
		}
	})
}

// meddle does one thing.
func (b *byHand) meddle(k int) {
	b.t.Helper()
	names, err := vfs.OS().ReadDir(b.dir)
	must(b.t, err)
	pick := func() string { return names[b.chance.IntN(len(names))] }
	a, c := pick(), pick()
	switch ext := filepath.Ext(a); b.chance.IntN(8) {
	case 0:
		b.move(a, fmt.Sprint("moved", k, ext))
	case 1:
		b.move(a, a+".bak")
	case 2:
		b.move(a, "below/"+a)
	case 3:
		if a != c && filepath.Ext(a) == filepath.Ext(c) {
			b.move(a, "swap")
			b.move(c, a)
			b.move("swap", c)
		}
	case 4:
		copyTo(b.t, b.dir, a, fmt.Sprint("copy", k, ext))
		b.log = append(b.log, "copy of "+a)
	case 5:
		b.move(a, strings.TrimSuffix(a, ext)+strings.ToUpper(ext))
	case 6:
		b.move(a, oldPrefix+a)
	case 7:
		b.relinkOne(fmt.Sprint("half", k))
	}
}

// relinkOne gives a parent another name, and tells one of its children only.
func (b *byHand) relinkOne(name string) {
	b.t.Helper()
	for _, n := range scan(b.t, vfs.OS(), b.dir).Nodes {
		if n.Parent == "" || n.layer.Parent == nil || n.Named != "" || n.twin != "" {
			continue
		}
		was, to := n.Parent, name+filepath.Ext(n.Parent)
		b.log = append(b.log, n.Name+" is told of it:")
		b.move(was, to)
		relinkTo(b.t, b.dir, n.Name, to, formatOf(n.backingFormat), n.wants)
		b.back = append(b.back, func() {
			for _, c := range scan(b.t, vfs.OS(), b.dir).Nodes { // after a merge others build on it as well
				if c.Parent == to && c.Named == "" {
					relinkTo(b.t, b.dir, c.Name, was, formatOf(c.backingFormat), c.wants)
				}
			}
		})
		return
	}
}

// Whatever is moved about in a repository, a coalesce with all that it has costs no VDI: what
// can be read reads as before, and once all is put back, so does all that there was.
func TestWhatIsMovedByHandLosesNoVDI(t *testing.T) {
	merged := 0
	for seed := range 60 * seeds() {
		b := newByHand(t, seed)
		was := b.views()
		for k := range 1 + b.chance.IntN(3) {
			b.meddle(k)
		}
		before := b.views()
		r := scan(t, vfs.OS(), b.dir)
		br := bridge(vfs.OS())
		br.Store.Locate = r.Locate
		p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
		must(t, err)
		must(t, br.Rehearse(t.Context(), r, p))
		done, failed, err := br.Run(t.Context(), r, p)
		if err != nil || len(failed) > 0 {
			t.Errorf("seed %d: %q: failed %+v, %v", seed, b.log, failed, err)
		}
		merged += len(done)
		compareViews(t, fmt.Sprint("seed ", seed, " afterwards: ", b.log), before, b.views())
		for len(b.back) > 0 {
			b.back[len(b.back)-1]()
			b.back = b.back[:len(b.back)-1]
		}
		compareViews(t, fmt.Sprint("seed ", seed, " put back: ", b.log), was, b.views())
	}
	if merged < 20 {
		t.Errorf("only %d steps were done", merged)
	}
}

func compareViews(t *testing.T, what string, want, have map[string]string) {
	t.Helper()
	for vdi, sum := range want {
		if have[vdi] != sum {
			t.Errorf("%s: %s reads otherwise: %q", what, vdi, have[vdi])
		}
	}
}
