package vfs

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// wantShares looks from newly opened files: what was seen once is not looked at again.
func wantShares(t *testing.T, a, b string, off, at, n, want int64) {
	t.Helper()
	f, g := openOS(t, a, false), openOS(t, b, false)
	if got := f.Shares(off, g, at, n); got != want {
		t.Errorf("%d bytes of %d from %d and %d on are shared, want %d", got, n, off, at, want)
	}
	if got := g.Shares(at, f, off, n); got != want {
		t.Errorf("the other way round: %d bytes of %d from %d and %d on, want %d", got, n, at, off, want)
	}
}

// overwrite writes, but does not see to it that anything reaches the device.
func overwrite(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	must(t, second(openOS(t, path, true).WriteAt(b, off)))
}

func TestFilesThatAreNoClonesShareNothing(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		data := noise(1 << 20)
		a, b, c := createOS(t, dir, "a", data), createOS(t, dir, "b", data), createOS(t, dir, "c", noise(1<<20+512))
		for _, sync := range []bool{false, true} {
			for off := int64(0); off < 1<<20; off += 60_000 {
				wantShares(t, a.Path(), b.Path(), off, off, 1<<20-off, 0)
				wantShares(t, a.Path(), c.Path(), off, off, 1<<20-off, 0)
			}
			if sync {
				break
			}
			must(t, a.Sync())
			must(t, b.Sync())
		}
		wantShares(t, a.Path(), a.Path(), 0, 0, 1<<20, 1<<20) // it does with itself
	})
}

// What is shared ends where either extent does, and is told to the byte.
func TestSharesEndWithTheExtent(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		const kib = 1 << 10
		a := createOS(t, dir, "a", noise(64*kib))
		must(t, second(a.WriteAt(noise(64*kib+1), 128*kib)))
		b := cloneOf(t, a.Path(), "b")
		for _, c := range []struct{ off, at, n, want int64 }{
			{0, 0, 1 << 30, 64 * kib},
			{0, 0, 10, 10},
			{0, 0, 0, 0},
			{100, 100, 1 << 30, 64*kib - 100},
			{100, 101, 1 << 30, 0}, // other places of the same extent
			{4096, 0, 1 << 30, 0},
			{64*kib - 1, 64*kib - 1, 1 << 30, 1},
			{64 * kib, 64 * kib, 1 << 30, 0}, // the hole
			{128*kib - 1, 128*kib - 1, 1 << 30, 0},
			{128 * kib, 128 * kib, 1 << 30, 64*kib + 4*kib}, // to the end of the block
			{192 * kib, 192 * kib, 1 << 30, 4 * kib},
			{196 * kib, 196 * kib, 1 << 30, 0}, // beyond the end
			{1 << 40, 1 << 40, 1 << 30, 0},
			{math.MaxInt64, math.MaxInt64, 1, 0},
			{0, 1 << 40, 1, 0},
		} {
			wantShares(t, a.Path(), b, c.off, c.at, c.n, c.want)
		}
	})
}

// What was written to one of the two is told from what is shared at once, also before
// it has a place on the device.
func TestWhatWasRewrittenIsNotShared(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		data := noise(1 << 20)
		for name, to := range map[string]func(a, b string) string{
			"clone":    func(_, b string) string { return b },
			"original": func(a, _ string) string { return a },
		} {
			a := createOS(t, dir, name, data).Path()
			b := cloneOf(t, a, name+" clone")
			overwrite(t, to(a, b), 256<<10+100, []byte{1})
			overwrite(t, to(a, b), 512<<10, data[512<<10:512<<10+8192]) // with the same bytes
			wantShares(t, a, b, 0, 0, 1<<20, 256<<10)
			wantShares(t, a, b, 256<<10, 256<<10, 1<<20, 0)
			wantShares(t, a, b, 256<<10+4095, 256<<10+4095, 1<<20, 0)
			wantShares(t, a, b, 256<<10+4096, 256<<10+4096, 1<<20, 256<<10-4096)
			wantShares(t, a, b, 512<<10, 512<<10, 1<<20, 0)
			wantShares(t, a, b, 512<<10+8192, 512<<10+8192, 512<<10, 512<<10-8192)
			if n := sharedBytes(t, a, b, 1<<20); n != 1<<20-4096-8192 {
				t.Errorf("%s: %d bytes are shared in all", name, n)
			}
		}
	})
}

