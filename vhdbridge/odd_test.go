package vhdbridge

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// oddSize is that of the disks below, bytes.
const oddSize = 4 << 20

// oddTrees are a base that only its leaf needs, and another tree with garbage.
var oddTrees = []srtest.Node{
	{Name: "base", Size: oddSize, Hidden: true, Own: bytes.Repeat([]byte{1}, 2<<20)},
	{Name: "leaf", Parent: "base", Size: oddSize, Own: append(make([]byte, 2<<20), bytes.Repeat([]byte{2}, 1<<20)...)},
	{Name: "other", Size: oddSize, Hidden: true, Own: bytes.Repeat([]byte{3}, 1<<20)},
	{Name: "disk", Parent: "other", Size: oddSize, Own: bytes.Repeat([]byte{4}, 1<<20)},
	{Name: "garbage", Parent: "other", Size: oddSize, Hidden: true},
}

func newOdd(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range oddTrees {
		srtest.Write(t, dir, n)
	}
	return dir
}

// filesBelow are the sums of all files, but for those of the collector and of the run lock.
func filesBelow(t testing.TB, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			sums[path] = fileSum(t, path)
		}
		return err
	}))
	return sums
}

func rename(t testing.TB, dir, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755))
	must(t, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
}

func copyTo(t testing.TB, dir, from, to string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, from))
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, to), data, 0o600))
}

// write makes another image of that name.
func write(t testing.TB, dir, name string) {
	t.Helper()
	srtest.Write(t, dir, srtest.Node{Name: name, Size: oddSize, Hidden: true, Own: bytes.Repeat([]byte{9}, 1<<20)})
}

// relinkTo lets a node build on a name, as another program would have written it.
func relinkTo(t testing.TB, dir, file, name, format, id string) {
	t.Helper()
	f, err := vfs.OS().Open(filepath.Join(dir, file), true)
	must(t, err)
	image, err := vhd.Open(f)
	must(t, err)
	must(t, image.(interface {
		SetParent(name, format, id string) error
	}).SetParent(name, format, id))
	must(t, image.Close())
}

