package qcow2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// resizeWithBitmaps is what a merge and image resize do.
func resizeWithBitmaps(m *Image, size int64) error {
	if err := m.CanKeepBitmaps(size, nil); err != nil {
		return err
	}
	if err := m.Prepare(); err != nil {
		return err
	}
	return m.Resize(size, 0)
}

// Bitmaps of a disk that gets other sizes say what they say after qemu-img resize, while QEMU writes between.
func TestBitmapsOfAResizedDiskAsQEMU(t *testing.T) {
	for _, c := range []struct {
		name, options string
		cluster       int64
	}{
		{"512", "", 512}, {"4k", "", 4096}, {"64k", "", 64 << 10}, {"extended", "extended_l2=on", 16 << 10}, {"backed", "", 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			theirs := raise(t, dir, species{name: "qemu", cluster: c.cluster, size: 8 << 20 / c.cluster, options: c.options})
			if c.name == "backed" {
				create(t, dir, "base", "", "8M")
				theirs.img(t, "rebase -u -b base -F qcow2")
			}
			theirs.img(t, "bitmap --add -g 512 %s fine")
			theirs.img(t, "bitmap --add -g 1M %s coarse")
			theirs.img(t, "bitmap --add --disable %s idle")
			ours := theirs.copyTo(t, "ours", theirs.load(t))
			rng := rand.New(rand.NewPCG(7, uint64(c.cluster)))
			size := int64(8 << 20)
			for step := range 14 {
				write := fmt.Sprintf("write -P %d %d %d", 1+rng.IntN(255), 512*rng.Int64N(size/1024), 512*(1+rng.Int64N(size/2048)))
				theirs.io(t, write)
				ours.io(t, write)
				size = 512 * (512 + rng.Int64N(16<<20/512)*int64(1+step%2*2))
				theirs.img(t, fmt.Sprintf("resize -q --shrink %%s %d", size))
				m := ours.open(t)
				if err := errorsOf(resizeWithBitmaps(m, size), m.Close()); err != nil {
					t.Fatalf("to %d: %v", size, err)
				}
				if a, b := ours.listed(t), theirs.listed(t); a != b {
					t.Fatalf("step %d, at %d: %s\nqemu-img: %s", step, size, a, b)
				}
				if res, ok := ours.qemuCheck(t); !ok || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
					t.Fatalf("at %d: %v %+v", size, ok, res)
				}
			}
		})
	}
}

// At each crash point the disk has the old size or the new one, with bitmaps that fit it: those of the
// new size say what they are to say, and those of the old one at least what they said, and what has gone.
func TestCrashWithinAResizeWithBitmaps(t *testing.T) {
	dir := t.TempDir()
	some := raise(t, dir, species{name: "some", cluster: 4096, size: 600, steps: withBitmaps})
	backed := raise(t, dir, species{name: "backed", cluster: 512, size: 600, steps: everyday})
	create(t, dir, "base", "", "4M")
	backed.img(t, "rebase -u -b base -F qcow2")
	backed.img(t, "bitmap --add -g 512 %s fine")
	backed.io(t, "write 1k 9k")
	for _, c := range []struct {
		name string
		of   specimen
		size int64
	}{
		{"longer", some, 9 << 20}, {"much longer", some, 60 << 30}, {"shorter", some, 1<<20 + 1536},
		{"longer on a backing file", backed, 5 << 20}, {"shorter on a backing file", backed, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image := c.of.load(t)
			before := bitsOf(t, image)
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				var after [][]byte
				mem.Before(n, func() {
					for seed := range uint64(12) {
						after = append(after, contentOf(t, mem.Crash(seed)))
					}
				})
				f, err := mem.Open(crashDisk, true)
				if err != nil {
					t.Fatal(err)
				}
				m, err := Open(f, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := resizeWithBitmaps(m, c.size); err != nil {
					t.Fatal(err)
				}
				done := bitsOf(t, contentOf(t, mem))
				if done.size != c.size {
					t.Fatalf("a disk of %d", done.size)
				}
				if after == nil {
					if n < 6 {
						t.Fatalf("%d crash points", n-1)
					}
					return
				}
				for seed, b := range after {
					where := fmt.Sprintf("change %d, seed %d", n, seed)
					switch now := bitsOf(t, b); now.size {
					case c.size:
						if !slices.Equal(now.lists(), done.lists()) {
							t.Errorf("%s: %v, want %v", where, now, done)
						}
					case before.size:
						wantAtLeast(t, where, now, before)
						wantGoneMarked(t, where, image, b, now)
					default:
						t.Errorf("%s: a disk of %d", where, now.size)
					}
					if res, err := Check(newCheckMem(slices.Clone(b)), RepairNone); err != nil || res.Corruptions+res.CheckErrors > 0 {
						t.Errorf("%s: %v %s", where, err, res.describe())
					}
				}
			}
		})
	}
}

// diskBits are all bitmaps of a disk: for each, what it says of each 512 bytes.
type diskBits struct {
	size  int64
	names []string
	auto  []bool
	dirty [][]bool
}

func (d diskBits) lists() (all []string) {
	for i, name := range d.names {
		text := strings.Builder{}
		for _, is := range d.dirty[i] {
			fmt.Fprintf(&text, "%t ", is)
		}
		all = append(all, fmt.Sprint(name, d.auto[i], text.String()))
	}
	return all
}

func bitsOf(t *testing.T, image []byte) diskBits {
	t.Helper()
	m, err := NewReader(newCheckMem(image), int64(len(image)), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.openBitmaps()
	if err != nil {
		t.Fatal(err)
	}
	d := diskBits{size: m.h.Size}
	for _, b := range e.all {
		dirty := make([]bool, min(m.h.Size, 16<<20)/512) // what is beyond is clean in these tests
		if err := m.EachDirty(b.Name, func(off, n int64) {
			for at := off; at < min(off+n, int64(len(dirty))*512); at += 512 {
				dirty[at/512] = true
			}
		}); err != nil {
			t.Fatal(err)
		}
		d.names, d.auto, d.dirty = append(d.names, b.Name), append(d.auto, b.Auto), append(d.dirty, dirty)
	}
	return d
}

// wantAtLeast wants each bitmap to say all that it said.
func wantAtLeast(t *testing.T, where string, now, before diskBits) {
	t.Helper()
	if !slices.Equal(now.names, before.names) {
		t.Fatalf("%s: bitmaps %v, were %v", where, now.names, before.names)
	}
	for i := range before.dirty {
		for k, was := range before.dirty[i] {
			if was && !now.dirty[i][k] {
				t.Fatalf("%s: %s has forgotten what is at %d", where, now.names[i], k*512)
			}
		}
	}
}

// wantGoneMarked wants all that reads otherwise to be marked in the bitmaps that are enabled.
func wantGoneMarked(t *testing.T, where string, image, b []byte, now diskBits) {
	t.Helper()
	was, is := guestOf(t, image), guestOf(t, b)
	for at := 0; at+512 <= len(was); at += 512 {
		if string(was[at:at+512]) == string(is[at:at+512]) {
			continue
		}
		for i, auto := range now.auto {
			if auto && !now.dirty[i][at/512] {
				t.Fatalf("%s: %s does not say that %d has changed", where, now.names[i], at)
			}
		}
	}
}

// guestOf is what an image itself has, zeros for holes.
func guestOf(t *testing.T, image []byte) []byte {
	t.Helper()
	m, err := NewReader(newCheckMem(image), int64(len(image)), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, min(m.h.Size, 16<<20))
	if _, err := m.ReadAt(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}
