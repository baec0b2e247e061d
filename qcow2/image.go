package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// An Image is one open image: its own clusters, not what is below it. It is a Source
// and, if Open opened it, a Target. Its errors do not name the file; who opened it
// does. It is not safe for concurrent use.
type Image struct {
	f    vfs.File
	data vfs.File // where guest data is: f, or the external data file
	h    Header
	layout
	size   int64 // of f, when it was opened or last changed
	l1     []uint64
	tables *tableCache
	inflater
	raw   []byte // the last cluster that was unpacked
	rawOf uint64 // its L2 entry
	w     *writer
	view  bool // of another Image, whose files it reads

	keeping bool // what is written is marked in the persistent bitmaps: see KeepBitmaps
}

// Open reads header and L1 table of an image that is to be changed. Data opens the
// external data file; nil refuses images that have one.
//
// The Image takes f over: Close closes it, if it is an io.Closer. After an error it is
// still the caller's. That nobody else uses the image is up to the caller, too;
// virt-rotate takes QEMU's locks.
func Open(f File, data DataOpener) (*Image, error) {
	return open(vfs.Full(f), data)
}

// NewReader reads header and L1 table of an image of size bytes that is only to be
// read. Otherwise it is as Open.
//
// A guest that runs changes its image: what is read of it then may be malformed,
// though the image is not.
func NewReader(r io.ReaderAt, size int64, data DataOpener) (*Image, error) {
	return open(vfs.FullReader(r, size), data)
}

func open(f vfs.File, data DataOpener) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := ReadHeader(f, info.Size)
	if err != nil {
		return nil, err
	}
	m := &Image{f: f, data: f, h: h, layout: h.layout(), size: info.Size}
	m.tables = newTableCache(m, cacheBytes)
	if m.l1, err = m.readL1(h.L1TableOffset, int64(h.L1Size)); err != nil {
		return nil, err
	}
	if err := m.checkL1Shares(); err != nil {
		return nil, err
	}
	if h.HasDataFile() {
		if err := m.openDataFile(data); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Image) openDataFile(open DataOpener) error {
	if open == nil {
		return unsupported(fmt.Sprintf("external data file %q, which nobody has allowed", m.h.DataFile))
	}
	if m.h.DataFile == "" {
		return malformed(offIncompatible, "incompatible_features", "an external data file without a name")
	}
	r, size, err := open(m.h.DataFile)
	if err != nil {
		return err
	}
	m.data = vfs.FullReader(r, size)
	return nil
}

// Header is what the image's header says.
func (m *Image) Header() Header { return m.h }

// Image is what the image says of itself.
func (m *Image) Image() Summary {
	h := m.h
	return chain.Image{
		Format: "qcow2", VirtualSize: h.Size, Backing: h.BackingFile, BackingFormat: h.BackingFormat,
		Snapshots: int(h.Snapshots), Bitmaps: int(h.Bitmaps),
		Encrypted: h.Encrypted(), DataFile: h.HasDataFile(), Corrupt: h.Corrupt(),
	}
}

// Host is the file that guest data is in.
func (m *Image) Host() File { return m.data }

// File is the image file itself.
func (m *Image) File() File { return m.f }

// Close closes the files. Without Flush, what was placed is lost.
func (m *Image) Close() error {
	if m.view {
		return nil
	}
	err := m.f.Close()
	if m.data != m.f && m.data != nil {
		err = errors.Join(err, m.data.Close())
	}
	return err
}

// readL1 reads an L1 table of n entries, which ReadHeader has found to be in
// the file, or which was checked like that.
func (m *Image) readL1(off, n int64) ([]uint64, error) {
	b := make([]byte, n*l1EntryLen)
	if err := readFull(m.f, b, off, "L1 table"); err != nil {
		return nil, err
	}
	l1 := make([]uint64, n)
	for i := range l1 {
		l1[i] = binary.BigEndian.Uint64(b[i*l1EntryLen:])
		if err := m.checkL1(l1[i], off+int64(i)*l1EntryLen); err != nil {
			return nil, err
		}
	}
	return l1, nil
}

// checkL1 wants the L2 table of an entry at byte offset at within the file.
// QEMU reads zeros beyond the end, which would make a cut image look empty.
func (m *Image) checkL1(e uint64, at int64) error {
	off := int64(e & entryOffset)
	switch {
	case e&l1Reserved != 0:
		return malformed(at, "L1 entry", "reserved bits are set")
	case off&(m.cluster()-1) != 0:
		return malformed(at, "L1 entry", "offset of the L2 table is not aligned")
	case off > m.size-m.cluster():
		return malformed(at, "L1 entry", "the L2 table is beyond the end of the file")
	}
	return nil
}

// l2 returns the L2 table that maps offset off, or nil where there is none. It
// is valid until the next call.
func (m *Image) l2(off int64) ([]byte, error) {
	i := off / m.l2Covers()
	if i >= int64(len(m.l1)) || m.l1[i]&entryOffset == 0 {
		return nil, nil
	}
	return m.tables.get(int64(m.l1[i] & entryOffset))
}

// entry returns the checked L2 entry of the cluster at off.
func (m *Image) entry(off int64) (entry, error) {
	table, err := m.l2(off)
	if table == nil || err != nil {
		return entry{}, err
	}
	return m.entryIn(table, off)
}

