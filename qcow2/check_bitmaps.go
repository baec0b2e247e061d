package qcow2

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// An entry of the bitmap directory ("Bitmap directory"). Entries begin at
// multiples of 8 bytes.
//
//	 0 bitmap_table_offset    8 bitmap_table_size    12 flags        16 type
//	17 granularity_bits      18 name_size            20 extra_data_size
//	24 extra data, name
//
// An entry of a bitmap table:
//
//	0 all bits are set, if there is no offset    1- 8 reserved
//	9-55 offset of the data                     56-63 reserved
const (
	offBitmapTableSize   = 8
	offBitmapFlags       = 12
	offBitmapType        = 16
	offBitmapGranularity = 17
	offBitmapNameSize    = 18
	offBitmapExtraSize   = 20

	bitmapInUse         = 1 << 0
	bitmapFlagsReserved = ^uint32(3)
	bitmapDirty         = 1 // the one type
	minGranularityBits  = 9
	maxGranularityBits  = 31
	maxBitmapName       = 1023
	maxBitmapTable      = 128 << 20 // entries
	maxBitmapData       = 512 << 20 // bytes

	bitmapEntryOnes     = 1
	bitmapEntryReserved = ^(entryOffset | bitmapEntryOnes)
)

// bitmaps reports the bitmap directory, the tables that it names and their data.
func (w *walker) bitmaps() error {
	if w.h.Bitmaps == 0 {
		return nil
	}
	if _, err := w.refer(&ref{
		kind: refBitmapDirectory, offset: w.h.BitmapDirectoryOffset, length: w.h.BitmapDirectorySize, times: 1,
	}); err != nil {
		return err
	}
	section := io.NewSectionReader(w.r, w.h.BitmapDirectoryOffset, w.h.BitmapDirectorySize)
	r := bufio.NewReaderSize(section, usagePiece)
	room := w.end + w.l.cluster() // see snapshotL1s
	var done int64
	for range w.h.Bitmaps {
		at := w.h.BitmapDirectoryOffset + done
		t, n, err := w.bitmap(r, at)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return w.fatal(refBitmapDirectory, at, "an entry reaches beyond the end of the directory")
		}
		if err != nil {
			return err
		}
		if room -= t.len(); room < 0 {
			return w.fatal(refBitmapTable, at, "the tables overlap each other")
		}
		if err := w.bitmapTable(t); err != nil {
			return err
		}
		done += n
	}
	if done != w.h.BitmapDirectorySize {
		return w.fatal(refBitmapDirectory, w.h.BitmapDirectoryOffset+done, "more than the bitmaps that there should be")
	}
	return nil
}

// bitmap reads the directory entry at offset at, which has n bytes.
func (w *walker) bitmap(r *bufio.Reader, at int64) (t table, n int64, err error) {
	var b [minBitmapEntryLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return t, 0, err
	}
	t = table{
		field: "bitmap_table_offset", fieldOffset: at, entryLen: 8, maxLen: maxBitmapTable * 8,
		offset: int64(binary.BigEndian.Uint64(b[:])),
		count:  int64(binary.BigEndian.Uint32(b[offBitmapTableSize:])),
	}
	if reason := w.badBitmap(b[:], t); reason != "" {
		return t, 0, w.fatal(refBitmapDirectory, at, reason)
	}
	n = minBitmapEntryLen + int64(binary.BigEndian.Uint16(b[offBitmapNameSize:]))
	n = (n + 7) / 8 * 8
	_, err = r.Discard(int(n - minBitmapEntryLen))
	return t, n, err
}

// badBitmap tells why QEMU does not take a directory entry.
func (w *walker) badBitmap(b []byte, t table) string {
	flags := binary.BigEndian.Uint32(b[offBitmapFlags:])
	name := binary.BigEndian.Uint16(b[offBitmapNameSize:])
	bits := b[offBitmapGranularity]
	switch {
	case flags&bitmapFlagsReserved != 0:
		return "reserved flags are set"
	case binary.BigEndian.Uint32(b[offBitmapExtraSize:]) != 0:
		return "unknown extra data"
	case b[offBitmapType] != bitmapDirty:
		return "unknown type"
	case name == 0 || name > maxBitmapName:
		return "name_size is not in 1..1023"
	case bits < minGranularityBits || bits > maxGranularityBits:
		return "granularity_bits is not in 9..31"
	case t.offset <= 0 || t.offset&(w.l.cluster()-1) != 0:
		return "bitmap_table_offset is not aligned"
	case t.count > maxBitmapTable || t.count*w.l.cluster() > maxBitmapData:
		return "bitmap_table_size is too large"
	case flags&bitmapInUse == 0 && w.h.Size > t.count*w.l.cluster()*8<<bits:
		return "the bitmap is too short for the disk"
	}
	return ""
}

// bitmapTable reports a table and its data.
func (w *walker) bitmapTable(t table) error {
	inside, err := w.refer(&ref{
		kind: refBitmapTable, offset: t.offset, length: t.len(), at: t.fieldOffset, times: 1,
	})
	if err != nil || !inside {
		return err
	}
	return w.words(t.offset, t.len(), w.bitmapEntry)
}

func (w *walker) bitmapEntry(at int64, entry uint64) error {
	offset := int64(entry & entryOffset)
	reason := ""
	switch {
	case entry&bitmapEntryReserved != 0:
		reason = "reserved bits are set"
	case offset != 0 && entry&bitmapEntryOnes != 0:
		reason = "offset of a cluster of ones"
	case offset&(w.l.cluster()-1) != 0:
		reason = "offset is not aligned"
	case offset == 0:
		return nil
	}
	if reason != "" {
		return w.wrong(refBitmapData, at, reason)
	}
	_, err := w.refer(&ref{kind: refBitmapData, offset: offset, length: w.l.cluster(), at: at, times: 1})
	return err
}
