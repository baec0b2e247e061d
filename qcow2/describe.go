package qcow2

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// Image is what the header says, as all formats put it.
func (h Header) Image() Summary { return (&Image{h: h}).Image() }

// A Snapshot is an internal snapshot, as the snapshot table describes it.
type Snapshot struct {
	ID, Name    string
	Seconds     int64 // when it was taken, since 1970
	Nanoseconds int64
	Clock       int64 // of the guest, nanoseconds
	StateSize   int64 // of the saved memory, bytes
	Icount      int64 // instructions executed, or -1
	Size        int64 // of the virtual disk then, bytes

	l1 table // of the snapshot
}

// Offsets in an entry of the snapshot table, and in its extra data.
const (
	offSnapshotSeconds  = 16
	offSnapshotNanos    = 20
	offSnapshotClock    = 24
	offSnapshotState    = 32
	offExtraState       = 0
	offExtraIcount      = 16
	offExtraSize        = 8
	extraStateEnd       = 8
	extraSizeEnd        = 16
	extraIcountEnd      = 24
	noIcount            = -1
	maxListedBytes      = 64 << 20 // ours: of names, in one table
	snapshotTable       = "snapshot table"
	bitmapDirectoryName = "bitmap directory"
)

// ReadSnapshots lists the internal snapshots of the image r of size bytes,
// whose header is h.
func ReadSnapshots(r io.ReaderAt, h Header, size int64) ([]Snapshot, error) {
	list := []Snapshot{}
	section := io.NewSectionReader(r, h.SnapshotsOffset, min(size-h.SnapshotsOffset, maxListedBytes))
	in := &tableReader{r: bufio.NewReader(section), at: h.SnapshotsOffset, field: snapshotTable}
	for range h.Snapshots {
		s, err := in.snapshot()
		if err != nil {
			return nil, err
		}
		if s.Size == 0 { // version 2 does not tell
			s.Size = h.Size
		}
		list = append(list, s)
	}
	return list, nil
}

// A tableReader reads tables of entries of different lengths, which begin at
// multiples of 8 bytes.
type tableReader struct {
	r     *bufio.Reader
	at    int64 // bytes from the start of the file
	field string
}

// next returns the next n bytes.
func (t *tableReader) next(n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(t.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, malformed(t.at, t.field, "an entry reaches beyond its end")
	}
	t.at += n
	return b, err
}

// align skips what fills up an entry before the next one: the last has nothing.
func (t *tableReader) align() error {
	_, err := t.next(-t.at & (extAlign - 1))
	return err
}

func (t *tableReader) snapshot() (s Snapshot, err error) {
	if err := t.align(); err != nil {
		return s, err
	}
	at := t.at
	b, err := t.next(minSnapshotLen)
	if err != nil {
		return s, err
	}
	be := binary.BigEndian
	s = Snapshot{
		l1: table{
			field: "l1_table_offset of a snapshot", fieldOffset: at, entryLen: l1EntryLen, maxLen: maxL1Bytes,
			offset: int64(be.Uint64(b)), count: int64(be.Uint32(b[offSnapshotL1Size:])),
		},
		Seconds:     int64(be.Uint32(b[offSnapshotSeconds:])),
		Nanoseconds: int64(be.Uint32(b[offSnapshotNanos:])),
		Clock:       int64(min(be.Uint64(b[offSnapshotClock:]), math.MaxInt64)),
		StateSize:   int64(be.Uint32(b[offSnapshotState:])),
		Icount:      noIcount,
	}
	if err := t.snapshotExtra(&s, be.Uint32(b[offSnapshotExtra:])); err != nil {
		return s, err
	}
	id, name := int64(be.Uint16(b[offSnapshotID:])), int64(be.Uint16(b[offSnapshotName:]))
	text, err := t.next(id + name)
	if err != nil {
		return s, err
	}
	s.ID, s.Name = string(text[:id]), string(text[id:])
	return s, nil
}

func (t *tableReader) snapshotExtra(s *Snapshot, n uint32) error {
	if n > maxSnapshotExtra {
		return malformed(t.at, t.field, "more than 1024 bytes of extra data")
	}
	extra, err := t.next(int64(n))
	if err != nil {
		return err
	}
	if n >= extraStateEnd {
		s.StateSize = int64(min(binary.BigEndian.Uint64(extra[offExtraState:]), math.MaxInt64))
	}
	if n >= extraSizeEnd {
		s.Size = int64(min(binary.BigEndian.Uint64(extra[offExtraSize:]), math.MaxInt64))
	}
	if n >= extraIcountEnd {
		s.Icount = int64(binary.BigEndian.Uint64(extra[offExtraIcount:]))
	}
	return nil
}

// A Bitmap is a persistent bitmap, as the directory describes it.
type Bitmap struct {
	Name        string
	Granularity int64 // bytes that one bit stands for
	InUse       bool  // not saved by the program that used it last: not to be trusted
	Auto        bool  // writers are to keep it up to date
}

const bitmapAuto = 1 << 1

// ReadBitmaps lists the bitmaps of the image r, whose header is h.
func ReadBitmaps(r io.ReaderAt, h Header) ([]Bitmap, error) {
	list := []Bitmap{}
	err := eachBitmap(r, h, func(b Bitmap, _ table) error {
		list = append(list, b)
		return nil
	})
	return list, err
}

// eachBitmap calls visit for each bitmap, with its table, which has not been checked.
func eachBitmap(r io.ReaderAt, h Header, visit func(Bitmap, table) error) error {
	section := io.NewSectionReader(r, h.BitmapDirectoryOffset, min(h.BitmapDirectorySize, maxListedBytes))
	in := &tableReader{r: bufio.NewReader(section), at: h.BitmapDirectoryOffset, field: bitmapDirectoryName}
	for range h.Bitmaps {
		b, t, err := in.bitmap()
		if err == nil {
			err = visit(b, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tableReader) bitmap() (m Bitmap, place table, err error) {
	if err := t.align(); err != nil {
		return m, place, err
	}
	start := t.at
	b, err := t.next(minBitmapEntryLen)
	if err != nil {
		return m, place, err
	}
	be := binary.BigEndian
	bits, extra := b[offBitmapGranularity], be.Uint32(b[offBitmapExtraSize:])
	if bits < minGranularityBits || bits > maxGranularityBits || extra > maxSnapshotExtra {
		return m, place, malformed(start, t.field, "an entry that makes no sense")
	}
	rest, err := t.next(int64(extra) + int64(be.Uint16(b[offBitmapNameSize:])))
	if err != nil {
		return m, place, err
	}
	flags := be.Uint32(b[offBitmapFlags:])
	m = Bitmap{string(rest[extra:]), 1 << bits, flags&bitmapInUse != 0, flags&bitmapAuto != 0}
	place = table{
		field: "bitmap_table_offset", fieldOffset: start, entryLen: 8, maxLen: maxBitmapTable * 8,
		offset: int64(be.Uint64(b)), count: int64(be.Uint32(b[offBitmapTableSize:])),
	}
	return m, place, nil
}