// entryIn is entry with the table at hand.
func (m *Image) entryIn(table []byte, off int64) (entry, error) {
	i := off % m.l2Covers() >> m.clusterBits
	e := m.entryAt(table, i)
	at := int64(m.l1[off/m.l2Covers()]&entryOffset) + i*m.l2EntryLen()
	if err := m.check(e, at); err != nil {
		return e, err
	}
	return e, m.checkWithin(e, off, at)
}

// checkWithin wants what the entry of the cluster at off names within the file.
// The last cluster of the file may be cut where the disk ends.
func (m *Image) checkWithin(e entry, off, at int64) error {
	if m.dataFile {
		return nil
	}
	start, n := e.host(), m.cluster()
	switch {
	case e.compressed():
		start, _ = m.packed(e)
		n = 1 // how long it really is, unpacking shows
	case m.extended:
		n = lastSubcluster(e) * m.granule() // QEMU writes no further
	case m.kind(e) == chain.Zero:
		n = 0
	}
	n = min(n, m.h.Size-off)
	if start != 0 && n > 0 && start+n > m.size {
		return malformed(at, "L2 entry", "the cluster is beyond the end of the file")
	}
	return nil
}

// Extent returns the extent that begins at off. Source: chain.Source.
func (m *Image) Extent(off, end int64) (Extent, error) {
	if off < 0 || off >= end || end > m.h.Size {
		return chain.Extent{}, fmt.Errorf("extent %d..%d of a disk of %d bytes", off, end, m.h.Size)
	}
	x := chain.Extent{Offset: off, Host: chain.NoHost}
	for at := off; at < end; at = x.End() {
		piece, err := m.piece(at, end)
		if err != nil {
			return x, err
		}
		if at == off {
			x = piece
		} else if !joins(x, piece) {
			break
		}
		x.Length = piece.End() - off
		if x.Kind == chain.Compressed {
			break // one cluster each: they are unpacked one by one
		}
	}
	return x.Cut(end), nil
}

// joins tells whether b goes on where a ends.
func joins(a, b chain.Extent) bool {
	if a.Kind != b.Kind {
		return false
	}
	if a.Host == chain.NoHost || b.Host == chain.NoHost {
		return a.Host == b.Host
	}
	return a.Host+a.Length == b.Host
}

// piece returns what one L2 table says from off on, as long as it is of one kind
// and in one place. Without a table that is all that the table would map.
func (m *Image) piece(off, end int64) (chain.Extent, error) {
	x := chain.Extent{Offset: off, Kind: chain.Hole, Host: chain.NoHost}
	tableEnd := (off/m.l2Covers() + 1) * m.l2Covers()
	table, err := m.l2(off)
	if err != nil {
		return x, err
	}
	if table == nil {
		x.Length = min(tableEnd, end) - off
		return x, nil
	}
	e, err := m.entryIn(table, off)
	if err != nil {
		return x, err
	}
	if (e == entry{}) && !m.dataFile {
		x.Length = min(m.emptyFrom(table, off), end) - off
		return x, nil
	}
	in := off & (m.cluster() - 1)
	kind, n := m.run(e, in/m.granule())
	x.Kind = kind
	x.Length = (in/m.granule()+n)*m.granule() - in
	if kind == chain.Data || kind == chain.Zero && m.allocated(e) {
		x.Host = e.host() + in
	}
	return x, nil
}

// emptyFrom returns where the run of empty entries ends that off is in.
func (m *Image) emptyFrom(table []byte, off int64) int64 {
	i := off % m.l2Covers() >> m.clusterBits
	at := zerosEnd(table, i*m.l2EntryLen())
	return off&^(m.l2Covers()-1) + at/m.l2EntryLen()<<m.clusterBits
}

// zerosEnd is where the zeros end that begin at at, in words of eight bytes.
func zerosEnd(b []byte, at int64) int64 {
	const step = 64
	for ; at+step <= int64(len(b)); at += step {
		if *(*[step]byte)(b[at:]) != [step]byte{} {
			break
		}
	}
	for at < int64(len(b)) && binary.NativeEndian.Uint64(b[at:]) == 0 {
		at += 8
	}
	return at
}

// ReadAt fills p with the image's own clusters; holes and what is beyond the
// disk are zeros.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= m.h.Size {
			clear(p[done:])
			return len(p), nil
		}
		x, err := m.Extent(at, min(m.h.Size, off+int64(len(p))))
		if err != nil {
			return done, err
		}
		if err := m.readExtent(p[done:done+int(x.Length)], x); err != nil {
			return done, err
		}
		done += int(x.Length)
	}
	return len(p), nil
}

func (m *Image) readExtent(p []byte, x chain.Extent) error {
	switch x.Kind {
	case chain.Data:
		if m.h.Encrypted() {
			return unsupported("reading encrypted data")
		}
		return readFull(m.data, p, x.Host, "cluster")
	case chain.Compressed:
		b, err := m.unpack(x.Offset)
		if err != nil {
			return err
		}
		copy(p, b[x.Offset&(m.cluster()-1):])
		return nil
	}
	clear(p)
	return nil
}
