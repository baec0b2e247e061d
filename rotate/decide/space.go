package decide

import (
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// mib is 2^20 bytes.
const mib = 1 << 20

// emptyOverlay is more than a new qcow2 image takes before the guest writes.
const emptyOverlay = mib

// preflight takes the space that the merges can need from the builder's
// world. It returns why they must not start, or nil.
func (b *builder) preflight(merges []Merge) *Refusal {
	for i := range merges {
		m := &merges[i]
		if r := b.checkLocks(m); r != nil {
			return r
		}
		if r := b.checkHosts(m); r != nil {
			return r
		}
		if r := checkSize(m); r != nil {
			return r
		}
		need := m.Way.need(m)
		to, from := m.Ends()
		if to.Kind.IsDevice() || need == 0 {
			continue
		}
		if r := b.reserve(to.FS, to.Path, need, "merging "+filepath.Base(from.Path)+" into it"); r != nil {
			return r
		}
	}
	return nil
}

// reserve takes need bytes of a file system, or refuses with the figures.
func (b *builder) reserve(fs uint64, path string, need int64, what string) *Refusal {
	space, known := b.w.Spaces[fs]
	if !known {
		return &Refusal{host.CodeNoSpace, path, "the free space of its file system is not known"}
	}
	floor := b.rule.MinFree.Bytes(space.Total)
	if b.free[fs]-need < floor {
		return &Refusal{host.CodeNoSpace, path, fmt.Sprintf(
			"%s can need %s: of %s free on its file system, min_free = %s keeps %s",
			what, host.Bytes(need), host.Bytes(b.free[fs]), b.rule.MinFree, host.Bytes(floor))}
	}
	b.free[fs] -= need
	return nil
}

// Ends returns the layer that the merge brings data into, and the far end of where
// that comes from.
func (m *Merge) Ends() (to, from *host.Layer) {
	if m.Pull {
		return &m.Top, &m.Base
	}
	return &m.Base, &m.Top
}

// growth is the most by which the target of m can grow, in bytes: it takes in
// what the layers hold, but never more than the disk's size.
func growth(m *Merge) int64 {
	need := m.Bytes
	to, _ := m.Ends()
	size := max(m.Top.Size, m.Base.Size)
	if size > 0 {
		need = min(need, max(0, withTables(size)-to.Allocated))
	}
	return need
}

// withTables adds what a qcow2 image of that size needs for its own tables:
// 8 bytes of L2 and 2 of reference count for each cluster of 64 KiB, and a little.
func withTables(size int64) int64 { return size + size/4096 + mib }

// checkSize refuses a merge into a block device that is too small for it.
func checkSize(m *Merge) *Refusal {
	to, from := m.Ends()
	if !to.Kind.IsDevice() {
		return nil
	}
	device := to.Allocated
	need := max(m.Top.Size, m.Base.Size)
	if to.Format == "qcow2" {
		need = withTables(need)
	}
	if need <= device {
		return nil
	}
	return &Refusal{host.CodeSize, to.Path, fmt.Sprintf(
		"merging %s into the device can need %s: the device has %s", filepath.Base(from.Path), host.Bytes(need), host.Bytes(device))}
}
