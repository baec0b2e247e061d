package qcow2

import (
	"encoding/binary"
	"fmt"
)

// SetBacking names another backing image. The new name goes into sectors of
// cluster 0 that nothing uses, then one write of sector 0 switches to it: a crash
// leaves the old name or the new one, whole. The image need not be prepared, and
// may be encrypted.
func (m *Image) SetBacking(name, format string) error {
	if m.h.Corrupt() {
		return &FormatError{offIncompatible, "incompatible_features", "the image is marked as corrupt: check and repair it first"}
	}
	if m.w != nil && m.w.broken != nil {
		return m.w.broken
	}
	if err := checkNames(name, format); err != nil {
		return err
	}
	first := make([]byte, m.cluster())
	if err := readFull(m.f, first, 0, "header"); err != nil {
		return err
	}
	return m.fail(m.relink(first, name, format))
}

func checkNames(name, format string) error {
	switch {
	case len(name) > maxBackingName:
		return &UnsupportedError{fmt.Sprintf("a backing name of %d bytes; qcow2 has room for %d", len(name), maxBackingName)}
	case name != "" && (format == "" || len(format) > maxBackingFormat):
		return fmt.Errorf("qcow2: backing format %q: want 1 to %d bytes", format, maxBackingFormat)
	}
	return nil
}

// relink switches from the names in cluster 0, which is first, to the new ones.
func (m *Image) relink(first []byte, name, format string) error {
	h := m.h
	h.BackingFile, h.BackingFormat = name, format
	area := m.area(first, format, name != "")
	off, err := m.roomForName(int64(m.h.HeaderLength)+int64(len(area)), name)
	if err != nil {
		return err
	}
	h.BackingFileOffset, h.BackingFileLength = off, uint32(len(name))
	if name == "" {
		h.BackingFileOffset, h.BackingFileLength = 0, 0
	}
	if int64(m.h.HeaderLength)+int64(len(area)) > m.cluster() {
		return &UnsupportedError{"a backing file: cluster 0 has no room for its format beside the header extensions"}
	}
	next := append([]byte(nil), first...)
	copy(next[m.h.HeaderLength:], area)
	copy(next[off:], name)
	var fixed [headerLen]byte
	copy(fixed[:], next)
	h.encode(&fixed)
	copy(next, fixed[:])
	if err := m.switchTo(first, next); err != nil {
		return err
	}
	size := m.size
	if m.h, err = ReadHeader(m.f, size); err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return nil
}

// switchTo writes what is beyond sector 0 first, where nothing refers to it yet.
func (m *Image) switchTo(old, next []byte) error {
	from, to := int64(len(next)), int64(0)
	for i := int64(sectorSize); i < int64(len(next)); i++ {
		if next[i] == old[i] {
			continue
		}
		if m.refersTo(i) {
			return &UnsupportedError{"header extensions beyond the first 512 bytes, which cannot be changed at once"}
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
// format changed, added or taken out, and everything else as it is.
func (m *Image) area(first []byte, format string, named bool) []byte {
	var b []byte
	done := !named
	for _, e := range m.h.Extensions {
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
	return append(b, make([]byte, extHeaderLen)...)
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
	return 0, &UnsupportedError{fmt.Sprintf("a backing name of %d bytes: cluster 0 has no room for it beside the old one", n)}
}

// writeHeader writes the fixed header, within sector 0, durably.
func (m *Image) writeHeader(h Header) error {
	var sector [sectorSize]byte
	if err := readFull(m.f, sector[:], 0, "header"); err != nil {
		return err
	}
	var fixed [headerLen]byte
	copy(fixed[:], sector[:])
	h.encode(&fixed)
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
