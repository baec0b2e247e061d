package vhdbridge

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// A bad node is left out with what builds on it, and nothing else is.
func TestOnlyWhatBuildsOnABadNodeIsLeftOut(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t testing.TB, dir string)
		made   string // VDIs of the layers
		left   string // nodes, with the beginning of the reason
	}{
		"nothing is wrong": {func(testing.TB, string) {}, "leaf other disk twin", ""},
		"a leaf in use": {func(t testing.TB, dir string) { mark(t, filepath.Join(dir, "disk.vhd")) },
			"leaf twin", "disk.vhd: a tapdisk has it open"},
		"a leaf that is cut off": {func(t testing.TB, dir string) { must(t, os.Truncate(filepath.Join(dir, "disk.vhd"), 1<<20)) },
			"leaf twin", "disk.vhd: vhd: offset"},
		"an old leaf without a journal": {func(t testing.TB, dir string) { rename(t, dir, "disk.vhd", "OLD_disk.vhd") },
			"leaf twin", "OLD_disk.vhd: the collector was interrupted"},
		"a base with overlapping blocks": {func(t testing.TB, dir string) { overlap(t, filepath.Join(dir, "other.vhd")) },
			"leaf", "other.vhd: vhd: offset; disk.vhd: it builds on other.vhd; twin.vhd: it builds on other.vhd"},
		"a base that is gone": {func(t testing.TB, dir string) { must(t, os.Remove(filepath.Join(dir, "base.vhd"))) },
			"other disk twin", "leaf.vhd: orphan"},
		"a base with another name": {func(t testing.TB, dir string) { rename(t, dir, "base.vhd", "moved.VHD") },
			"leaf other disk twin", ""},
		"extensions in capitals": {func(t testing.TB, dir string) {
			for _, name := range []string{"other", "disk", "twin"} {
				rename(t, dir, name+".vhd", name+".VHD")
			}
		}, "leaf other disk twin", ""},
		"the memory of a guest": {func(t testing.TB, dir string) {
			srtest.Write(t, dir, srtest.Node{Name: "suspended", Size: oddSize, Own: []byte("XenSavedDomv2-\nand so on, up to a whole sector" + strings.Repeat(".", 512))})
			must(t, os.WriteFile(filepath.Join(dir, "older.raw"), append([]byte("LinuxGuestRecord"), make([]byte, 1<<20)...), 0o600))
		}, "leaf other disk twin", "older.raw: it holds the memory; suspended.vhd: it holds the memory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newOdd(t)
			must(t, os.Remove(filepath.Join(dir, "garbage.vhd")))
			srtest.Write(t, dir, srtest.Node{Name: "twin", Parent: "other", Size: oddSize, Own: bytes.Repeat([]byte{5}, 1<<20)})
			b := bridge(vfs.OS())
			want := vdiSums(t, b, dir, name)
			c.change(t, dir)
			r := scan(t, vfs.OS(), dir)
			b.Store.Locate = r.Locate
			groups, left, err := r.Groups(nil, false)
			must(t, err)
			var made []string
			for _, g := range groups {
				made = append(made, g.Node.VDI)
				if sum, visible := want[g.Node.VDI]; visible && sumOf(t, b, g.Node) != sum {
					t.Errorf("%s reads otherwise than before", g.Node.VDI)
				}
			}
			slices.Sort(made)
			wanted := strings.Fields(c.made)
			if slices.Sort(wanted); !slices.Equal(made, wanted) {
				t.Errorf("made %q, want %q", made, wanted)
			}
			checkLeft(t, left, c.left)
		})
	}
}

func checkLeft(t *testing.T, left []Spoiled, want string) {
	t.Helper()
	var begins []string
	for text := range strings.SplitSeq(want, "; ") {
		if text != "" {
			begins = append(begins, text)
		}
	}
	for _, text := range begins {
		if !slices.ContainsFunc(left, func(s Spoiled) bool { return strings.HasPrefix(s.Node+": "+s.Reason, text) }) {
			t.Errorf("%q is not among %+v", text, left)
		}
	}
	if len(left) != len(begins) {
		t.Errorf("left out: %+v", left)
	}
}

// overlap puts the second block of a node over its first, from what the table says.
func overlap(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	const table = 1536
	first := make([]byte, 4)
	_, err = f.ReadAt(first, table)
	must(t, err)
	_, err = f.WriteAt(first, table+4)
	must(t, err)
	must(t, f.Close())
}

