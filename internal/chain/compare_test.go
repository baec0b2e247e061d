package chain_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// xfs is a directory whose files can share extents.
func xfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	l, err := guest.NewLoopMount(t.Context(), filepath.Join(t.TempDir(), "loop"), "xfs", dir, 300<<20)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const mib = 1 << 20

// A twin is a chain and its clone.
type twin struct {
	t      *testing.T
	store  *chain.Store
	format []string
	was    []string // base first
	is     []string
}

// newTwin makes a chain of three layers with 3 MiB of data or more in each, and clones
// it. Options are those of qemu-img create for the overlays.
func newTwin(t *testing.T, base, options string) *twin {
	t.Helper()
	dir, patterns := xfs(t), t.TempDir()
	must(t, images.WritePatterns(patterns))
	var fill []string
	for i := range 5 {
		fill = append(fill, fmt.Sprintf("write -s $P/p%d %dM 1M", i, 2*i))
	}
	tree := images.Tree{Layers: []images.Layer{
		{Name: "base", Format: base, On: images.None, CopyOf: images.None, Size: 16 * mib, Steps: fill},
		{Name: "a", Format: "qcow2", On: 0, CopyOf: images.None, Options: options, Steps: []string{
			"write -s $P/p5 1M 1M", "write -s $P/p6 4M 1M", "write -s $P/p7 10M 1M", "write -z 6M 300k", "write -s $P/p1 7000k 4k"}},
		{Name: "b", Format: "qcow2", On: 1, CopyOf: images.None, Options: options, Steps: []string{
			"write -s $P/p2 1M 512k", "write -s $P/p3 12M 1M", "write -s $P/p4 5M 1M", "write -s $P/p0 13M 1M"}},
	}}
	must(t, tree.Build(t.Context(), dir, patterns))
	w := &twin{t: t, store: images.Store(vfs.OS(), dir), format: []string{base, "qcow2", "qcow2"}}
	for i, name := range []string{"base", "a", "b"} {
		from, to := filepath.Join(dir, name), filepath.Join(dir, "new-"+name)
		must(t, os.WriteFile(to, nil, 0o600))
		must(t, vfs.CloneFile(from, to))
		w.was, w.is = append(w.was, from), append(w.is, to)
		if i > 0 {
			must(t, w.store.Relink(to, "qcow2", filepath.Base(w.is[i-1]), w.format[i-1]))
		}
	}
	return w
}

func (w *twin) chain(path, format string) []chain.Node {
	w.t.Helper()
	nodes, err := w.store.Chain(path, format)
	must(w.t, err)
	return nodes
}

// merge brings what a layer of the clone has into the one below.
func (w *twin) merge(i int, children ...string) {
	w.t.Helper()
	plan, err := w.store.PlanCommit(context.Background(), chain.CommitRequest{
		Top: w.is[i], Format: w.format[i], Unrecorded: true, Children: append([]string{}, children...)})
	must(w.t, err)
	must(w.t, w.store.Commit(context.Background(), plan, func(int64) {}))
}

// compare compares the chain up to layer i of the one with that up to k of the other.
func (w *twin) compare(i, k int) (chain.Comparison, int64) {
	w.t.Helper()
	c, read, err := w.store.CompareShared(context.Background(), w.chain(w.was[i], w.format[i]), w.chain(w.is[k], w.format[k]), false)
	must(w.t, err)
	return c, read
}

// alone compares two layers without what is below them.
func (w *twin) alone(i, k int) (chain.Comparison, int64) {
	w.t.Helper()
	a, b := w.chain(w.was[i], w.format[i]), w.chain(w.is[k], w.format[k])
	c, read, err := w.store.CompareShared(context.Background(), a[len(a)-1:], b[len(b)-1:], true)
	must(w.t, err)
	return c, read
}

// same wants both to be the same, and no more to have been read.
func (w *twin) same(what string, c chain.Comparison, read, atMost int64) {
	w.t.Helper()
	if !c.Same || c.Sizes || read > atMost {
		w.t.Errorf("%s: %+v, %d bytes read, want at most %d", what, c, read, atMost)
	}
}