// A file that was cut, and made longer again, has zeros there.
func TestWhatWasCutOffIsNotShared(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		a := createOS(t, dir, "a", noise(64<<10)).Path()
		b := cloneOf(t, a, "b")
		must(t, os.Truncate(b, 32<<10+100))
		must(t, os.Truncate(b, 64<<10))
		wantShares(t, a, b, 0, 0, 64<<10, 32<<10)
		wantShares(t, a, b, 32<<10, 32<<10, 64<<10, 0)
		wantShares(t, a, b, 48<<10, 48<<10, 64<<10, 0)
	})
}

// Where a file has room but no data, the device may hold anything.
func TestRoomWithoutDataIsNotShared(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		a := createOS(t, dir, "a", noise(64<<10))
		must(t, a.Reserve(64<<10, 1<<20))
		must(t, a.Truncate(1<<20))
		b := cloneOf(t, a.Path(), "b")
		wantShares(t, a.Path(), b, 64<<10, 64<<10, 1<<19, 0)
		wantShares(t, a.Path(), a.Path(), 64<<10, 64<<10, 1<<19, 0)
		overwrite(t, a.Path(), 512<<10, noise(4096))
		wantShares(t, a.Path(), b, 512<<10, 512<<10, 1<<19, 0)
		overwrite(t, b, 512<<10, noise(4097)[:4096])
		wantShares(t, a.Path(), b, 512<<10, 512<<10, 1<<19, 0)
		wantShares(t, a.Path(), b, 0, 0, 64<<10, 64<<10)
	})
}

// Places on two devices are not the same because their numbers are, and a device of
// its own, or a file of another kind, has no places that can be told.
func TestPlacesOfDifferentDevicesAreNotTheSame(t *testing.T) {
	dir := xfs(t)
	path := createOS(t, dir, "a", noise(64<<10)).Path()
	f := openOS(t, path, false)
	for what, change := range map[string]func(g *osFile){
		"another file system": func(g *osFile) { g.dev++ },
		"a block device":      func(g *osFile) { g.block = true },
	} {
		g := openOS(t, path, false)
		if n := f.Shares(0, g, 0, 64<<10); n != 64<<10 {
			t.Fatalf("%d bytes are shared with itself", n)
		}
		change(g)
		if n := f.Shares(0, g, 0, 64<<10) + g.Shares(0, f, 0, 64<<10); n != 0 {
			t.Errorf("%s: %d bytes are shared", what, n)
		}
	}
	if n := f.Shares(0, wrapped{f}, 0, 64<<10); n != 0 {
		t.Errorf("%d bytes are shared with a file of another kind", n)
	}
}

// Where places cannot be told, nothing is shared.
func TestFilesWithoutPlacesShareNothing(t *testing.T) {
	path := createOS(t, small(t), "a", noise(64<<10)).Path()
	wantShares(t, path, path, 0, 0, 64<<10, 0)
}

// Data that btrfs has compressed, or keeps in its tree, is not where the extent is.
func TestDataThatIsStoredOtherwiseIsNotShared(t *testing.T) {
	dir := btrfs(t)
	little := createOS(t, dir, "little", noise(100)).Path()
	wantShares(t, little, little, 0, 0, 100, 0)
	wantShares(t, little, cloneOf(t, little, "little clone"), 0, 0, 100, 0)
	packed := newFile(t, dir, "packed", "")
	chattr(t, "+c", packed)
	overwrite(t, packed, 0, bytes.Repeat([]byte("virt-rotate "), 100_000))
	clone := cloneOf(t, packed, "packed clone")
	for off := int64(0); off < 1<<20; off += 40_000 {
		wantShares(t, packed, clone, off, off, 1<<20, 0)
	}
}

