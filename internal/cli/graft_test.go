package cli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sharing is a directory whose files can share extents.
func sharing(t *testing.T, fstype string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	l, err := guest.NewLoopMount(t.Context(), filepath.Join(t.TempDir(), "loop"), fstype, dir, 400<<20)
	ok(t, err)
	t.Cleanup(func() { ok(t, l.Close()) })
	return dir
}

// A grafting is a chain of a guest that runs, and what is to take its place.
type grafting struct {
	t *testing.T
	engine.Graft
	engine engine.Native
	first  int
	shown  []*images.Content // by each layer
	was    []images.Info
	active map[string]any // what qemu-img says of the active layer
	sums   []string       // of the files
}

// newGrafting makes the chain of a tree in dir and has another process use it as a guest
// does. What begins at layer first is to be replaced; goes is parallel to that.
func newGrafting(t *testing.T, dir string, tree *images.Tree, first int, goes []bool) *grafting {
	t.Helper()
	patterns := t.TempDir()
	ok(t, images.WritePatterns(patterns))
	ok(t, tree.Build(t.Context(), dir, patterns))
	g := &grafting{t: t, first: first, engine: engine.Native{Store: *formats.Store(vfs.OS(), nil), NewOverlay: formats.NewOverlay(vfs.OS())}}
	g.Goes = goes
	for i := range tree.Layers {
		l := host.Layer{Path: filepath.Join(dir, tree.Layers[i].Name), Format: tree.Layers[i].Format}
		ok(t, os.Chown(l.Path, 1000+i, 2000+i))
		c, err := images.QemuRead(t.Context(), l.Path, l.Format, t.TempDir())
		ok(t, err)
		info, err := images.QemuInfo(t.Context(), l.Path, l.Format)
		ok(t, err)
		g.Chain, g.shown, g.was = append(g.Chain, l), append(g.shown, c), append(g.was, info)
		if i >= first {
			next := l.Path + ".new"
			_, err := vfs.CreateExclusive(next, 0o600)
			ok(t, err)
			g.Next = append(g.Next, next)
		}
	}
	active := g.Chain[len(g.Chain)-1].Path
	g.active = infoOf(t, active)
	hold(t, "-f qcow2", active)
	for _, l := range g.Chain {
		g.sums = append(g.sums, fileSum(t, l.Path))
	}
	return g
}

// untouched wants every old file to be what it was.
func (g *grafting) untouched() {
	g.t.Helper()
	for i, l := range g.Chain {
		if fileSum(g.t, l.Path) != g.sums[i] {
			g.t.Errorf("%s was written to", l.Path)
		}
	}
}

// state is the place in Chain of the old layer whose state the i-th new one shows.
func (g *grafting) state(i int) int {
	for i+1 < len(g.Next)-1 && g.Goes[i+1] {
		i++
	}
	return g.first + i
}

// done wants the new layers to be what the old ones were.
func (g *grafting) done() {
	g.t.Helper()
	top, below := len(g.Next)-1, g.first-1
	for i, path := range g.Next {
		if g.Goes[i] {
			continue
		}
		want := g.shown[g.state(i)]
		if i == top { // empty: what is below, in its size
			want = g.shown[g.first+i-1].Resized(g.shown[g.first+i].Size)
		}
		g.shows(path, g.Chain[g.first+i].Format, want)
		g.builds(i, below)
		g.owned(i)
		below = g.first + i
	}
	g.empty(g.Next[top])
	g.alike(g.Next[top])
	g.untouched()
}

func (g *grafting) shows(path, format string, want *images.Content) {
	g.t.Helper()
	got, err := images.QemuRead(g.t.Context(), path, format, g.t.TempDir())
	ok(g.t, err)
	if err := images.Same(path, want, got); err != nil {
		g.t.Error(err)
	}
	if format != "qcow2" {
		return
	}
	if r, err := images.QemuCheck(g.t.Context(), path); err != nil || r != (images.CheckResult{}) {
		g.t.Errorf("qemu-img check %s: %+v, %v", path, r, err)
	}
}

