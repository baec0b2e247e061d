package qcow2

import (
	"fmt"
	"io"
	"slices"
)

// blankPiece is how many bytes of the L1 table Blank reads at once.
const blankPiece = 64 << 10

// Blank tells whether an image of size bytes holds no guest data of its own: no
// entry in its L1 table and no internal snapshot. All reads then come from the
// backing file, or are zeros. h is what ReadHeader said about r.
//
// False is the safe answer. It is also given for an image whose L2 tables are
// all empty, which had data once, for a corrupt one, and for one with an
// external data file, which can hold data that no table names. True says
// nothing about the size of the disk, which may differ from that of the backing
// file, nor about bitmaps; on a running guest it may be outdated already.
func Blank(r io.ReaderAt, h Header, size int64) (bool, error) {
	if h.Snapshots > 0 || h.Corrupt() || h.HasDataFile() {
		return false, nil
	}
	if err := h.check(); err != nil {
		return false, fmt.Errorf("header was not read by ReadHeader: %w", err)
	}
	l1 := h.tables()[0]
	if err := l1.checkWithin(size); err != nil {
		return false, err
	}
	return allZero(r, l1.offset, l1.offset+l1.len())
}

// allZero reads from off to end in pieces, up to the first byte that is not 0.
func allZero(r io.ReaderAt, off, end int64) (bool, error) {
	b := make([]byte, min(blankPiece, end-off))
	for ; off < end; off += int64(len(b)) {
		b = b[:min(int64(len(b)), end-off)]
		if err := readFull(r, b, off, "L1 table"); err != nil {
			return false, err
		}
		if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			return false, nil
		}
	}
	return true, nil
}