// data lists the stretches of data that a layer itself has.
func (w *twin) data(path, format string) (found []chain.Extent) {
	w.t.Helper()
	src, err := images.OpenImage(w.store, path, format, false)
	must(w.t, err)
	for off, end := int64(0), src.Image().VirtualSize; off < end; {
		x, err := src.Extent(off, end)
		must(w.t, err)
		if x.Kind == chain.Data {
			found = append(found, x)
		}
		off = x.End()
	}
	must(w.t, src.Close())
	return found
}

// flip changes one byte of a file; once more, it is what it was.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], off)
	must(t, err)
	must(t, f.Close())
}

var twins = []struct{ name, base, options string }{
	{"qcow2", "qcow2", ""},
	{"raw base", "raw", ""},
	{"raw base, subclusters", "raw", "cluster_size=128k,extended_l2=on"},
	{"small clusters", "qcow2", "cluster_size=4k"},
}

func TestComparisonReadsWhatWasCopiedOnly(t *testing.T) {
	for _, c := range twins {
		t.Run(c.name, func(t *testing.T) {
			w := newTwin(t, c.base, c.options)
			for i := range 3 {
				got, read := w.compare(i, i)
				w.same(fmt.Sprintf("clones up to layer %d", i), got, read, 0)
				got, read = w.alone(i, i)
				w.same(fmt.Sprintf("layer %d alone", i), got, read, 0)
			}
			w.merge(1, w.is[2])
			got, read := w.compare(1, 0)
			w.same("merged layers", got, read, 256<<10)
			got, read = w.compare(2, 2)
			w.same("the layer above", got, read, 256<<10)
			got, read = w.alone(2, 2)
			w.same("the layer above, alone", got, read, 0)
			if got, _ := w.compare(1, 2); got.Same {
				t.Error("what two layers show is not what three do")
			}
		})
	}
}

// One byte that is not what it was is found, wherever it is: in what was shared, and in
// what a merge has put together.
func TestComparisonFindsOneByte(t *testing.T) {
	for n, c := range twins {
		t.Run(c.name, func(t *testing.T) {
			w := newTwin(t, c.base, c.options)
			w.merge(1, w.is[2])
			rng := rand.New(rand.NewPCG(uint64(n), 3))
			w.findsOneByte(rng, 0, func() (chain.Comparison, int64) { return w.compare(1, 0) })
			w.findsOneByte(rng, 2, func() (chain.Comparison, int64) { return w.alone(2, 2) })
			w.findsOneByte(rng, 2, func() (chain.Comparison, int64) { return w.compare(2, 2) })
		})
	}
}

// findsOneByte tries the ends, and a place within, of each extent of a new layer.
func (w *twin) findsOneByte(rng *rand.Rand, layer int, compare func() (chain.Comparison, int64)) {
	w.t.Helper()
	all := w.data(w.is[layer], w.format[layer])
	if len(all) == 0 {
		w.t.Fatal("no data")
	}
	rng.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	for _, x := range all[:min(len(all), 8)] {
		for _, in := range []int64{0, x.Length - 1, rng.Int64N(x.Length)} {
			flip(w.t, w.is[layer], x.Host+in)
			if c, _ := compare(); c.Same || c.Offset != x.Offset+in {
				w.t.Errorf("byte %d of extent %+v of layer %d: %+v", in, x, layer, c)
			}
			flip(w.t, w.is[layer], x.Host+in)
			c, read := compare()
			w.same("the same bytes, not shared any more", c, read, 16*mib)
			if read == 0 {
				w.t.Errorf("byte %d of extent %+v: it was not looked at", in, x)
			}
		}
	}
}

// An old layer that changed meanwhile is found, too.
func TestComparisonFindsOneByteOfTheOldLayer(t *testing.T) {
	w := newTwin(t, "raw", "")
	w.merge(1, w.is[2])
	x := w.data(w.was[1], "qcow2")[0]
	flip(t, w.was[1], x.Host+5000)
	if c, _ := w.compare(1, 0); c.Same || c.Offset != x.Offset+5000 {
		t.Errorf("%+v, want a difference at %d", c, x.Offset+5000)
	}
}

