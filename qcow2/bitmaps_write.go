package qcow2

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

// write makes the header lead to the bitmaps as they are to be, and gives the clusters of the old ones back.
func (e *BitmapEdit) write() error { return e.writeAnd(e.m.leadToBitmaps) }

// writeAnd puts new content, tables and the directory into clusters that nobody uses, lets
// lead switch to n bitmaps whose directory is at that place, and gives the old ones back.
func (e *BitmapEdit) writeAnd(lead func(n int, at, size int64) error) error {
	old, err := e.oldClusters()
	if err != nil {
		return err
	}
	for _, b := range e.all {
		if b.bits != nil {
			if err := e.m.writeBits(b); err != nil {
				return err
			}
		}
	}
	directory := e.directory()
	at, err := e.m.placeTable(directory)
	if err != nil {
		return err
	}
	if err := e.m.w.refs.flush(); err != nil {
		return err
	}
	if err := lead(len(e.all), at, int64(len(directory))); err != nil {
		return err
	}
	return e.m.dropClusters(old)
}

// oldClusters are those that nothing refers to afterwards.
func (e *BitmapEdit) oldClusters() (old []int64, err error) {
	m := e.m
	for off := int64(0); off < m.h.BitmapDirectorySize && m.h.HasBitmaps(); off += m.cluster() {
		old = append(old, (m.h.BitmapDirectoryOffset+off)>>m.clusterBits)
	}
	for _, b := range append(slices.Clone(e.all), e.removed...) {
		if b.table.count == 0 || b.bits == nil && slices.Contains(e.all, b) {
			continue
		}
		for off := int64(0); off < b.table.len(); off += m.cluster() {
			old = append(old, (b.table.offset+off)>>m.clusterBits)
		}
		entries := make([]byte, b.table.len())
		if err := readFull(m.f, entries, b.table.offset, "bitmap table"); err != nil {
			return nil, err
		}
		for i := int64(0); i < int64(len(entries)); i += 8 {
			if off := int64(binary.BigEndian.Uint64(entries[i:]) & entryOffset); off != 0 {
				old = append(old, off>>m.clusterBits)
			}
		}
	}
	return old, nil
}

// writeBits gives a bitmap a new table, with clusters for what is neither all zeros nor
// all ones.
func (m *Image) writeBits(b *editedBitmap) error {
	n := roundUp(int64(len(b.bits)), m.cluster()) >> m.clusterBits
	entries := make([]byte, n*8)
	for i := range n {
		part := b.bits[i<<m.clusterBits:]
		part = part[:min(int64(len(part)), m.cluster())]
		entry, err := m.writeBitCluster(part)
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint64(entries[8*i:], entry)
	}
	at, err := m.placeTable(entries)
	b.table = table{offset: at, count: n, entryLen: 8, maxLen: maxBitmapTable * 8}
	return err
}

func (m *Image) writeBitCluster(part []byte) (entry uint64, err error) {
	switch {
	case len(bytes.TrimLeft(part, "\x00")) == 0:
		return 0, nil
	case len(bytes.TrimLeft(part, "\xff")) == 0 && int64(len(part)) == m.cluster():
		return bitmapEntryOnes, nil
	}
	at, err := m.placeTable(part)
	return uint64(at), err
}

// directory is the new directory.
func (e *BitmapEdit) directory() []byte {
	var out []byte
	be := binary.BigEndian
	for _, b := range e.all {
		var head [minBitmapEntryLen]byte
		be.PutUint64(head[:], uint64(b.table.offset))
		be.PutUint32(head[offBitmapTableSize:], uint32(b.table.count))
		be.PutUint32(head[offBitmapFlags:], b.flags())
		head[offBitmapType] = bitmapDirty
		head[offBitmapGranularity] = byte(bits.TrailingZeros64(uint64(b.Granularity)))
		be.PutUint16(head[offBitmapNameSize:], uint16(len(b.Name)))
		out = append(append(out, head[:]...), b.Name...)
		out = append(out, make([]byte, -len(out)&(extAlign-1))...)
	}
	return out
}

func (b *Bitmap) flags() (flags uint32) {
	if b.InUse {
		flags |= bitmapInUse
	}
	if b.Auto {
		flags |= bitmapAuto
	}
	return flags
}

