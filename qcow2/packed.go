package qcow2

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// PutPacked stores a compressed cluster behind the one before, so that several
// share a host cluster as far as refcounts are wide enough.
func (m *Image) PutPacked(p Packed) error {
	if err := m.ready(); err != nil {
		return err
	}
	if p.Method != m.Method() {
		return fmt.Errorf("qcow2: a cluster packed as %s in an image of %s", p.Method, m.Method())
	}
	if p.Offset < 0 || p.Offset&(m.cluster()-1) != 0 || p.Offset >= m.h.Size || len(p.Bytes) == 0 || int64(len(p.Bytes)) > m.maxPacked() {
		return fmt.Errorf("qcow2: packed cluster of %d bytes at %d: not a cluster of the disk", len(p.Bytes), p.Offset)
	}
	return m.fail(m.putPacked(p))
}

// maxPacked is how many bytes an entry can tell, wherever they begin.
func (m *Image) maxPacked() int64 { return sectorSize<<(m.clusterBits-8) - sectorSize }

func (m *Image) putPacked(p chain.Packed) error {
	n := int64(len(p.Bytes))
	off, err := m.roomToPack(n)
	if err != nil {
		return err
	}
	x := 62 - (m.clusterBits - 8)
	if off >= 1<<x {
		return unsupported("compressed clusters that far into the file")
	}
	if _, err := m.f.WriteAt(p.Bytes, off); err != nil {
		return err
	}
	sectors := (off+n-1)/sectorSize - off/sectorSize
	old, err := m.entry(p.Offset)
	if err != nil {
		return err
	}
	m.free(old)
	m.change(p.Offset, entry{desc: entryCompressed | uint64(sectors)<<x | uint64(off)})
	return m.padPacked(off + n)
}

// roomToPack returns where n bytes go: after the last packed cluster, if the
// host cluster can be counted once more and the next one is free.
func (m *Image) roomToPack(n int64) (int64, error) {
	w := m.w
	c := w.packAt >> m.clusterBits
	if w.packAt&(m.cluster()-1) == 0 || n > m.cluster() {
		return m.startPack(n)
	}
	over := w.packAt + n - (c+1)<<m.clusterBits
	count, err := w.refs.get(c)
	if err != nil {
		return 0, err
	}
	if count == 0 || count >= maxRef(m.refOrder) || over > 0 && !w.refs.isFree(c+1) {
		return m.startPack(n)
	}
	if err := w.refs.set(c, count+1); err != nil {
		return 0, err
	}
	if over > 0 {
		if err := w.refs.use(c+1, 1); err != nil {
			return 0, err
		}
	}
	off := w.packAt
	w.packAt += n
	return off, nil
}

func (m *Image) startPack(n int64) (int64, error) {
	c, err := int64(0), error(nil)
	if n <= m.cluster() {
		c, _, err = m.take(1)
	} else {
		c, err = m.w.refs.takeRow((n + m.cluster() - 1) >> m.clusterBits)
	}
	off := c << m.clusterBits
	m.w.packAt = off + n
	return off, err
}

// padPacked makes the file reach to the end of the last sector, as readers want it.
func (m *Image) padPacked(end int64) error {
	m.w.grow = max(m.w.grow, roundUp(end, sectorSize))
	return nil
}
