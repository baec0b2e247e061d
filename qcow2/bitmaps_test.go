package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// editBitmaps changes the bitmaps of a specimen.
func (s specimen) editBitmaps(t *testing.T, do func(*BitmapEdit) error) error {
	t.Helper()
	m := s.open(t)
	err := m.EditBitmaps(do)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return err
}

func (s specimen) open(t *testing.T) *Image {
	t.Helper()
	f, err := vfs.OS().Open(filepath.Join(s.dir, s.file), true)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// listed are the bitmaps of an image and what QEMU reads in each, as it lists them.
func (s specimen) listed(t *testing.T) string {
	t.Helper()
	image := s.load(t)
	list, err := ReadBitmaps(bytes.NewReader(image), mustRead(t, image))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b Bitmap) int { return strings.Compare(a.Name, b.Name) })
	text := ""
	for _, b := range list {
		text += fmt.Sprintf("%+v %s\n", b, s.bitmap(t, b.Name))
	}
	return text
}

// bitmapSteps are changes, each as qemu-img has it and as ours.
var bitmapSteps = []struct {
	qemu string
	ours func(*BitmapEdit) error
}{
	{"--add %s a", func(e *BitmapEdit) error { return e.Add("a", e.m.DefaultGranularity()) }},
	{"--add -g 512 %s fine", func(e *BitmapEdit) error { return e.Add("fine", 512) }},
	{"--add -g 2M --disable %s coarse", func(e *BitmapEdit) error {
		if err := e.Add("coarse", 2<<20); err != nil {
			return err
		}
		return e.Enable("coarse", false)
	}},
	{"--disable %s a", func(e *BitmapEdit) error { return e.Enable("a", false) }},
	{"--enable %s coarse", func(e *BitmapEdit) error { return e.Enable("coarse", true) }},
	{"--merge fine %s coarse", func(e *BitmapEdit) error { return e.Merge("coarse", e.m, "fine") }},
	{"--merge coarse %s a", func(e *BitmapEdit) error { return e.Merge("a", e.m, "coarse") }},
	{"--clear %s fine", func(e *BitmapEdit) error { return e.Clear("fine") }},
	{"--remove %s a", func(e *BitmapEdit) error { return e.Remove("a") }},
	{"--remove %s fine", func(e *BitmapEdit) error { return e.Remove("fine") }},
	{"--remove %s coarse", func(e *BitmapEdit) error { return e.Remove("coarse") }},
}

// Each change of a list of bitmaps leaves what qemu-img bitmap leaves, for QEMU and for us,
// while QEMU writes between them.
func TestBitmapsAsQEMU(t *testing.T) {
	for _, c := range []struct {
		name, options string
		cluster       int64
	}{
		{"512", "", 512}, {"4k", "", 4096}, {"64k", "", 64 << 10}, {"64k on a backing file", "backing", 64 << 10},
		{"4k on a backing file", "backing", 4096}, {"extended", "extended_l2=on", 16 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := species{name: "qemu", cluster: c.cluster, size: 8 << 20 / c.cluster, options: c.options}
			if c.options == "backing" {
				s.options = ""
			}
			dir := t.TempDir()
			theirs := raise(t, dir, s)
			if c.options == "backing" {
				create(t, dir, "base", "", "8M")
				theirs.img(t, "rebase -u -b base -F qcow2")
			}
			ours := theirs.copyTo(t, "ours", theirs.load(t))
			rng := rand.New(rand.NewPCG(1, uint64(c.cluster)))
			for _, step := range bitmapSteps {
				write := fmt.Sprintf("write -P %d %d %d", 1+rng.IntN(255), rng.Int64N(4000)*1024, 512*(1+rng.Int64N(1000)))
				theirs.io(t, write)
				ours.io(t, write)
				theirs.img(t, "bitmap -f qcow2 "+step.qemu)
				if err := ours.editBitmaps(t, step.ours); err != nil {
					t.Fatalf("%s: %v", step.qemu, err)
				}
				if a, b := ours.listed(t), theirs.listed(t); a != b {
					t.Fatalf("after %s: %s\nqemu-img: %s", step.qemu, a, b)
				}
				if res, ok := ours.qemuCheck(t); !ok || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
					t.Fatalf("after %s: %v %+v", step.qemu, ok, res)
				}
			}
			if h := mustRead(t, ours.load(t)); h.Autoclear != 0 || h.hasExtension(ExtensionBitmaps) {
				t.Errorf("the last one has left %+v", h)
			}
		})
	}
}

