package chaintest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// sinkKits have granules below, at and above the block of a sink.
func sinkKits() []Kit {
	return append(kits(), Raw(), qcow("2M", qcow2.CreateOptions{ClusterSize: 2 << 20}), vhds()[0])
}

// What a sink was given is there after a loss of power once Flush has returned.
func TestASinkKeepsWhatComesAndLeavesZerosOut(t *testing.T) {
	const size = 70<<20 + 512 // more than one round
	for i, k := range sinkKits() {
		mem := vfstest.New()
		b := bench{t: t, fs: mem, kits: []Kit{k}}
		b.create(k, path("a"), size, Parent{})
		to := b.open(k, path("a"), true).(chain.Target)
		full := int64(0)
		if i == 0 {
			full = 66 << 20
		}
		want := sinkRandomly(t, rand.New(rand.NewPCG(uint64(i), 1)), to, size, full)
		after := bench{t: t, fs: mem.Crash(1), kits: []Kit{k}}
		b.must(to.Close())
		checkSink(after, k, want, to.Granule())
	}
}

// sinkRandomly writes pieces with gaps, half of them zeros, after full bytes without gaps.
func sinkRandomly(t *testing.T, r *rand.Rand, to chain.Target, size, full int64) []byte {
	t.Helper()
	want := make([]byte, size)
	s, err := chain.NewSink(to)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; {
		n := min(1+r.Int64N(1<<20), size-off)
		if off < full || r.IntN(3) > 0 {
			if r.IntN(2) == 0 || off < full {
				copy(want[off:], randomBytes(r, n))
			}
			if err := s.Write(off, want[off:off+n]); err != nil {
				t.Fatal(err)
			}
		}
		off += n
		if off >= full && r.IntN(4) == 0 {
			off = min(off+r.Int64N(20<<20), size-512)
		}
		if off == size-512 {
			want[size-1] = 7
			if err := s.Write(off, want[off:]); err != nil {
				t.Fatal(err)
			}
			off = size
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	return want
}

// checkSink reads all, and wants no data where granules have zeros only.
func checkSink(b bench, k Kit, want []byte, granule int64) {
	b.t.Helper()
	f, err := b.fs.Open(path("a"), true)
	b.must(err)
	b.must(k.Check(f))
	b.must(f.Close())
	src := b.open(k, path("a"), false)
	got := make([]byte, len(want))
	_, err = src.ReadAt(got, 0)
	b.must(err)
	if !bytes.Equal(got, want) {
		b.t.Errorf("%s: other data", k.Name)
	}
	size := int64(len(want))
	for off := int64(0); off < size; off += granule {
		g := want[off:min(off+granule, size)]
		x, err := src.Extent(off, off+int64(len(g)))
		b.must(err)
		if len(bytes.Trim(g, "\x00")) == 0 && (x.Kind == chain.Data || x.Length < int64(len(g))) {
			b.t.Fatalf("%s: zeros at %d are stored: %+v", k.Name, off, x)
		}
	}
	b.must(src.Close())
}

func TestASinkGoesForwardOnly(t *testing.T) {
	mem := vfstest.New()
	b := bench{t: t, fs: mem, kits: []Kit{Raw()}}
	b.create(Raw(), path("a"), 8<<20, Parent{})
	to := b.open(Raw(), path("a"), true).(chain.Target)
	defer to.Close()
	s, err := chain.NewSink(to)
	b.must(err)
	b.must(s.Write(3<<20, make([]byte, 100)))
	if s.Write(3<<20+99, []byte{1}) == nil || s.Write(8<<20-1, []byte{1, 2}) == nil || s.Write(0, []byte{1}) == nil {
		t.Error("written")
	}
	b.must(s.Write(3<<20+100, []byte{1}))
}