// builds wants the i-th new layer to name what took the place of layer k of the chain,
// in the way in which the old one named the layer below it.
func (g *grafting) builds(i, k int) {
	g.t.Helper()
	is, err := images.QemuInfo(g.t.Context(), g.Next[i], g.Chain[g.first+i].Format)
	ok(g.t, err)
	want, format := "", ""
	if k >= 0 {
		want, format = g.Chain[k].Path, g.Chain[k].Format
	}
	if k >= g.first {
		want = g.Next[k-g.first]
	}
	if want != "" && !filepath.IsAbs(g.was[g.first+i].Backing) {
		want, err = filepath.Rel(filepath.Dir(g.Next[i]), want)
		ok(g.t, err)
	}
	if is.Backing != want || is.BackingFormat != format {
		g.t.Errorf("%s builds on %s (%s), want %s (%s)", g.Next[i], is.Backing, is.BackingFormat, want, format)
	}
}

// owned wants the i-th new file to be its owner's alone.
func (g *grafting) owned(i int) {
	g.t.Helper()
	info, err := os.Stat(g.Next[i])
	ok(g.t, err)
	st := info.Sys().(*syscall.Stat_t)
	if n := uint32(g.first + i); info.Mode() != 0o600 || st.Uid != 1000+n || st.Gid != 2000+n {
		g.t.Errorf("%s: mode %v, owner %d:%d", g.Next[i], info.Mode(), st.Uid, st.Gid)
	}
}

// empty wants an overlay to have nothing of its own.
func (g *grafting) empty(path string) {
	g.t.Helper()
	src, err := images.OpenImage(&g.engine.Store, path, "qcow2", false)
	ok(g.t, err)
	defer src.Close()
	for off, end := int64(0), src.Image().VirtualSize; off < end; {
		x, err := src.Extent(off, end)
		ok(g.t, err)
		if x.Kind != chain.Hole {
			g.t.Errorf("%s: %+v", path, x)
		}
		off = x.End()
	}
}

// alike wants an image to have the features of the active layer.
func (g *grafting) alike(path string) {
	g.t.Helper()
	is := infoOf(g.t, path)
	for _, key := range []string{"cluster-size", "virtual-size", "format-specific"} {
		if !equalJSON(is[key], g.active[key]) {
			g.t.Errorf("%s of %s: %v, want %v", key, path, is[key], g.active[key])
		}
	}
}

// randomSteps write data, zeros, compressed clusters and holes.
func randomSteps(rng *rand.Rand, size int64) (steps []string) {
	for range 4 + rng.IntN(8) {
		n := min(512*(1+rng.Int64N(1500)), size)
		off := rng.Int64N((size-n)/512+1) * 512
		switch rng.IntN(7) {
		case 0:
			steps = append(steps, fmt.Sprintf("write -z %d %d", off, n))
		case 1:
			steps = append(steps, fmt.Sprintf("write -z -u %d %d", off&^65535, n))
		case 2:
			steps = append(steps, fmt.Sprintf("discard %d %d", off&^65535, n))
		case 3:
			steps = append(steps, fmt.Sprintf("write -c -s $P/p1 %d 128k", min(off, max(0, size-256<<10))&^(128<<10-1)))
		default:
			steps = append(steps, fmt.Sprintf("write -s $P/p%d %d %d", rng.IntN(8), off, n))
		}
	}
	return steps
}

// randomChain is a base and four overlays with data at random.
func randomChain(rng *rand.Rand, base, options string, absolute, grows bool) *images.Tree {
	size := int64(6<<20 + 512)
	tree := &images.Tree{Layers: []images.Layer{{Name: "base", Format: base, On: images.None, CopyOf: images.None,
		Size: size, Steps: append(randomSteps(rng, size), "write -s $P/p0 1M 1M", "write -s $P/p5 4M 1M")}}}
	for i := range 4 {
		l := images.Layer{Name: fmt.Sprintf("l%d", i+1), Format: "qcow2", On: i, CopyOf: images.None, Absolute: absolute, Options: options}
		if grows {
			size += 512 * (1 + rng.Int64N(1500))
			l.Size = size
		}
		l.Steps = randomSteps(rng, size)
		tree.Layers = append(tree.Layers, l)
	}
	return tree
}

