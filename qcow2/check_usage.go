package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// A refKind says what a reference leads to.
type refKind uint8

const (
	refHeader refKind = iota
	refL1
	refL2
	refData
	refCompressed
	refSnapshotTable
	refSnapshotL1
	refRefcountTable
	refRefcountBlock
	refEncryption
	refBitmapDirectory
	refBitmapTable
	refBitmapData
)

var refNames = [...]string{
	"header", "L1 table", "L2 table", "cluster", "compressed cluster", "snapshot table",
	"L1 table of a snapshot", "refcount table", "refcount block", "encryption header",
	"bitmap directory", "bitmap table", "bitmap data",
}

func (k refKind) String() string { return refNames[k] }

func (k refKind) class() clusterClass {
	switch k {
	case refData, refCompressed:
		return classData
	case refL2:
		return classL2
	}
	return classMeta
}

// A ref is a place in the file that the image refers to, or, if it has a
// reason, something that is wrong with such a reference. Offsets and lengths
// are bytes.
type ref struct {
	kind   refKind
	offset int64
	length int64
	at     int64 // of the field that holds the reference
	times  int64 // how many references this is: snapshots share L2 tables
	active int64 // how many of them are subject to the copied flag
	copied bool
	reason string // "" for a reference
	fatal  bool   // the rest of the image cannot be understood
	ours   bool   // qemu-img does not mind
	odd    bool   // the entry is in a table that is not aligned
	entry  entry  // of a cluster: what leads to it
}

// errUnreadable ends a walk whose visitor has been told why.
var errUnreadable = errors.New("qcow2: a table cannot be read")

// Reasons of which more than one place must know.
const (
	reasonOutside   = "lies outside of the file"
	reasonHeader    = "is not 0, but leads to the header"
	reasonOverlap   = "metadata overlaps with something else"
	reasonCut       = "the file ends within it"
	reasonNotCopied = "is not marked as copied, which all clusters of a data file are"
)

// usageStats counts entries of the active L1 table as qemu-img does.
type usageStats struct{ allocated, fragmented, compressed int64 }

// usagePiece is how many bytes of a table are read at once, and at least a
// sector.
const usagePiece = 1 << 18

// maxOddTables is how many L2 tables that are not aligned are read, as QEMU
// reads all of them: more are not worth the time, since they can overlap.
const maxOddTables = 64

// imageReader is what usage needs of a vfs.File.
type imageReader interface {
	io.ReaderAt
	NextData(off int64) (start, end int64, err error)
}

// A walker finds all references.
type walker struct {
	r     imageReader
	h     Header
	l     layout
	size  int64 // of the file
	end   int64 // the same, rounded up to sectors as QEMU sees it
	visit func(*ref) error
	stats usageStats

	active    []int64         // offsets of aligned L2 tables, one for each reference
	odd       map[int64]*l2At // L2 tables that are not aligned
	shared    *clusterCounts  // references to L2 tables by snapshots, nil without them
	lastTable int64           // L2 table of the last cluster of the disk

	asked, dataStart, dataEnd int64 // from asked on there is no data before dataStart
}

// l2At is an L2 table with the number of references that lead to it.
type l2At struct{ offset, times, active int64 }

// usage calls visit for everything in the file to which the image refers, and
// for each reference that is not as it should be, until visit returns an
// error. Each table is read once, however many refer to it: snapshots share
// them, and a hostile image could name one a million times. Reads are at most
// 2 MiB; memory is bounded by the file, not by the disk. Refcount blocks come
// last. h is what ReadHeader said about a file of size bytes.
func usage(r imageReader, h Header, size int64, visit func(*ref) error) (usageStats, error) {
	w := &walker{
		r: r, h: h, l: h.layout(), size: size, visit: visit,
		end: (size + sectorSize - 1) / sectorSize * sectorSize,
		odd: map[int64]*l2At{},
	}
	for _, step := range []func() error{
		w.header, w.snapshots, w.activeL1, w.l2Tables, w.refcountTable, w.encryption,
		w.bitmaps, w.refcountBlocks,
	} {
		if err := step(); err != nil {
			return w.stats, err
		}
	}
	return w.stats, nil
}