// dropClusters gives back what nothing refers to any more.
func (m *Image) dropClusters(clusters []int64) error {
	var free []int64
	for _, c := range clusters {
		gone, err := m.w.refs.drop(c)
		if err != nil {
			return err
		}
		if gone {
			free = append(free, c)
		}
	}
	if err := m.w.refs.writeBlocks(); err != nil {
		return err
	}
	return m.punch(free)
}

// leadToBitmaps makes the header name a directory of n bitmaps. Where the extension is, one write
// within a sector switches; a new one is complete before it, and its autoclear bit, say
// that it is there.
func (m *Image) leadToBitmaps(n int, at, size int64) error {
	data := bitmapsData(n, at, size)
	i := slices.IndexFunc(m.h.Extensions, func(e Extension) bool { return e.Type == ExtensionBitmaps })
	var err error
	switch {
	case n == 0 && i >= 0:
		err = m.dropBitmaps(m.h.Extensions[i], i == len(m.h.Extensions)-1)
	case n == 0:
		return nil
	case i >= 0 && m.h.Extensions[i].Offset%sectorSize+bitmapsLen > sectorSize:
		return unsupported("a bitmaps extension in two sectors, which cannot be changed at once")
	case i >= 0:
		err = m.writeSynced(data[:], m.h.Extensions[i].Offset)
	default:
		err = m.addBitmaps(data[:])
	}
	if err == nil {
		err = m.rereadHeader()
	}
	if err == nil && n > 0 && m.h.Autoclear&autoclearBitmaps == 0 {
		h := m.h
		h.Autoclear |= autoclearBitmaps
		err = m.writeHeader(h)
	}
	if err != nil {
		return err
	}
	return m.rereadHeader()
}

// bitmapsData is that of the extension that leads to a directory of n bitmaps.
func bitmapsData(n int, at, size int64) (data [bitmapsLen]byte) {
	be := binary.BigEndian
	be.PutUint32(data[:], uint32(n))
	be.PutUint64(data[offBitmapsDirSize:], uint64(size))
	be.PutUint64(data[offBitmapsDirOffset:], uint64(at))
	return data
}

// dropBitmaps takes back the bit, and then the extension, if none comes after it: one that is
// left without its bit says nothing.
func (m *Image) dropBitmaps(e Extension, last bool) error {
	h := m.h
	h.Autoclear &^= autoclearBitmaps
	if err := m.writeHeader(h); err != nil || !last {
		return err
	}
	return m.writeSynced(make([]byte, extHeaderLen), e.Offset-extHeaderLen)
}

// addBitmaps puts the extension behind the others. Its data comes first, and the bit that says
// that it is there last. Where the name of a backing file is in the way that gets a new
// place, and all is switched to at once.
func (m *Image) addBitmaps(data []byte) error {
	head := make([]byte, extHeaderLen)
	binary.BigEndian.PutUint32(head, ExtensionBitmaps)
	binary.BigEndian.PutUint32(head[offExtLength:], uint32(len(data)))
	if m.h.BackingFileOffset != 0 {
		first, next, err := m.renamedWith(slices.Concat(head, data), m.h.BackingFile, m.h.BackingFormat)
		if err != nil {
			return err
		}
		return m.switchTo(first, next)
	}
	at, ok := m.extensionEnd()
	if !ok || at+int64(2*extHeaderLen+len(data)) > m.cluster() {
		return unsupported("a header without room for bitmaps")
	}
	if err := m.writeSynced(append(slices.Clone(data), make([]byte, extHeaderLen)...), at+extHeaderLen); err != nil {
		return err
	}
	return m.writeSynced(head, at)
}

// extensionEnd is where the end mark of the extensions is.
func (m *Image) extensionEnd() (at int64, ok bool) {
	at = int64(m.h.HeaderLength)
	if n := len(m.h.Extensions); n > 0 {
		e := m.h.Extensions[n-1]
		at = e.Offset + roundUp(int64(e.Length), extAlign)
	}
	return at, at+extHeaderLen <= m.cluster()
}

// writeSynced writes at once what lies in one sector, durably.
func (m *Image) writeSynced(b []byte, at int64) error {
	if _, err := m.f.WriteAt(b, at); err != nil {
		return err
	}
	return m.f.Sync()
}

func (m *Image) rereadHeader() error {
	info, err := m.f.Stat()
	if err != nil {
		return err
	}
	m.size = max(m.size, info.Size)
	h, err := ReadHeader(m.f, info.Size)
	if err == nil {
		m.h = h
	}
	return err
}
