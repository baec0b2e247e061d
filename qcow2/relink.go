package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// SetBacking names another backing image. The new name goes into sectors of
// cluster 0 that nothing uses, then one write of sector 0 switches to it: a crash
// leaves the old name or the new one, whole. The image need not be prepared, and
// may be encrypted.
func (m *Image) SetBacking(name, format string) error {
	if m.w != nil && m.w.broken != nil {
		return m.w.broken
	}
	first, next, err := m.renamed(name, format)
	if err != nil {
		return err
	}
	return m.fail(m.relink(first, next))
}

// CheckBacking tells whether SetBacking would refuse the name.
func (m *Image) CheckBacking(name, format string) error {
	_, _, err := m.renamed(name, format)
	return err
}

func checkNames(name, format string) error {
	switch {
	case len(name) > maxBackingName:
		return unsupported(fmt.Sprintf("a backing name of %d bytes; qcow2 has room for %d", len(name), maxBackingName))
	case name != "" && (format == "" || len(format) > maxBackingFormat):
		return fmt.Errorf("qcow2: backing format %q: want 1 to %d bytes", format, maxBackingFormat)
	}
	return nil
}

// renamed returns cluster 0 as it is, and as it is to be with another name. Where that cannot
// be switched to at once, the table of feature names goes: it only tells people what bits
// are called that a program does not know. QEMU 5.2 and 6.0 fill sector 0 with it.
func (m *Image) renamed(name, format string) (first, next []byte, err error) {
	return m.renamedWith(nil, name, format)
}

// renamedWith is renamed with one more extension, that of bitmaps.
func (m *Image) renamedWith(bitmaps []byte, name, format string) (first, next []byte, err error) {
	first, next, err = m.renamedWithout(0, bitmaps, name, format)
	if errors.Is(err, errNotAtOnce) {
		return m.renamedWithout(ExtensionFeatureNames, bitmaps, name, format)
	}
	return first, next, err
}

// errNotAtOnce says that more than sector 0 of what is in use would change.
var errNotAtOnce = unsupported("header extensions beyond the first 512 bytes, which cannot be changed at once")

// renamedWithout is renamedWith the extensions of one type left out; 0 leaves none out.
func (m *Image) renamedWithout(drop uint32, bitmaps []byte, name, format string) (first, next []byte, err error) {
	if m.h.Corrupt() {
		return nil, nil, malformed(offIncompatible, "incompatible_features", "the image is marked as corrupt: check and repair it first")
	}
	if err := checkNames(name, format); err != nil {
		return nil, nil, err
	}
	first = make([]byte, m.cluster())
	if err := readFull(m.f, first, 0, "header"); err != nil {
		return nil, nil, err
	}
	area := m.area(first, format, name != "", drop, bitmaps)
	end := int64(m.h.HeaderLength) + int64(len(area))
	if end > m.cluster() {
		return nil, nil, unsupported("a backing file: cluster 0 has no room for its format beside the header extensions")
	}
	h := m.h
	h.BackingFile, h.BackingFormat, h.BackingFileLength = name, format, uint32(len(name))
	if bitmaps != nil {
		h.Autoclear |= autoclearBitmaps
	}
	if h.BackingFileOffset, err = m.roomForName(end, name); err != nil {
		return nil, nil, err
	}
	next = append([]byte(nil), first...)
	copy(next[m.h.HeaderLength:], area)
	copy(next[h.BackingFileOffset:], name)
	if name == "" {
		h.BackingFileOffset = 0
	}
	var fixed [headerLen]byte
	copy(fixed[:], next)
	h.encode(&fixed)
	copy(next, fixed[:])
	return first, next, m.checkSwitch(first, next)
}

// checkSwitch refuses to change what is in use beyond sector 0: it could not be
// done at once with the rest.
func (m *Image) checkSwitch(old, next []byte) error {
	for i := sectorSize; i < len(next); i++ {
		if next[i] != old[i] && m.refersTo(int64(i)) {
			return errNotAtOnce
		}
	}
	return nil
}

