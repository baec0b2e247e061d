package vhdbridge

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// A node that takes in one node after the other has to grow for each of them, by the
// blocks that neither it nor those before have brought.
func TestSpaceCountsTheBlocksThatEachMergeBrings(t *testing.T) {
	const block = 2 << 20
	dir := t.TempDir()
	name := func(i int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", i) }
	upTo := func(blocks int, from int) []byte { // data in blocks from..blocks-1
		return append(make([]byte, from*block), bytes.Repeat([]byte{1}, (blocks-from)*block)...)
	}
	for i, own := range [][]byte{upTo(1, 0), upTo(3, 0), upTo(6, 2)} {
		n := srtest.Node{Name: name(i), Size: 32 << 20, Hidden: i < 2, Own: own}
		if i > 0 {
			n.Parent = name(i - 1)
		}
		srtest.Write(t, dir, n)
	}
	p, err := scan(t, vfs.OS(), dir).Plan(vfs.OS(), Options{Leaf: true})
	must(t, err)
	var space []int64
	for _, s := range p.Steps {
		space = append(space, s.Space)
	}
	if want := []int64{2 * (block + blockOverhead), 3 * (block + blockOverhead)}; fmt.Sprint(space) != fmt.Sprint(want) {
		t.Errorf("space %d, want %d: %+v", space, want, p.Steps)
	}
}