func TestGraftShowsWhatTheOldLayersDid(t *testing.T) {
	one, all := []bool{false, true, false, false, false}, []bool{false, true, true, true, false}
	cases := []struct {
		fstype, base, options string
		absolute, grows       bool
		first                 int
		goes                  []bool
	}{
		{"xfs", "raw", "", false, false, 0, one},
		{"xfs", "raw", "cluster_size=128k,extended_l2=on", false, true, 0, []bool{false, false, true, true, false}},
		{"xfs", "qcow2", "cluster_size=128k", true, false, 0, []bool{false, true, false, true, false}},
		{"xfs", "qcow2", "compression_type=zstd,lazy_refcounts=on", false, true, 0, all},
		{"xfs", "qcow2", "cluster_size=4k,refcount_bits=8", true, true, 1, []bool{false, true, false, false}},
		{"xfs", "raw", "compat=0.10", false, false, 2, []bool{false, true, false}},
		{"btrfs", "raw", "", true, true, 0, []bool{false, false, false, true, false}},
		{"btrfs", "qcow2", "cluster_size=128k,extended_l2=on", false, true, 0, []bool{false, true, true, false, false}},
		{"btrfs", "qcow2", "", false, false, 1, []bool{false, false, true, false}},
	}
	where := map[string]string{"xfs": sharing(t, "xfs"), "btrfs": sharing(t, "btrfs")}
	for n, c := range cases {
		t.Run(fmt.Sprintf("%s, %s, %s, %v", c.fstype, c.base, c.options, c.goes), func(t *testing.T) {
			dir := filepath.Join(where[c.fstype], fmt.Sprint(n))
			ok(t, os.Mkdir(dir, 0o755))
			tree := randomChain(rand.New(rand.NewPCG(uint64(n), 5)), c.base, c.options, c.absolute, c.grows)
			g := newGrafting(t, dir, tree, c.first, c.goes)
			g.Full = n%4 == 3
			ok(t, g.engine.Graft(t.Context(), g.Graft))
			g.done()
		})
	}
}

// plainChain is a raw base with data and zeros at known places in each overlay.
func plainChain() *images.Tree {
	tree := &images.Tree{Layers: []images.Layer{{Name: "base", Format: "raw", On: images.None, CopyOf: images.None, Size: 8 << 20,
		Steps: []string{"write -s $P/p0 0 1M", "write -s $P/p1 4M 1M", "write -s $P/p2 5M 1M"}}}}
	for i := range 4 {
		tree.Layers = append(tree.Layers, images.Layer{Name: fmt.Sprintf("l%d", i+1), Format: "qcow2", On: i, CopyOf: images.None,
			Steps: []string{fmt.Sprintf("write -s $P/p%d %d 300k", i+3, i<<20)}})
	}
	tree.Layers[2].Steps = append(tree.Layers[2].Steps, "write -z 4M 64k")
	return tree
}

// flipAt changes the byte that an image has at an offset of the disk.
func flipAt(g *grafting, path, format string, off int64) {
	g.t.Helper()
	src, err := images.OpenImage(&g.engine.Store, path, format, false)
	ok(g.t, err)
	x, err := src.Extent(off, off+1)
	ok(g.t, errors.Join(err, src.Close()))
	if x.Kind != chain.Data {
		g.t.Fatalf("%s has %+v at %d", path, x, off)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(g.t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], x.Host)
	ok(g.t, err)
	b[0]++
	_, err = f.WriteAt(b[:], x.Host)
	ok(g.t, errors.Join(err, f.Close()))
}

