package qcow2

import (
	"encoding/binary"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// Resize sets the virtual size in bytes, durably. Clusters beyond the new end
// are given back. What is new reads as holes, from below on; up to there as
// zeros, for something shows through holes. The image must have nothing placed
// that is not flushed.
func (m *Image) Resize(size, below int64) error {
	if err := m.ready(); err != nil {
		return err
	}
	if len(m.w.changes) > 0 {
		return fmt.Errorf("qcow2: resize with changes that are not flushed")
	}
	if err := m.CheckResize(size); err != nil {
		return err
	}
	if err := m.fail(m.bringBitmapsToFront()); err != nil {
		return err
	}
	if size < m.h.Size {
		return m.fail(m.shrink(size))
	}
	return m.fail(m.grow(size, below))
}

func (m *Image) shrink(size int64) error {
	bitmaps, err := m.markGone(size)
	if err != nil {
		return err
	}
	if err := m.giveUpFrom(size); err != nil {
		return err
	}
	return m.switchSize(size, bitmaps)
}

// grow writes the zeros before the size that shows them.
func (m *Image) grow(size, below int64) error {
	old := m.h.Size
	if err := m.clearRest(old); err != nil {
		return err
	}
	h := m.h
	h.Size = size
	if need := h.l1Entries(); need > int64(h.L1Size) {
		if err := m.growL1(need); err != nil {
			return err
		}
	}
	// In memory: Zero and Flush work on the new clusters. A refcount table that
	// gets a new place meanwhile must not show them.
	m.h.Size, m.w.growing, m.w.oldSize = size, true, old
	from, to := roundUp(old, m.cluster()), min(size, roundUp(below, m.cluster()))
	if from < to && m.h.BackingFile != "" {
		if err := m.Zero(from, to-from); err != nil {
			return err
		}
	}
	if err := m.Flush(); err != nil {
		return err
	}
	return m.switchSize(size, nil)
}

// CheckResize tells whether Resize would refuse the size. The image need not be
// prepared.
func (m *Image) CheckResize(size int64) error {
	h := m.h
	h.Size = size
	switch {
	case size < 0 || size%sectorSize != 0:
		return fmt.Errorf("qcow2: size %d: not a multiple of 512", size)
	case h.l1Entries()*l1EntryLen > maxL1Bytes:
		return unsupported(fmt.Sprintf("a disk of %d bytes with clusters of %d", size, m.cluster()))
	case m.h.Snapshots > 0 && m.version < 3:
		return unsupported("resizing a version 2 image with internal snapshots")
	}
	return m.checkResizeBitmaps(size)
}

// giveUpFrom makes holes of all clusters from size on, and zeros of the rest of
// the cluster that size is in.
func (m *Image) giveUpFrom(size int64) error {
	if err := m.clearRest(size); err != nil {
		return err
	}
	cut := roundUp(size, m.cluster())
	for off := cut; off < m.h.Size; {
		next, err := m.giveUp(off)
		if err != nil {
			return err
		}
		off = next
	}
	return m.Flush()
}

// giveUp makes a hole of one cluster, or skips a table that is not there.
func (m *Image) giveUp(off int64) (next int64, err error) {
	table, err := m.l2(off)
	if err != nil {
		return 0, err
	}
	if table == nil {
		return (off/m.l2Covers() + 1) * m.l2Covers(), nil
	}
	e, err := m.entryIn(table, off)
	if err != nil {
		return 0, err
	}
	if (e != entry{}) {
		m.free(e)
		m.change(off, entry{})
	}
	return off + m.cluster(), nil
}

// clearRest makes zeros of what the cluster that the disk would end in has from
// size on: a disk that grows again must not find it. A cluster that is shared or
// compressed gets a new place.
func (m *Image) clearRest(size int64) error {
	in, cut := size&(m.cluster()-1), size&^(m.cluster()-1)
	if in == 0 {
		return nil
	}
	e, err := m.entry(cut)
	if err != nil {
		return err
	}
	mine, err := m.mine(e)
	switch {
	case err != nil:
		return err
	case mine:
		m.clearSubclusters(cut, in, e)
		m.w.grow = max(m.w.grow, e.host()+m.cluster())
		return m.f.Punch(e.host()+in, m.cluster()-in)
	case !e.compressed() && !m.allocated(e):
		m.clearSubclusters(cut, in, e)
		return nil
	}
	b := make([]byte, m.cluster())
	if _, err := m.ReadAt(b[:in], cut); err != nil {
		return err
	}
	placed, err := m.place(nil, chain.Piece{Offset: cut, Length: min(m.cluster(), m.h.Size-cut)})
	if err != nil {
		return err
	}
	_, err = m.f.WriteAt(b, placed[0].Host)
	return err
}

// clearSubclusters makes zeros of the holes that a cluster of subclusters has
// behind its first n bytes: something below would show through.
func (m *Image) clearSubclusters(off, n int64, e entry) {
	if !m.extended || m.h.BackingFile == "" || (e == entry{}) {
		return
	}
	behind := allocatedSubclusters << ((n + m.granule() - 1) / m.granule()) & allocatedSubclusters
	next := e
	next.bitmap |= behind &^ (e.bitmap | e.bitmap>>subclusters) << subclusters
	if next != e {
		m.change(off, next)
	}
}

// growL1 writes a longer L1 table to a new place. It is durable before the header
// names it: offset and length are in one sector.
func (m *Image) growL1(need int64) error {
	perCluster := m.cluster() / l1EntryLen
	clusters := (need + perCluster - 1) / perCluster
	first, err := m.w.refs.takeRow(clusters)
	if err != nil {
		return err
	}
	b := make([]byte, clusters<<m.clusterBits)
	for i, e := range m.l1 {
		binary.BigEndian.PutUint64(b[i*l1EntryLen:], e)
	}
	if _, err := m.f.WriteAt(b, first<<m.clusterBits); err != nil {
		return err
	}
	if err := m.w.refs.flush(); err != nil {
		return err
	}
	h := m.h
	oldFirst := h.L1TableOffset >> m.clusterBits
	oldClusters := (int64(h.L1Size)*l1EntryLen + m.cluster() - 1) >> m.clusterBits
	h.L1TableOffset, h.L1Size = first<<m.clusterBits, uint32(need)
	if err := m.writeHeader(h); err != nil {
		return err
	}
	m.l1 = append(m.l1, make([]uint64, need-int64(len(m.l1)))...)
	for c := range oldClusters {
		if _, err := m.w.refs.drop(oldFirst + c); err != nil {
			return err
		}
	}
	return m.w.refs.writeBlocks()
}