// wrong reports something that is no reference.
func (w *walker) wrong(kind refKind, at int64, reason string) error {
	return w.visit(&ref{kind: kind, at: at, times: 1, reason: reason})
}

// ours reports what qemu-img does not mind.
func (w *walker) ours(kind refKind, at, times int64, reason string) error {
	return w.visit(&ref{kind: kind, at: at, times: times, reason: reason, ours: true})
}

// fatal reports what makes going on senseless, and ends the walk.
func (w *walker) fatal(kind refKind, at int64, reason string) error {
	if err := w.visit(&ref{kind: kind, at: at, times: 1, reason: reason, fatal: true}); err != nil {
		return err
	}
	return errUnreadable
}

// refer reports a reference if it touches the file: QEMU allows for a last
// cluster that is not complete. A table that is cut off is wrong as well.
func (w *walker) refer(r *ref) (inside bool, err error) {
	if r.length <= 0 {
		return true, nil
	}
	if r.offset < 0 || r.offset > math.MaxInt64-r.length || r.offset+r.length-w.end >= w.l.cluster() {
		r.reason = reasonOutside
		return false, w.visit(r)
	}
	if err := w.visit(r); err != nil {
		return true, err
	}
	if r.kind.class() != classData && r.offset+r.length > w.size {
		return true, w.ours(r.kind, r.at, 1, reasonCut)
	}
	return true, nil
}

func (w *walker) header() error {
	_, err := w.refer(&ref{kind: refHeader, length: min(w.l.cluster(), w.end), times: 1})
	return err
}

func (w *walker) refcountTable() error {
	_, err := w.refer(&ref{
		kind: refRefcountTable, offset: w.h.RefcountTableOffset, at: offRefcountTable, times: 1,
		length: int64(w.h.RefcountTableClusters) * w.l.cluster(),
	})
	return err
}

func (w *walker) encryption() error {
	_, err := w.refer(&ref{
		kind: refEncryption, offset: w.h.CryptHeaderOffset, length: w.h.CryptHeaderLength,
		at: offCryptMethod, times: 1,
	})
	return err
}

// refcountBlocks reports the blocks in the order of their table. One with
// reserved bits is no reference to QEMU.
func (w *walker) refcountBlocks() error {
	length := int64(w.h.RefcountTableClusters) * w.l.cluster()
	return w.words(w.h.RefcountTableOffset, length, func(at int64, entry uint64) error {
		block := int64(entry &^ refTableReserved)
		switch {
		case entry&refTableReserved != 0:
			return w.wrong(refRefcountBlock, at, "reserved bits are set")
		case block&(w.l.cluster()-1) != 0:
			return w.wrong(refRefcountBlock, at, "offset is not aligned")
		}
		_, err := w.refer(&ref{kind: refRefcountBlock, offset: block, length: w.l.cluster(), at: at, times: 1})
		return err
	})
}

// words calls visit for each 64-bit entry that is not 0 of the table at off,
// which has length bytes. What is beyond the end of the file counts as 0.
func (w *walker) words(off, length int64, visit func(at int64, entry uint64) error) error {
	b := make([]byte, min(usagePiece, length))
	for end := min(off+length, w.size); off < end; off += int64(len(b)) {
		b = b[:min(int64(len(b)), off+length-off, (end-off+7)/8*8)]
		empty, err := w.load(b, off)
		if err != nil {
			return err
		}
		if empty {
			continue
		}
		if err := eachWord(b, off, visit); err != nil {
			return err
		}
	}
	return nil
}