// What cannot be done is told, and nothing is changed.
func TestBitmapsThatCannotBe(t *testing.T) {
	m := raise(t, t.TempDir(), species{name: "disk", cluster: 4096, size: 600, steps: withBitmaps})
	old := raise(t, m.dir, species{name: "old", cluster: 4096, size: 60, options: "compat=0.10"})
	inUse := m.copyTo(t, "in-use", m.load(t))
	b := inUse.load(t)
	b[mustRead(t, b).BitmapDirectoryOffset+offBitmapFlags+3] |= bitmapInUse
	inUse.copyTo(t, "in-use", b)
	for _, c := range []struct {
		want string
		of   specimen
		do   func(*BitmapEdit) error
	}{
		{"already", m, func(e *BitmapEdit) error { return e.Add("first", 65536) }},
		{"bytes of UTF-8", m, func(e *BitmapEdit) error { return e.Add("", 65536) }},
		{"bytes of UTF-8", m, func(e *BitmapEdit) error { return e.Add(strings.Repeat("a", 1024), 65536) }},
		{"power of two", m, func(e *BitmapEdit) error { return e.Add("x", 3000) }},
		{"power of two", m, func(e *BitmapEdit) error { return e.Add("x", 256) }},
		{"there is no bitmap", m, func(e *BitmapEdit) error { return e.Remove("x") }},
		{"there is no bitmap", m, func(e *BitmapEdit) error { return e.Merge("first", e.m, "x") }},
		{"can only be removed", inUse, func(e *BitmapEdit) error { return e.Clear("first") }},
		{"can only be removed", inUse, func(e *BitmapEdit) error { return e.Enable("first", true) }},
		{"version 2", old, func(e *BitmapEdit) error { return e.Add("x", 65536) }},
	} {
		before := c.of.load(t)
		if err := c.of.editBitmaps(t, c.do); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
		if !bytes.Equal(c.of.load(t), before) {
			t.Errorf("%s: changed", c.want)
		}
	}
	if err := inUse.editBitmaps(t, func(e *BitmapEdit) error { return e.Remove("first") }); err != nil {
		t.Error(err)
	}
}

// At each crash point of a change all bitmaps are as they were, or as they are to be; what the
// guest sees is the same, and nothing is wrong but leaks.
func TestCrashWithinAChangeOfBitmaps(t *testing.T) {
	dir := t.TempDir()
	plain := raise(t, dir, species{name: "plain", cluster: 512, size: 300, steps: everyday})
	some := raise(t, dir, species{name: "some", cluster: 4096, size: 600, steps: withBitmaps})
	backed := raise(t, dir, species{name: "backed", cluster: 4096, size: 600, steps: everyday})
	create(t, dir, "base", "", "4M")
	backed.img(t, "rebase -u -b base -F qcow2")
	for _, c := range []struct {
		name string
		of   specimen
		do   func(*BitmapEdit) error
	}{
		{"the first one of an overlay", backed, func(e *BitmapEdit) error { return errorsOf(e.Add("a", 4096), e.MarkDirty(0, 1)) }},
		{"the first one", plain, func(e *BitmapEdit) error {
			return errorsOf(e.Add("a", 512), e.Add("b", 4096), e.MarkDirty(1000, 70000))
		}},
		{"one more", some, func(e *BitmapEdit) error { return errorsOf(e.Add("a", 512), e.MarkDirty(5000, 700000)) }},
		{"merged and cleared", some, func(e *BitmapEdit) error {
			return errorsOf(e.Merge("second", e.m, "first"), e.Clear("first"))
		}},
		{"the last ones removed", some, func(e *BitmapEdit) error { return errorsOf(e.Remove("first"), e.Remove("second")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image := c.of.load(t)
			guest, before := mapping(t, withoutBitmaps(image)), bitmapsOf(t, image)
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
				if err := m.EditBitmaps(c.do); err != nil {
					t.Fatal(err)
				}
				want := bitmapsOf(t, contentOf(t, mem))
				if after == nil {
					if n < 6 || want == before {
						t.Fatalf("%d crash points, %s", n-1, want)
					}
					return
				}
				for seed, b := range after {
					where := fmt.Sprintf("change %d, seed %d", n, seed)
					if now := bitmapsOf(t, b); now != before && now != want {
						t.Errorf("%s: %s\nwas %s\nis to be %s", where, now, before, want)
					}
					if mapping(t, withoutBitmaps(b)) != guest {
						t.Errorf("%s: the guest sees something else", where)
					}
					if res, err := Check(newCheckMem(slices.Clone(b)), RepairNone); err != nil || res.Corruptions+res.CheckErrors > 0 {
						t.Errorf("%s: %v %s", where, err, res.describe())
					}
				}
			}
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bitmapsOf are the bitmaps with all that they say.
func bitmapsOf(t *testing.T, image []byte) string {
	t.Helper()
	m, err := NewReader(bytes.NewReader(image), int64(len(image)), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.openBitmaps()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, b := range e.all {
		content, err := e.content(b)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("%+v %x\n", b.Bitmap, content)
	}
	return text
}

// withoutBitmaps is an image as a program sees it that knows none.
func withoutBitmaps(image []byte) []byte {
	b := slices.Clone(image)
	b[offAutoclear+7] &^= autoclearBitmaps
	return b
}