// asCopies gives the nodes of a repository the names, the locators and the lengths that
// logical volumes have: leaves are as large as they can become, with anything behind the
// blocks.
func asCopies(t testing.TB, dir string) {
	t.Helper()
	const extent = 4 << 20
	r := scan(t, vfs.OS(), dir)
	for _, n := range r.Nodes {
		rename(t, dir, n.Name, "VHD-"+n.VDI)
	}
	for _, n := range r.Nodes {
		path := filepath.Join(dir, "VHD-"+n.VDI)
		if n.Parent != "" {
			vdi := strings.TrimSuffix(n.Parent, ".vhd")
			id := uuidOf(t, filepath.Join(dir, "VHD-"+vdi))
			relinkTo(t, dir, "VHD-"+n.VDI, "VG_XenStorage--0a1b--2c-VHD--"+strings.ReplaceAll(vdi, "-", "--"), formatVHD, id)
		}
		data, err := os.ReadFile(path)
		must(t, err)
		footer := slices.Clone(data[len(data)-512:])
		length := (len(data) + extent - 1) / extent * extent
		if len(n.layer.Children) == 0 {
			length += 2 * extent
		}
		data = append(data[:len(data)-512], bytes.Repeat([]byte("old"), length)...)[:length]
		copy(data[length-512:], footer)
		must(t, os.WriteFile(path, data, 0o600))
	}
}

// Copies of logical volumes are coalesced as the plan says, read as before, and have no
// space that is lost.
func TestCopiesOfVolumesAreSound(t *testing.T) {
	for _, name := range []string{"01-linear", "02-branch", "04a-hidden-inner", "04c-garbage"} {
		t.Run(name, func(t *testing.T) {
			dir := unpack(t, name)
			b := bridge(vfs.OS())
			want := vdiSums(t, b, dir, name)
			asCopies(t, dir)
			r := scan(t, vfs.OS(), dir)
			wantClean(t, r)
			p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
			must(t, err)
			planned := len(p.Steps)
			must(t, b.Rehearse(t.Context(), r, p))
			if len(p.Steps) == 0 && name != "02-branch" || len(p.Steps) != planned || len(p.Spoiled) > 0 {
				t.Fatalf("%d of %d steps, %+v", len(p.Steps), planned, p.Spoiled)
			}
			_, failed, err := b.Run(t.Context(), r, p)
			if err != nil || len(failed) > 0 {
				t.Fatalf("%+v, %v", failed, err)
			}
			after := scan(t, vfs.OS(), dir)
			for vdi, sum := range want {
				if n := after.Node(vdi); n == nil || n.Err != nil || sumOf(t, b, n) != sum {
					t.Errorf("%s: %+v", vdi, n)
				}
			}
			wantClean(t, after)
		})
	}
}

// What a rehearsal leaves of a plan is what the run does, and the marks of the scan are
// the steps.
func TestWhatIsPlannedIsDone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t testing.TB, dir string)
		steps  string // operations, in order
		free   int64
		said   string
	}{
		"nothing is wrong":      {func(testing.TB, string) {}, "leaf-coalesce delete leaf-coalesce", 0, ""},
		"there is no room":      {func(testing.TB, string) {}, "delete leaf-coalesce", 100, "are free"},
		"the old name is taken": {func(t testing.TB, dir string) { write(t, dir, "OLD_leaf") }, "", 0, "OLD_leaf.vhd is there already"},
		"the new name is taken": {func(t testing.TB, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "raw.raw"), make([]byte, oddSize), 0o600))
			srtest.Write(t, dir, srtest.Node{Name: "leaf2", Size: oddSize})
			relinkTo(t, dir, "leaf2.vhd", "raw.raw", formatRaw, "")
			must(t, os.WriteFile(filepath.Join(dir, "leaf2.raw"), make([]byte, oddSize), 0o600))
		}, "leaf-coalesce delete leaf-coalesce", 0, "leaf2.raw is there already"},
		"a node is a symbolic link": {func(t testing.TB, dir string) {
			away := t.TempDir()
			must(t, os.Rename(filepath.Join(dir, "leaf.vhd"), filepath.Join(away, "leaf.vhd")))
			must(t, os.Symlink(filepath.Join(away, "leaf.vhd"), filepath.Join(dir, "leaf.vhd")))
		}, "delete leaf-coalesce", 0, "symbolic link"},
		"a leaf's end is overwritten by blocks": {func(t testing.TB, dir string) { chop(t, filepath.Join(dir, "leaf.vhd"), 512) },
			"delete leaf-coalesce", 0, "its end has no footer"},
		"a node is locked": {func(t testing.TB, dir string) {
			f, err := vfs.OS().Open(filepath.Join(dir, "base.vhd"), true)
			must(t, err)
			must(t, f.Lock(vfs.LockWrite))
			t.Cleanup(func() { f.Close() })
		}, "delete leaf-coalesce", 0, "another process writes to it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newOdd(t)
			c.change(t, dir)
			b := bridge(vfs.OS())
			r := scan(t, vfs.OS(), dir)
			b.Store.Locate = r.Locate
			p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true, Free: c.free})
			must(t, err)
			must(t, b.Rehearse(t.Context(), r, p))
			var ops []string
			for _, s := range p.Steps {
				ops = append(ops, string(s.Op))
			}
			if have := strings.Join(ops, " "); have != c.steps {
				t.Errorf("%s, want %s", have, c.steps)
			}
			if text := fmt.Sprint(p.Spoiled, p.Doubts); !strings.Contains(text, c.said) {
				t.Errorf("%q is not said: %s", c.said, text)
			}
			if name != "a node is locked" && c.free == 0 {
				marksAreSteps(t, r, p)
			}
			done, failed, err := b.Run(t.Context(), r, p)
			if err != nil || len(failed) > 0 || len(done) != len(p.Steps) {
				t.Errorf("done %+v, failed %+v, %v", done, failed, err)
			}
		})
	}
}

