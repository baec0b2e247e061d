package chaintest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// page is what file systems share: pieces of a page can be.
const page = 4096

// strew fills what no bit of a bitmap tells with what somebody has left there: it may not
// show anywhere, whatever comes along when extents are shared.
func (f *forest) strew(name string, l layer) {
	f.t.Helper()
	s := f.open(f.kit[path(name)], path(name), false)
	file, err := f.fs.Open(path(name), true)
	f.must(err)
	size := l.size
	for off := int64(0); off < size; {
		x, err := s.Extent(off, size)
		f.must(err)
		if x.Kind == chain.Data && off+x.Length < size {
			next, err := s.Extent(off+x.Length, size)
			f.must(err)
			const block = 16 << 10
			end := min(next.End(), (off+x.Length+block-1)/block*block)
			if n := end - (off + x.Length); next.Kind == chain.Hole && n > 0 {
				_, err := file.WriteAt(bytes.Repeat([]byte{0xee}, int(n)), x.Host+x.Length)
				f.must(err)
			}
		}
		off += x.Length
	}
	f.must(file.Sync())
	f.must(file.Close())
	f.must(s.Close())
}

// Pieces of a block that the base does not have yet are shared by one call, with what lies
// between them; blocks in a row, too. What comes along shows nowhere.
func TestVHDPiecesOfABlockAreSharedByOneCall(t *testing.T) {
	few, pieces := 0, 0
	for seed := uint64(1); seed <= 120; seed++ {
		mem := vfstest.New()
		mem.Reflink = true
		kit := virtual("VHD of 16 KiB blocks", vhd.CreateOptions{BlockSize: 16 << 10})
		f := &forest{bench: bench{t: t, fs: mem, kits: []Kit{kit}}, mem: mem, kit: map[string]Kit{}, views: map[string][]byte{}, below: map[string]string{}}
		r := rand.New(rand.NewPCG(seed, 1))
		const size = 512 << 10
		for i, name := range []string{"base", "a", "b", "c"} {
			var parent Parent
			if i > 0 {
				on := []string{"base", "a", "b"}[i-1]
				n, err := f.store().Node(path(on), "vhd")
				f.must(err)
				parent, f.below[path(name)] = Parent{on, "vhd", n.Image.ID}, path(on)
			}
			f.create(kit, path(name), size, parent)
			l := pages(r, size, i)
			f.put(kit, path(name), l)
			f.kit[path(name)], f.views[path(name)] = kit, l.over(f.views[f.below[path(name)]])
			f.strew(name, l)
			if i > 0 {
				pieces += len(l.writes)
			}
		}
		before := len(mem.Log())
		from := []string{"base", "a", "b"}[seed%3] // in one pass, or one layer alone
		f.must(commit("c", from)(t.Context(), f.store()))
		got, err := f.read(from)
		f.must(err)
		if !bytes.Equal(got, f.views[path("c")]) {
			t.Fatalf("seed %d: the disk has changed", seed)
		}
		file, err := f.fs.Open(path(from), false)
		f.must(err)
		f.must(kit.Check(file))
		for _, line := range mem.Log()[before:] {
			if strings.Contains(line, "copy ") {
				few++
			}
		}
	}
	if few*3 > pieces {
		t.Errorf("%d pieces were copied by %d calls", pieces, few)
	}
	t.Logf("%d pieces, %d calls", pieces, few)
}

// pages is a layer with data in single pages, and a few zeros; the lowest two have little.
func pages(r *rand.Rand, size int64, level int) layer {
	l := layer{size: size}
	for off := int64(0); off < size; off += page {
		switch n := r.IntN(10); {
		case level <= 1 && n > 0:
		case n < 4:
			l.writes = append(l.writes, write{off, page, randomBytes(r, page)})
		case n < 6:
			l.writes = append(l.writes, write{off: off, n: page})
		}
	}
	return l
}
