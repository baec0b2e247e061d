package qcow2

import (
	"io"
)

// Snapshots lists the internal snapshots, in the order of their table.
func (m *Image) Snapshots() ([]Snapshot, error) { return ReadSnapshots(m.f, m.h, m.size) }

// At is the state that an internal snapshot holds, as an image that is only to be read.
// It reads the files of m, which has to stay open and unchanged: closing the state does
// nothing. What it does not have itself is in the backing file of m.
func (m *Image) At(s Snapshot) (*Image, error) { return m.at(s, roundUp(s.Size, sectorSize)) }

// at is the state with so many bytes of what the snapshot maps.
func (m *Image) at(s Snapshot, size int64) (*Image, error) {
	if err := m.checkSnapshot(s, size); err != nil {
		return nil, err
	}
	v := &Image{f: m.f, data: m.data, h: m.h, layout: m.layout, size: m.size, view: true}
	v.h.Size, v.h.L1TableOffset, v.h.L1Size = size, s.l1.offset, uint32(s.l1.count)
	v.h.Snapshots, v.h.SnapshotsOffset, v.h.Bitmaps = 0, 0, 0
	v.tables = newTableCache(v, cacheBytes)
	var err error
	if v.l1, err = m.readL1(s.l1.offset, s.l1.count); err != nil {
		return nil, err
	}
	return v, v.checkL1Shares()
}

// checkSnapshot checks what ReadSnapshots takes as it is.
func (m *Image) checkSnapshot(s Snapshot, size int64) error {
	if err := s.l1.check(m.cluster()); err != nil {
		return err
	}
	if err := s.l1.checkWithin(m.size); err != nil {
		return err
	}
	h := m.h
	h.Size = size
	switch {
	case size < 0 || size%sectorSize != 0: // rounded, it has overflowed
		return malformed(s.l1.fieldOffset, "disk size of a snapshot", "2^63 or more")
	case size > 0 && h.l1Entries() > s.l1.count:
		return malformed(s.l1.fieldOffset, "l1_size of a snapshot", "too small for the size of the disk")
	case m.dataFile:
		return unsupported("snapshots in an image with an external data file")
	}
	return nil
}

// MemoryAt reads the memory of the guest that an internal snapshot holds, as QEMU has
// saved it, s.StateSize bytes. It lies behind the disk: in what the first L2 table maps
// that the disk does not need.
func (m *Image) MemoryAt(s Snapshot) (io.Reader, error) {
	h := m.h
	h.Size = s.Size
	start := int64(0)
	if s.Size > 0 {
		start = h.l1Entries() * m.l2Covers()
	}
	if s.StateSize > s.l1.count*m.l2Covers()-start {
		return nil, malformed(s.l1.fieldOffset, "vm_state_size of a snapshot", "more than its L1 table maps")
	}
	v, err := m.at(s, roundUp(start+s.StateSize, sectorSize))
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(v, start, s.StateSize), nil
}

// SharedWith tells whether m and another state of the same file have the very same from
// off on, before end, and for how many bytes that holds: it compares tables, and reads no
// data. Other Sources share nothing.
func (m *Image) SharedWith(other Source, off, end int64) (shared bool, n int64, err error) {
	o, ok := other.(*Image)
	if !ok || o.f != m.f || m.dataFile {
		return false, end - off, nil
	}
	if off >= o.h.Size {
		return false, end - off, nil
	}
	end = min(end, m.h.Size, o.h.Size)
	i := off / m.l2Covers()
	tableEnd := min(end, (i+1)*m.l2Covers())
	if m.l1[i]&entryOffset == o.l1[i]&entryOffset {
		return true, tableEnd - off, nil
	}
	for at := off; at < tableEnd; at = min(tableEnd, at&^(m.cluster()-1)+m.cluster()) {
		same, err := m.sameEntry(o, at)
		if err != nil {
			return false, 0, err
		}
		if at == off {
			shared = same
		} else if same != shared {
			return shared, at - off, nil
		}
	}
	return shared, tableEnd - off, nil
}

// sameEntry compares what two states have at off, whoever else has it.
func (m *Image) sameEntry(o *Image, off int64) (bool, error) {
	a, err := m.entry(off)
	if err != nil {
		return false, err
	}
	b, err := o.entry(off)
	a.desc, b.desc = a.desc&^entryCopied, b.desc&^entryCopied
	return a == b, err
}