// More extents than the kernel is asked for at once.
func TestManyExtents(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		const blocks = 3000
		a := createOS(t, dir, "a", noise(blocks*cloneAlign)).Path()
		b := cloneOf(t, a, "b")
		f := openOS(t, b, true)
		for i := int64(1); i < blocks; i += 2 {
			must(t, second(f.WriteAt(noise(100), i*cloneAlign)))
			if i%199 == 0 {
				must(t, f.Sync())
			}
		}
		if n := len(openOS(t, b, false).look()); n < 600 {
			t.Fatalf("%d extents: too few for this test", n)
		}
		x, y := openOS(t, a, false), openOS(t, b, false)
		for i := range int64(blocks) {
			if got, want := x.Shares(i*cloneAlign, y, i*cloneAlign, 1<<20), (i+1)%2*cloneAlign; got != want {
				t.Fatalf("block %d: %d bytes are shared, want %d", i, got, want)
			}
		}
	})
}

// Whatever happened to two clones of each other: what is told to be shared is the same,
// and what none of the two has had written to it is told to be shared.
func TestSharesTellsTheTruth(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		for seed := range uint64(12) {
			sharesAtRandom(t, dir, seed)
		}
	})
}

const randomSize = 2 << 20 // of the files, at first

func sharesAtRandom(t *testing.T, dir string, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	a := createOS(t, dir, fmt.Sprintf("a%d", seed), noise(randomSize)).Path()
	files := []*osFile{openOS(t, a, true), openOS(t, cloneOf(t, a, filepath.Base(a)+" clone"), true)}
	touched := map[int64]bool{}
	for range 60 {
		changeAtRandom(t, rng, files[rng.IntN(2)], touched)
	}
	x, y := openOS(t, files[0].Path(), false), openOS(t, files[1].Path(), false)
	shared := 0
	for off := int64(0); off < randomSize; off += cloneAlign {
		n := x.Shares(off, y, off, cloneAlign)
		if n == 0 {
			if !touched[off] {
				t.Fatalf("seed %d, %s: block at %d: nobody has written there, but it is not shared", seed, a, off)
			}
			continue
		}
		shared++
		if p, q := blockAt(x, off), blockAt(y, off); !bytes.Equal(p, q) {
			t.Fatalf("seed %d, %s: block at %d: told to be shared, but it differs", seed, a, off)
		}
	}
	if shared == 0 || shared == randomSize/cloneAlign {
		t.Errorf("seed %d: %d blocks are shared: no test", seed, shared)
	}
	for _, f := range []*osFile{files[0], files[1], x, y} {
		must(t, f.Close())
	}
}

// changeAtRandom writes, punches, allocates, cuts or copies, and notes which blocks.
func changeAtRandom(t *testing.T, rng *rand.Rand, f *osFile, touched map[int64]bool) {
	t.Helper()
	off := rng.Int64N(randomSize)
	n := 1 + rng.Int64N(30_000)
	if rng.IntN(2) == 0 {
		off, n = off&^(cloneAlign-1), (n+cloneAlign-1)&^(cloneAlign-1)
	}
	switch rng.IntN(8) {
	case 0:
		must(t, f.Punch(off, n))
	case 1:
		must(t, unix.Fallocate(f.fd(), unix.FALLOC_FL_ZERO_RANGE, off, n))
	case 2: // the device has it then
		must(t, f.Sync())
		return
	case 3:
		from := rng.Int64N(randomSize-n) &^ (cloneAlign - 1)
		if from < off+n && off < from+n {
			return
		}
		must(t, second(f.Copy(off, f, from, n)))
	case 4:
		must(t, f.Truncate(randomSize-n))
		must(t, f.Truncate(randomSize))
		off = randomSize - n
	default:
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		must(t, second(f.WriteAt(b, off)))
	}
	for at := off &^ (cloneAlign - 1); at < off+n; at += cloneAlign {
		touched[at] = true
	}
}

// blockAt is one block, with zeros beyond the end.
func blockAt(f *osFile, off int64) []byte {
	var b [cloneAlign]byte
	f.ReadAt(b[:], off)
	return b[:]
}
