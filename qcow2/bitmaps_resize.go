package qcow2

import "slices"

// A disk and its bitmaps get another size at once: one write of sector 0 has both the size and
// the extension that leads to the bitmaps. As with QEMU, what is new is clean.

// onDiskSize is the size that the header has in the file.
func (m *Image) onDiskSize() int64 {
	if m.w != nil && m.w.growing {
		return m.w.oldSize
	}
	return m.h.Size
}

// resize has all bitmaps in memory as a disk of another size wants them, but those that
// nobody reads for they are marked as in use.
func (e *BitmapEdit) resize(size int64) error {
	for _, b := range e.all {
		if b.InUse || size == e.size {
			continue
		}
		if err := e.load(b); err != nil {
			return err
		}
	}
	old := e.size
	e.size = size
	for _, b := range e.all {
		if b.bits == nil {
			continue
		}
		if err := e.fits(b.Granularity); err != nil {
			return err
		}
		b.bits = resizedBits(b.bits, b.Granularity, min(old, size), e.bitmapLen(b.Granularity))
		e.changed = true
	}
	return nil
}

// resizedBits are the bits for the first keep bytes of a disk, in n bytes.
func resizedBits(bits []byte, granularity, keep, n int64) []byte {
	out := make([]byte, n)
	eachDirty(bits, granularity, func(off, n int64) { setBits(out, granularity, off, min(n, keep-off)) })
	return out
}

// checkResizeBitmaps tells what would be in the way of resizing the bitmaps.
func (m *Image) checkResizeBitmaps(size int64) error {
	if !m.h.HasBitmaps() || size == m.h.Size {
		return nil
	}
	e, err := m.openBitmaps()
	if err != nil {
		return err
	}
	if err := e.resize(size); err != nil {
		return err
	}
	at := int64(m.h.HeaderLength)
	for _, x := range m.h.Extensions {
		switch x.Type {
		case ExtensionFeatureNames:
			continue
		case ExtensionBitmaps:
			if at+extHeaderLen+bitmapsLen > sectorSize {
				return unsupported("header extensions that leave bitmaps no room in the first 512 bytes, where they could be resized with the disk")
			}
		}
		at += extHeaderLen + roundUp(int64(x.Length), extAlign)
	}
	return nil
}

// bringBitmapsToFront has the extension for bitmaps in sector 0, where it can change with the size.
// The table of feature names, which only tells people what bits mean, goes for that.
func (m *Image) bringBitmapsToFront() error {
	if !m.h.HasBitmaps() || m.bitmapsInFront() >= 0 {
		return nil
	}
	first, next, err := m.renamedWithout(ExtensionFeatureNames, nil, m.h.BackingFile, m.h.BackingFormat)
	if err != nil {
		return err
	}
	return m.relink(first, next)
}

// bitmapsInFront is where the data of the extension for bitmaps is in sector 0; negative if it is not.
func (m *Image) bitmapsInFront() int64 {
	i := slices.IndexFunc(m.h.Extensions, func(e Extension) bool { return e.Type == ExtensionBitmaps })
	if i < 0 || m.h.Extensions[i].Offset+bitmapsLen > sectorSize {
		return -1
	}
	return m.h.Extensions[i].Offset
}

// markGone marks what a shorter disk will not have: after a crash it may be gone from one of the old
// size. It returns the bitmaps as they were.
func (m *Image) markGone(size int64) (before *BitmapEdit, err error) {
	if !m.h.HasBitmaps() {
		return nil, nil
	}
	if before, err = m.openBitmaps(); err == nil {
		err = before.resize(size)
	}
	if err != nil {
		return nil, err
	}
	return before, m.EditBitmaps(func(e *BitmapEdit) error { return e.MarkDirty(size, e.size-size) })
}

// switchSize makes the disk have that size, with the bitmaps for it, durably and at once. They are
// those of resized, or made of those in the file if that is nil.
func (m *Image) switchSize(size int64, resized *BitmapEdit) error {
	h := m.h
	h.Size = size
	if !m.h.HasBitmaps() {
		m.w.growing = false
		return m.writeHeader(h)
	}
	e, err := m.openBitmaps()
	if err != nil {
		return err
	}
	if err := e.resize(size); err != nil {
		return err
	}
	for i := range e.all {
		if resized != nil {
			e.all[i].bits = resized.all[i].bits
		}
	}
	return e.writeAnd(func(n int, at, length int64) error { return m.writeSizeAndBitmaps(h, bitmapsData(n, at, length)) })
}

func (m *Image) writeSizeAndBitmaps(h Header, data [bitmapsLen]byte) error {
	var sector [sectorSize]byte
	if err := readFull(m.f, sector[:], 0, "header"); err != nil {
		return err
	}
	var fixed [headerLen]byte
	copy(fixed[:], sector[:])
	h.encode(&fixed)
	copy(sector[:], fixed[:])
	copy(sector[m.bitmapsInFront():], data[:])
	if err := m.writeSynced(sector[:], 0); err != nil {
		return err
	}
	m.w.growing = false
	return m.rereadHeader()
}