// marksAreSteps wants each node that the scan has marked to be one that goes.
func marksAreSteps(t *testing.T, r *Repository, p *Plan) {
	t.Helper()
	for _, n := range r.Nodes {
		goes := slices.ContainsFunc(p.Steps, func(s Step) bool { return slices.Contains(s.Nodes, n.Name) })
		if (n.LeafCoalesceable || n.Coalesceable || n.Garbage) && !goes {
			t.Errorf("%s is marked, and stays", n.Name)
		}
	}
}

func chop(t testing.TB, path string, n int64) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()-n))
}

// Marks of use are taken off what is sound, and nothing else is changed.
func TestMarksOfUseAreTakenOff(t *testing.T) {
	dir := newOdd(t)
	b := bridge(vfs.OS())
	want := vdiSums(t, b, dir, "odd")
	before := filesBelow(t, dir)
	mark(t, filepath.Join(dir, "leaf.vhd"))
	chop(t, filepath.Join(dir, "disk.vhd"), 512)
	marked := filesBelow(t, dir)
	r := scan(t, vfs.OS(), dir)
	if done := Release(b.Store, r, true); !slices.Equal(done.Nodes, []string{"disk.vhd", "leaf.vhd"}) || len(done.Failed) > 0 {
		t.Fatalf("dry: %+v", done)
	}
	if now := filesBelow(t, dir); fmt.Sprint(now) != fmt.Sprint(marked) {
		t.Error("a dry run has changed something")
	}
	f, err := vfs.OS().Open(filepath.Join(dir, "disk.vhd"), true)
	must(t, err)
	must(t, f.Lock(vfs.LockWrite))
	if done := Release(b.Store, r, false); len(done.Failed) != 1 || done.Failed[0].Node != "disk.vhd" {
		t.Errorf("locked: %+v", done)
	}
	must(t, f.Close())
	if done := Release(b.Store, r, false); !slices.Equal(done.Nodes, []string{"disk.vhd"}) {
		t.Errorf("%+v", done)
	}
	if now := filesBelow(t, dir); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Error("the files are not as they were before the crash")
	}
	for vdi, sum := range want {
		if n := scan(t, vfs.OS(), dir).Node(vdi); n.InUse || sumOf(t, b, n) != sum {
			t.Errorf("%s: %+v", vdi, n)
		}
	}
	chop(t, filepath.Join(dir, "leaf.vhd"), 3<<19) // in the midst of data
	if done := Release(b.Store, scan(t, vfs.OS(), dir), false); len(done.Failed) != 1 || !strings.Contains(done.Failed[0].Reason, "cut off") {
		t.Errorf("cut off: %+v", done)
	}
}

// A directory of repositories has none of its own, and names those below it.
func TestRepositoriesBelowADirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/one.vhd", "a/two.vhd", "b/deeper/three.raw", "c/no.txt"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	places, err := Below(vfs.OS(), dir)
	must(t, err)
	if want := []Place{{filepath.Join(dir, "a"), 2}, {filepath.Join(dir, "b/deeper"), 1}}; !slices.Equal(places, want) {
		t.Errorf("%+v, want %+v", places, want)
	}
}

// A repository of which only base copies are there may have been copied in part.
func TestBaseCopiesAloneAreNoGarbage(t *testing.T) {
	dir := newOdd(t)
	must(t, os.Remove(filepath.Join(dir, "leaf.vhd")))
	must(t, os.Remove(filepath.Join(dir, "disk.vhd")))
	r := scan(t, vfs.OS(), dir)
	p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
	must(t, err)
	if len(p.Steps) > 0 || !slices.Equal(p.Doubts, []string{BaseCopiesOnly}) || r.HasVDI() {
		t.Errorf("%+v", p)
	}
}

// A journal that cannot be true hides nothing.
func TestAJournalOfALeafIsToBeTrue(t *testing.T) {
	dir := newOdd(t)
	for leaf, parent := range map[string]string{"leaf": "disk", "disk": "base"} {
		must(t, os.WriteFile(filepath.Join(dir, "leaf_"+leaf), []byte(parent), 0o600))
		before := filesBelow(t, dir)
		var refused *chain.RefusedError
		if _, err := bridge(vfs.OS()).Recover(scan(t, vfs.OS(), dir)); !errors.As(err, &refused) {
			t.Errorf("%s: %v", leaf, err)
		}
		if _, err := scan(t, vfs.OS(), dir).Interrupted(); !errors.As(err, &refused) {
			t.Errorf("%s: %v", leaf, err)
		}
		if fmt.Sprint(filesBelow(t, dir)) != fmt.Sprint(before) {
			t.Errorf("%s: something has changed", leaf)
		}
		must(t, os.Remove(filepath.Join(dir, "leaf_"+leaf)))
	}
}
