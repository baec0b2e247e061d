package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Amend changes what an image is, durably, and not what the guest reads: version 3 instead
// of 2 (0 leaves the version), and whether writers may put refcounts off (nil leaves that).
// The header is switched to in one sector. The image has to be prepared.
func (m *Image) Amend(version uint32, lazy *bool) error {
	if err := m.readyForSnapshots(); err != nil {
		return err
	}
	if err := m.CheckAmend(version, lazy); err != nil {
		return err
	}
	if version == 3 && m.h.Version == 2 {
		first, next, err := m.upgraded()
		if err != nil {
			return err
		}
		if err := m.relink(first, next); err != nil {
			return m.fail(err)
		}
		m.layout = m.h.layout()
	}
	if lazy == nil || *lazy == m.h.LazyRefcounts() {
		return nil
	}
	h := m.h
	h.Compatible ^= compatLazyRefcounts
	return m.fail(m.writeHeader(h))
}

// CheckAmend tells whether Amend would refuse that.
func (m *Image) CheckAmend(version uint32, lazy *bool) error {
	after := max(version, m.h.Version)
	switch {
	case version != 0 && version != 2 && version != 3:
		return fmt.Errorf("qcow2: version %d", version)
	case version == 2 && m.h.Version == 3:
		return unsupported("making version 2 of version 3, which can have what version 2 has not; a copy can be (image convert -o compat=0.10)")
	case lazy != nil && *lazy && after < 3:
		return unsupported("lazy refcounts in version 2 (compat=1.1 makes it version 3)")
	case after == 3 && m.h.Version == 2:
		_, _, err := m.upgraded()
		return err
	}
	return nil
}

// upgraded returns cluster 0 as it is, and with a header of version 3.
func (m *Image) upgraded() (first, next []byte, err error) {
	if err := m.snapshotsTellSizes(); err != nil {
		return nil, nil, err
	}
	first = make([]byte, m.cluster())
	if err := readFull(m.f, first, 0, "header"); err != nil {
		return nil, nil, err
	}
	h := m.h
	h.Version, h.HeaderLength, h.RefcountOrder = 3, headerLen, defaultRefcountOrder
	area := m.area(first, h.BackingFormat, h.BackingFormat != "", 0, nil)
	end := int64(headerLen) + int64(len(area))
	if end > m.cluster() {
		return nil, nil, unsupported("version 3: cluster 0 has no room for a longer header")
	}
	next = append([]byte(nil), first...)
	clear(next[headerLenV2:headerLen])
	copy(next[headerLen:], area)
	if h.BackingFile != "" {
		if h.BackingFileOffset, err = m.roomForName(end, h.BackingFile); err != nil {
			return nil, nil, err
		}
		copy(next[h.BackingFileOffset:], h.BackingFile)
	}
	var fixed [headerLen]byte
	copy(fixed[:], next)
	h.encode(&fixed)
	copy(next, fixed[:])
	return first, next, m.checkSwitch(first, next)
}

// snapshotsTellSizes wants what version 3 wants of internal snapshots.
func (m *Image) snapshotsTellSizes() error {
	entries, err := m.snapshotEntries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if binary.BigEndian.Uint32(e[offSnapshotExtra:]) < minSnapshotExtraV3 {
			return unsupported("version 3 with internal snapshots of an old QEMU, which do not tell the size of the disk")
		}
	}
	return nil
}
