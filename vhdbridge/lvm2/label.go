package lvm2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Sizes and places, in bytes, of LVM2's lib/label/label.h and lib/format_text/layout.h.
const (
	sectorSize   = 512
	labelSectors = 4   // the label is in one of the first
	labelHead    = 20  // id, number of the sector, CRC: the CRC is of what follows
	areaHead     = 512 // header of a metadata area, before its ring
	mostText     = 16 << 20
	mostAreas    = 64 // of one kind on a physical volume
)

var (
	labelID   = []byte("LABELONE")
	labelType = []byte("LVM2 001")
	areaMagic = []byte("\x20LVM2\x20x[5A%r0N*>")
)

// LabelBytes is how much of a physical volume has its label.
const LabelBytes = labelSectors * sectorSize

// HasLabel tells whether the first LabelBytes of something have a label of LVM, whatever else
// is wrong with it.
func HasLabel(head []byte) bool {
	for at := 0; at < min(len(head), LabelBytes); at += sectorSize {
		if bytes.HasPrefix(head[at:], labelID) {
			return true
		}
	}
	return false
}

// ErrNoLabel says that something is no physical volume.
var ErrNoLabel = errors.New("no physical volume of LVM2: none of the first four sectors has a label")

// ErrNoMetadata says that a physical volume belongs to no group, or keeps no metadata: then
// the group's others have it.
var ErrNoMetadata = errors.New("the physical volume has no metadata of a volume group")

// A DamagedError says what of a physical volume cannot be read, and where.
type DamagedError struct {
	Offset int64 // bytes from the beginning of the physical volume
	Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("at byte %d: %s", e.Offset, e.Reason) }

func damaged(offset int64, format string, args ...any) error {
	return &DamagedError{offset, fmt.Sprintf(format, args...)}
}

// checksum is LVM2's calc_crc: CRC-32 with a beginning of its own, and not inverted.
func checksum(data []byte) uint32 {
	const begin = 0xf597a6cf
	return ^crc32.Update(^uint32(begin), crc32.IEEETable, data)
}

// An area is a stretch of a physical volume, in bytes.
type area struct{ offset, size int64 }

// A label is what the beginning of a physical volume tells.
type label struct {
	uuid  string // 32 characters
	size  int64  // bytes
	data  []area
	areas []area // of metadata
}

// readLabel finds the label.
func readLabel(r io.ReaderAt, size int64) (label, error) {
	head := make([]byte, min(LabelBytes, size))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return label{}, err
	}
	for at := 0; at+sectorSize <= len(head); at += sectorSize {
		sector := head[at : at+sectorSize]
		if !bytes.HasPrefix(sector, labelID) {
			continue
		}
		if n := binary.LittleEndian.Uint64(sector[8:]); n != uint64(at/sectorSize) {
			return label{}, damaged(int64(at), "the label says that it is in sector %d", n)
		}
		if sum := binary.LittleEndian.Uint32(sector[16:]); sum != checksum(sector[labelHead:]) {
			return label{}, damaged(int64(at), "the label's checksum is wrong")
		}
		if !bytes.Equal(sector[24:32], labelType) {
			return label{}, damaged(int64(at), "the label is of type %q: want %q", sector[24:32], labelType)
		}
		return parsePV(sector, int64(at))
	}
	return label{}, ErrNoLabel
}

// parsePV reads the header that the label leads to, in the same sector.
func parsePV(sector []byte, at int64) (l label, err error) {
	offset := binary.LittleEndian.Uint32(sector[20:])
	if offset < labelHead || offset > sectorSize-40 {
		return l, damaged(at, "the label leads to byte %d of its sector", offset)
	}
	head := sector[offset:]
	l.uuid, l.size = string(head[:32]), int64(binary.LittleEndian.Uint64(head[32:]))
	rest := head[40:]
	if l.data, rest, err = areaList(rest, at); err != nil {
		return l, err
	}
	l.areas, _, err = areaList(rest, at)
	return l, err
}

// areaList reads pairs of offset and size up to one of zeros.
func areaList(b []byte, at int64) ([]area, []byte, error) {
	var list []area
	for len(b) >= 16 && len(list) < mostAreas {
		a := area{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
		b = b[16:]
		if a.offset == 0 {
			return list, b, nil
		}
		if a.offset < 0 || a.size < 0 {
			return nil, nil, damaged(at, "an area of the physical volume is at %d, of %d bytes", a.offset, a.size)
		}
		list = append(list, a)
	}
	return nil, nil, damaged(at, "the list of areas has no end")
}

// readText reads the newest text of a metadata area; "" where there is none yet.
func readText(r io.ReaderAt, a area) (string, error) {
	head := make([]byte, areaHead)
	if _, err := r.ReadAt(head, a.offset); err != nil {
		return "", atEnd(err, a.offset)
	}
	switch {
	case !bytes.Equal(head[4:20], areaMagic):
		return "", damaged(a.offset, "no header of a metadata area")
	case binary.LittleEndian.Uint32(head) != checksum(head[4:]):
		return "", damaged(a.offset, "the checksum of the metadata area's header is wrong")
	case binary.LittleEndian.Uint32(head[20:]) != 1:
		return "", damaged(a.offset, "the metadata area is of version %d: want 1", binary.LittleEndian.Uint32(head[20:]))
	}
	start, size := int64(binary.LittleEndian.Uint64(head[24:])), int64(binary.LittleEndian.Uint64(head[32:]))
	if start != a.offset || size <= areaHead {
		return "", damaged(a.offset, "the metadata area says that it is at %d, of %d bytes", start, size)
	}
	text := area{int64(binary.LittleEndian.Uint64(head[40:])), int64(binary.LittleEndian.Uint64(head[48:]))}
	sum := binary.LittleEndian.Uint32(head[56:])
	ignored := binary.LittleEndian.Uint32(head[60:])&1 != 0
	if text.offset == 0 || ignored {
		return "", nil
	}
	return ringText(r, area{start, size}, text, sum)
}

// ringText reads a text that may go on at the beginning of its ring.
func ringText(r io.ReaderAt, ring, text area, sum uint32) (string, error) {
	at := ring.offset + text.offset
	if text.offset < areaHead || text.offset >= ring.size || text.size <= 0 || text.size > min(mostText, ring.size-areaHead) {
		return "", damaged(ring.offset, "the metadata is at byte %d of its area, of %d bytes: the area has %d", text.offset, text.size, ring.size)
	}
	data := make([]byte, text.size)
	first := min(text.size, ring.size-text.offset)
	if _, err := r.ReadAt(data[:first], at); err != nil {
		return "", atEnd(err, at)
	}
	if first < text.size {
		if _, err := r.ReadAt(data[first:], ring.offset+areaHead); err != nil {
			return "", atEnd(err, ring.offset+areaHead)
		}
	}
	if checksum(data) != sum {
		return "", damaged(at, "the checksum of the metadata is wrong")
	}
	return string(bytes.TrimRight(data, "\x00")), nil
}

// atEnd says of a read that went beyond the end where that was.
func atEnd(err error, at int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(at, "the physical volume ends here: the copy is not whole")
	}
	return err
}