// Both files share all of the data, but one says that it is elsewhere on the disk.
func TestComparisonFindsExchangedClusters(t *testing.T) {
	w := newTwin(t, "raw", "")
	x := w.data(w.is[2], "qcow2")[0]
	f, err := os.OpenFile(w.is[2], os.O_RDWR, 0)
	must(t, err)
	// See QEMU docs/interop/qcow2: the L1 table leads to an L2 table of 64-bit entries.
	l2 := number(t, f, number(t, f, 40)) &^ (1 << 63)
	at := l2 + 8*uint64(x.Offset>>16)
	a, b := number(t, f, at), number(t, f, at+8)
	_, err = f.WriteAt(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, b), a), int64(at))
	must(t, err)
	must(t, f.Close())
	if c, _ := w.alone(2, 2); c.Same || c.Offset>>16 != x.Offset>>16 {
		t.Errorf("alone: %+v, want a difference in the cluster at %d", c, x.Offset)
	}
	if c, _ := w.compare(2, 2); c.Same || c.Offset>>16 != x.Offset>>16 {
		t.Errorf("the chain: %+v, want a difference in the cluster at %d", c, x.Offset)
	}
}

func number(t *testing.T, f *os.File, at uint64) uint64 {
	t.Helper()
	var b [8]byte
	_, err := f.ReadAt(b[:], int64(at))
	must(t, err)
	return binary.BigEndian.Uint64(b[:])
}

// A hole shows what is below, zeros do not: a layer alone must have both where the other
// has them, though the chain may show the same.
func TestStrictComparisonTellsHolesFromZeros(t *testing.T) {
	dir := xfs(t)
	must(t, images.Shell(t.Context(), dir, "P=", `
qemu-img create -q -f qcow2 base 1M
qemu-img create -q -f qcow2 -b base -F qcow2 hole
qemu-io -f qcow2 -c "write -P 1 0 64k" hole >/dev/null
cp --reflink=always hole zero
qemu-io -f qcow2 -c "write -z 512k 64k" zero >/dev/null
cp --reflink=always hole data
qemu-io -f qcow2 -c "write -P 0 512k 64k" data >/dev/null
cp --reflink=always hole same
cp --reflink=always hole longer
cp --reflink=always hole zeroed
qemu-io -f qcow2 -c "write -z 0 64k" zeroed >/dev/null # the cluster stays where it is
qemu-img resize -q -f qcow2 longer 2M
`))
	s := images.Store(vfs.OS(), dir)
	layer := func(name string) []chain.Node {
		nodes, err := s.Chain(filepath.Join(dir, name), "qcow2")
		must(t, err)
		return nodes[1:]
	}
	for _, c := range []struct {
		a, b   string
		strict chain.Comparison
		loose  chain.Comparison
	}{
		{"hole", "same", chain.Comparison{Same: true}, chain.Comparison{Same: true}},
		{"hole", "zero", chain.Comparison{Offset: 512 << 10}, chain.Comparison{Same: true}},
		{"zero", "hole", chain.Comparison{Offset: 512 << 10}, chain.Comparison{Same: true}},
		{"hole", "data", chain.Comparison{Offset: 512 << 10}, chain.Comparison{Same: true}},
		{"zero", "data", chain.Comparison{Same: true}, chain.Comparison{Same: true}},
		{"hole", "zeroed", chain.Comparison{}, chain.Comparison{}},
		{"zeroed", "hole", chain.Comparison{}, chain.Comparison{}},
		{"hole", "longer", chain.Comparison{Sizes: true}, chain.Comparison{Same: true, Sizes: true}},
	} {
		for strict, want := range map[bool]chain.Comparison{true: c.strict, false: c.loose} {
			got, _, err := s.CompareShared(t.Context(), layer(c.a), layer(c.b), strict)
			must(t, err)
			if got != want {
				t.Errorf("%s and %s, strict %v: %+v, want %+v", c.a, c.b, strict, got, want)
			}
		}
	}
}