// eachWord calls visit for each word of b that is not 0.
func eachWord(b []byte, off int64, visit func(at int64, word uint64) error) error {
	for i := 0; i+8 <= len(b); i += 8 {
		if word := binary.BigEndian.Uint64(b[i:]); word != 0 {
			if err := visit(off+int64(i), word); err != nil {
				return err
			}
		}
	}
	return nil
}

// load is readPadded, but does not fill b from a large hole.
func (w *walker) load(b []byte, off int64) (empty bool, err error) {
	empty, err = w.hole(off, off+int64(len(b)))
	if err != nil || empty {
		return empty, err
	}
	return false, readPadded(w.r, b, off, w.size)
}

// sparsePiece is from which length on it pays to ask whether there is data: a
// hostile image can name terabytes of holes.
const sparsePiece = 128 << 10

// hole tells whether there is no data from off to end, as far as it is worth to
// ask. It remembers the last answer of the file system, which can take long to
// find one.
func (w *walker) hole(off, end int64) (bool, error) {
	if end-off < sparsePiece || off >= w.size {
		return off >= w.size, nil
	}
	if off < w.asked || off >= w.dataEnd {
		start, dataEnd, err := w.r.NextData(off)
		if err != nil {
			return false, err
		}
		w.asked, w.dataStart, w.dataEnd = off, start, dataEnd
	}
	return end <= w.dataStart, nil
}

// readPadded reads b from off; what is beyond the end of the file is zeros.
func readPadded(r io.ReaderAt, b []byte, off, size int64) error {
	n := max(min(int64(len(b)), size-off), 0)
	clear(b[n:])
	if n == 0 {
		return nil
	}
	if got, err := r.ReadAt(b[:n], off); int64(got) < n {
		return fmt.Errorf("qcow2: read at offset %d: %w", off, err)
	}
	return nil
}

// activeL1 reports the active L1 table and what it refers to, and remembers
// the L2 tables.
func (w *walker) activeL1() error {
	length := int64(w.h.L1Size) * l1EntryLen
	_, err := w.refer(&ref{kind: refL1, offset: w.h.L1TableOffset, length: length, at: offL1Table, times: 1})
	if err != nil {
		return err
	}
	lastAt := w.h.L1TableOffset + (w.h.l1Entries()-1)*l1EntryLen
	err = w.words(w.h.L1TableOffset, length, func(at int64, entry uint64) error {
		if at == lastAt {
			w.lastTable = int64(entry & entryOffset)
		}
		return w.l1Entry(at, entry, 1)
	})
	slices.Sort(w.active)
	return err
}

// l1Entry reports an L1 entry; active is 0 for one of a snapshot.
func (w *walker) l1Entry(at int64, entry uint64, active int64) error {
	offset := int64(entry & entryOffset)
	if offset == 0 {
		return w.wrong(refL2, at, reasonHeader)
	}
	if entry&l1Reserved != 0 {
		if err := w.wrong(refL2, at, "reserved bits are set"); err != nil {
			return err
		}
	}
	inside, err := w.refer(&ref{
		kind: refL2, offset: offset, length: w.l.cluster(), at: at,
		times: 1, active: active, copied: entry&entryCopied != 0,
	})
	if err != nil {
		return err
	}
	aligned := offset&(w.l.cluster()-1) == 0
	if !aligned {
		if err := w.wrong(refL2, at, "offset is not aligned"); err != nil {
			return err
		}
	}
	if inside {
		w.remember(offset, active, aligned)
	}
	return nil
}

// remember notes an L2 table that is to be read.
func (w *walker) remember(offset, active int64, aligned bool) {
	switch {
	case !aligned:
		t := w.odd[offset]
		if t == nil && len(w.odd) < maxOddTables {
			t = &l2At{offset: offset}
			w.odd[offset] = t
		}
		if t != nil {
			t.times++
			t.active += active
		}
	case active > 0:
		w.active = append(w.active, offset)
	default:
		w.shared.add(&ref{kind: refL2, offset: offset, length: 1, times: 1})
	}
}