// forget makes a hole of the cluster of 64 KiB at off. See QEMU docs/interop/qcow2: the
// L1 table leads to the L2 table.
func forget(g *grafting, path string, off int64) {
	g.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(g.t, err)
	number := func(at int64) int64 {
		var b [8]byte
		_, err := f.ReadAt(b[:], at)
		ok(g.t, err)
		return int64(binary.BigEndian.Uint64(b[:]) &^ (1 << 63))
	}
	at := number(number(40)) + off>>16*8
	if n := number(at); n&1 == 0 {
		g.t.Fatalf("%s has %#x at %d, want zeros", path, n, off)
	}
	_, err = f.WriteAt(make([]byte, 8), at)
	ok(g.t, errors.Join(err, f.Close()))
}

// What is wrong with a new layer is found before the guest is moved, whether all is read
// or only what is not shared.
func TestGraftFindsWhatIsWrong(t *testing.T) {
	dir := sharing(t, "xfs")
	goes := []bool{false, true, false, false, false}
	for n, c := range []struct {
		name   string
		wrong  int // layer
		tamper func(g *grafting)
	}{
		{"a byte that was merged", 0, func(g *grafting) { flipAt(g, g.Next[0], "raw", 100_000) }},
		{"a byte that is shared", 0, func(g *grafting) { flipAt(g, g.Next[0], "raw", 5<<20+700_000) }},
		{"a byte of a layer above", 2, func(g *grafting) { flipAt(g, g.Next[2], "qcow2", 1<<20) }},
		{"a byte of the highest layer", 3, func(g *grafting) { flipAt(g, g.Next[3], "qcow2", 2<<20+299<<10) }},
		{"zeros that are gone", 2, func(g *grafting) { forget(g, g.Next[2], 4<<20) }},
		{"another size", 2, func(g *grafting) { shell(g.t, dir, "qemu-img resize -q -f qcow2 "+g.Next[2]+" 9M") }},
		{"another size of the base", 0, func(g *grafting) { ok(g.t, os.Truncate(g.Next[0], 9<<20)) }},
		{"a layer that builds on an old one", 3, func(g *grafting) {
			shell(g.t, dir, fmt.Sprintf("qemu-img rebase -u -f qcow2 -F qcow2 -b %s %s", g.Chain[2].Path, g.Next[3]))
		}},
		{"a layer that builds on one that goes", 2, func(g *grafting) {
			shell(g.t, dir, fmt.Sprintf("qemu-img rebase -u -f qcow2 -F qcow2 -b %s %s", g.Next[1], g.Next[2]))
		}},
	} {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, full %v", c.name, full), func(t *testing.T) {
				dir := filepath.Join(dir, fmt.Sprintf("%d-%v", n, full))
				ok(t, os.Mkdir(dir, 0o755))
				g := newGrafting(t, dir, plainChain(), 0, slices.Clone(goes))
				g.Full = full
				g.engine.NewOverlay = func(f vfs.File, like string, size int64, backing, format string) error {
					c.tamper(g) // all else has been built
					return formats.NewOverlay(vfs.OS())(f, like, size, backing, format)
				}
				err := g.engine.Graft(t.Context(), g.Graft)
				if err == nil || !strings.Contains(err.Error(), g.Next[c.wrong]) {
					t.Errorf("got %v, want what is wrong with %s", err, g.Next[c.wrong])
				}
				g.untouched()
			})
		}
	}
}

// The new overlay must build on the new layers, not on what is going to be deleted.
func TestGraftFindsAnOverlayOnAnOldLayer(t *testing.T) {
	g := newGrafting(t, sharing(t, "xfs"), plainChain(), 0, []bool{false, true, false, false, false})
	g.engine.NewOverlay = func(f vfs.File, like string, size int64, _, format string) error {
		return formats.NewOverlay(vfs.OS())(f, like, size, "l3", format)
	}
	if err := g.engine.Graft(t.Context(), g.Graft); err == nil || !strings.Contains(err.Error(), g.Next[4]) {
		t.Errorf("got %v, want what is wrong with %s", err, g.Next[4])
	}
	g.untouched()
}