// relink switches from one cluster 0 to the next.
func (m *Image) relink(old, next []byte) error {
	if err := m.switchTo(old, next); err != nil {
		return err
	}
	h, err := ReadHeader(m.f, m.size)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	m.h = h
	return nil
}

// switchTo writes what is beyond sector 0 first, where nothing refers to it yet.
func (m *Image) switchTo(old, next []byte) error {
	from, to := int64(len(next)), int64(0)
	for i := int64(sectorSize); i < int64(len(next)); i++ {
		if next[i] == old[i] {
			continue
		}
		from, to = min(from, i), max(to, i+1)
	}
	if from < to {
		if _, err := m.f.WriteAt(next[from:to], from); err != nil {
			return err
		}
		if err := m.f.Sync(); err != nil {
			return err
		}
	}
	if _, err := m.f.WriteAt(next[:sectorSize], 0); err != nil {
		return err
	}
	return m.f.Sync()
}

// refersTo tells whether the header refers to byte i of cluster 0: extensions up
// to their end mark, or the backing name.
func (m *Image) refersTo(i int64) bool {
	end := int64(m.h.HeaderLength)
	for _, e := range m.h.Extensions {
		end = max(end, e.Offset+(int64(e.Length)+extAlign-1)&^(extAlign-1))
	}
	name := m.h.BackingFileOffset
	if i < end+extHeaderLen && (name == 0 || i < name) {
		return true
	}
	return i >= name && i < name+int64(m.h.BackingFileLength)
}

// area returns the extensions, up to and with the end mark, with the backing
// format changed, added or taken out, those of the type drop left out, more at the end, and
// everything else as it is.
func (m *Image) area(first []byte, format string, named bool, drop uint32, more []byte) []byte {
	var b []byte
	done := !named
	for _, e := range m.h.Extensions {
		if drop != 0 && e.Type == drop {
			continue
		}
		if e.Type != ExtensionBackingFormat {
			b = append(b, first[e.Offset-extHeaderLen:e.Offset+(int64(e.Length)+extAlign-1)&^(extAlign-1)]...)
		} else if !done {
			b = append(b, formatExtension(format)...)
			done = true
		}
	}
	if !done {
		b = append(formatExtension(format), b...)
	}
	return append(append(b, more...), make([]byte, extHeaderLen)...)
}

func formatExtension(format string) []byte {
	b := make([]byte, extHeaderLen+(len(format)+extAlign-1)&^(extAlign-1))
	binary.BigEndian.PutUint32(b, ExtensionBackingFormat)
	binary.BigEndian.PutUint32(b[offExtLength:], uint32(len(format)))
	copy(b[extHeaderLen:], format)
	return b
}

// roomForName finds a place in cluster 0 for the name, behind the extensions: in
// sectors of its own, or all in sector 0 with what refers to it.
func (m *Image) roomForName(extEnd int64, name string) (int64, error) {
	n := int64(len(name))
	oldFrom, oldTo := m.h.BackingFileOffset, m.h.BackingFileOffset+int64(m.h.BackingFileLength)
	if extEnd+n <= sectorSize {
		return extEnd, nil
	}
	for off := max(sectorSize, (extEnd+sectorSize-1)&^(sectorSize-1)); off+n <= m.cluster(); off += sectorSize {
		if off >= oldTo || off+n <= oldFrom {
			return off, nil
		}
	}
	return 0, unsupported(fmt.Sprintf("a backing name of %d bytes: cluster 0 has no room for it beside the old one", n))
}

// writeHeader writes the fixed header, within sector 0, durably.
func (m *Image) writeHeader(h Header) error {
	var sector [sectorSize]byte
	if err := readFull(m.f, sector[:], 0, "header"); err != nil {
		return err
	}
	var fixed [headerLen]byte
	copy(fixed[:], sector[:])
	onDisk := h
	if m.w != nil && m.w.growing {
		onDisk.Size = m.w.oldSize
	}
	onDisk.encode(&fixed)
	copy(sector[:], fixed[:])
	if _, err := m.f.WriteAt(sector[:], 0); err != nil {
		return err
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	m.h = h
	return nil
}
