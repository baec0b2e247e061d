package vhdbridge

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// headers are the bytes at the begin and the end of a VHD that say what it is.
const headers = 2048

// Whatever is written over the headers of the nodes of one tree, the VDIs of the others
// read as before when all has been done that can be, and nothing of a tree in which
// something was found to be wrong has changed.
func TestRandomDamageSpoilsItsOwnTreeOnly(t *testing.T) {
	found := 0
	for seed := range 25 * seeds() {
		found += damage(t, seed)
	}
	if found == 0 {
		t.Error("no damage was ever found")
	}
}

// damage tells whether the damage that a seed determines was found.
func damage(t *testing.T, seed uint64) int {
	t.Helper()
	chance := rand.New(rand.NewPCG(seed, 3))
	b := bridge(vfs.OS())
	dir := unpack(t, "04a-hidden-inner")
	from := unpack(t, "04b-leaf-coalesce")
	want := vdiSums(t, b, from, "04b-leaf-coalesce")
	for _, n := range scan(t, vfs.OS(), from).Nodes {
		must(t, os.Rename(n.Path, filepath.Join(dir, n.Name)))
	}
	var hurt []string
	for _, n := range scan(t, vfs.OS(), dir).Nodes {
		if _, other := want[n.VDI]; !other && !slices.ContainsFunc(meta(t, from), func(m metaNode) bool { return m.Name == n.Name }) {
			hurt = append(hurt, n.Path)
		}
	}
	for range 1 + chance.IntN(3) {
		scribble(t, hurt[chance.IntN(len(hurt))], chance)
	}
	before := map[string]string{}
	for _, path := range hurt {
		before[path] = fileSum(t, path)
	}
	r := scan(t, vfs.OS(), dir)
	p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
	spoiled := err != nil || len(p.Spoiled) > 0
	if err == nil {
		_, failed, err := b.Run(t.Context(), r, p)
		spoiled = spoiled || len(failed) > 0 || err != nil
	}
	for vdi, sum := range want {
		n := scan(t, vfs.OS(), dir).Node(vdi)
		if n == nil || n.Err != nil || sumOf(t, b, n) != sum {
			t.Errorf("seed %d: VDI %s of another tree: %+v", seed, vdi, n)
		}
	}
	if !spoiled {
		return 0
	}
	if err == nil && slices.ContainsFunc(p.Steps, func(s Step) bool {
		return slices.ContainsFunc(append(s.Nodes, s.Into), func(name string) bool { return slices.Contains(hurt, filepath.Join(dir, name)) })
	}) {
		return 1 // found while the tree was merged: what had been done before was sound
	}
	for path, sum := range before {
		if fileSum(t, path) != sum {
			t.Errorf("seed %d: %s has changed", seed, path)
		}
	}
	return 1
}

// vdiSums are the sums of what the visible nodes of a sample read.
func vdiSums(t *testing.T, b *Bridge, dir, name string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, n := range scan(t, vfs.OS(), dir).Nodes {
		if !n.Hidden {
			sums[n.VDI] = sumOf(t, b, n)
		}
	}
	if len(sums) == 0 {
		t.Fatalf("%s has no VDI", name)
	}
	return sums
}

// scribble writes over a stretch of a node's headers.
func scribble(t *testing.T, path string, chance *rand.Rand) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	at := chance.IntN(headers)
	if chance.IntN(3) == 0 {
		at = max(0, len(data)-1-chance.IntN(512))
	}
	for range 1 + chance.IntN(16) {
		if at < len(data) {
			data[at] = byte(chance.IntN(256))
		}
		at++
	}
	must(t, os.WriteFile(path, data, 0o600))
}