// Whatever has been done to a repository by hand: what the nodes that are left build on is
// not taken for garbage, and nothing is merged under them.
func TestNothingIsGarbageWhileANodeIsNotUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t testing.TB, dir string)
		doubt  string // what is said, in part
		merges bool   // leaf can be merged all the same
	}{
		"the parent has another name":       {func(t testing.TB, dir string) { rename(t, dir, "base.vhd", "copy.vhd") }, "calls its parent base.vhd, which is here as copy.vhd", false},
		"the parent is gone":                {func(t testing.TB, dir string) { must(t, os.Remove(filepath.Join(dir, "base.vhd"))) }, "nor is any other node with the UUID", false},
		"a copy of the parent has its name": {func(t testing.TB, dir string) { copyTo(t, dir, "base.vhd", "copy.vhd") }, "has the UUID of the parent of leaf.vhd", true},
		"two copies and none has its name": {func(t testing.TB, dir string) {
			copyTo(t, dir, "base.vhd", "a.vhd")
			rename(t, dir, "base.vhd", "b.vhd")
		}, "both have its UUID", false},
		"its name has another image": {func(t testing.TB, dir string) { rename(t, dir, "base.vhd", "away.vhd"); write(t, dir, "base") }, "which is here as away.vhd", false},
		"another image instead of it": {func(t testing.TB, dir string) {
			must(t, os.Remove(filepath.Join(dir, "base.vhd")))
			write(t, dir, "base")
		}, "it was made on the image", false},
		"a leaf with another extension": {func(t testing.TB, dir string) { rename(t, dir, "leaf.vhd", "leaf.vhd.bak") }, "leaf.vhd.bak builds on it", false},
		"a leaf without one":            {func(t testing.TB, dir string) { rename(t, dir, "leaf.vhd", "leaf") }, "leaf builds on it", false},
		"a leaf in a directory below":   {func(t testing.TB, dir string) { rename(t, dir, "leaf.vhd", "old/leaf.vhd") }, "old/leaf.vhd builds on it", false},
		"a damaged file that could be a leaf": {func(t testing.TB, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "part"), []byte("conectix, and no more than that"+strings.Repeat("\x00", 600)), 0o600))
		}, "part could build on a node", true},
		"an old leaf without a journal": {func(t testing.TB, dir string) { rename(t, dir, "leaf.vhd", "OLD_leaf.vhd") }, "there is no journal of that", false},
		"a damaged leaf":                {func(t testing.TB, dir string) { must(t, os.Truncate(filepath.Join(dir, "leaf.vhd"), 100<<10)) }, "leaf.vhd: vhd:", false},
		"a leaf in use":                 {func(t testing.TB, dir string) { mark(t, filepath.Join(dir, "leaf.vhd")) }, "sr repair --not-in-use ", false},
		"a parent in a directory below": {func(t testing.TB, dir string) {
			copyTo(t, dir, "base.vhd", "sub/base.vhd")
			id := uuidOf(t, filepath.Join(dir, "base.vhd"))
			relinkTo(t, dir, "leaf.vhd", "sub/base.vhd", formatVHD, id)
			must(t, os.Remove(filepath.Join(dir, "base.vhd")))
			write(t, dir, "base")
		}, "sub/base.vhd", false},
		"a base under two names": {func(t testing.TB, dir string) {
			must(t, os.Symlink("base.vhd", filepath.Join(dir, "alias.vhd")))
			relinkTo(t, dir, "leaf.vhd", "alias.vhd", formatVHD, uuidOf(t, filepath.Join(dir, "base.vhd")))
		}, "it is the same file as alias.vhd", false},
		"a raw parent in another directory": {func(t testing.TB, dir string) {
			away := filepath.Join(t.TempDir(), "disk.raw")
			must(t, os.WriteFile(away, make([]byte, oddSize), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, oddSize), 0o600))
			relinkTo(t, dir, "leaf.vhd", away, formatRaw, "")
		}, "not in the repository: it is /", false},
		"a raw parent that is gone": {func(t testing.TB, dir string) { relinkTo(t, dir, "leaf.vhd", "lost.raw", formatRaw, "") }, "its parent lost.raw is not in the repository", false},
		"a VHD for a raw parent":    {func(t testing.TB, dir string) { relinkTo(t, dir, "leaf.vhd", "base.vhd", formatRaw, "") }, "made on a disk of format raw", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newOdd(t)
			c.change(t, dir)
			before := filesBelow(t, dir)
			r := scan(t, vfs.OS(), dir)
			if !slices.ContainsFunc(r.Doubts, func(text string) bool { return strings.Contains(text, c.doubt) }) && !fixedBy(r, c.doubt) {
				t.Errorf("%q is not said: %q", c.doubt, r.Doubts)
			}
			b := bridge(vfs.OS())
			b.Store.Locate = r.Locate
			p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
			must(t, err)
			_, failed, err := b.Run(t.Context(), r, p)
			if err != nil || len(failed) > 0 {
				t.Fatalf("%v, %v", failed, err)
			}
			after := filesBelow(t, dir)
			for _, path := range slices.Sorted(maps.Keys(before)) {
				if after[path] != before[path] && !mayChange(path, c.merges, fixedBy(r, c.doubt)) {
					t.Errorf("%s has changed", path)
				}
			}
		})
	}
	dir := newOdd(t)
	r := scan(t, vfs.OS(), dir)
	if len(r.Doubts) > 0 || !r.Node("garbage").Garbage || !r.Node("leaf").LeafCoalesceable {
		t.Errorf("without a fault: %q, %+v", r.Doubts, r.Node("garbage"))
	}
}

// mayChange tells whether a file is of a tree that can be worked on.
func mayChange(path string, merges, noDoubt bool) bool {
	switch strings.TrimSuffix(filepath.Base(path), ".vhd") {
	case "other", "disk":
		return true
	case "base", "leaf":
		return merges
	case "garbage":
		return noDoubt
	}
	return false
}

// fixedBy tells whether that is the reason why a tree is not changed.
func fixedBy(r *Repository, text string) bool {
	return slices.ContainsFunc(r.Nodes, func(n *Node) bool { return strings.Contains(n.Fixed(), text) && n.Odd() == "" })
}

func uuidOf(t testing.TB, path string) string {
	t.Helper()
	f, err := vfs.OS().Open(path, false)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	i, err := vhd.ReadInfo(f, size)
	must(t, err)
	return i.UUID.String()
}

// mark writes a tapdisk's mark over the end of a node.
func mark(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xC7}, 512), info.Size()-512)
	must(t, err)
	must(t, f.Close())
}
