package guest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

const (
	sectorSize = 512
	magic      = 0x544f5256 // "VROT"
	perSlot    = SlotSize / sectorSize
)

// Stamps of a sector that carries no block number.
const (
	empty   = 0  // all zero: never written
	foreign = -1 // anything else
)

// ErrTorn means that all is well but for block K+1, of which only some sectors have
// arrived. Blocks of one sector are never torn; see Params.Length for others.
var ErrTorn = errors.New("the last block is torn")

// A BlockError is a slot whose content no prefix of the numbered writes explains.
type BlockError struct {
	Offset    int64  // of the first wrong sector, in bytes
	Want, Got string // what it should hold and holds
}

func (e *BlockError) Error() string {
	return fmt.Sprintf("byte %d holds %s, not %s", e.Offset, e.Got, e.Want)
}

// stamps are the block numbers in the sectors of one slot.
type stamps [perSlot]int64

func (s *stamps) set(k uint64, length uint16) {
	for i := range length {
		s[i] = int64(k)
	}
}

// Check verifies that a raw disk holds what writes 1 … k of a guest with
// parameters p leave behind, and zeros beyond the ring. It returns that k, with a
// *BlockError where the disk is something else, or ErrTorn.
func Check(r io.ReaderAt, p Params) (k uint64, err error) {
	if err := p.validate(); err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, math.MaxInt64), 1<<20)
	ring, err := readRing(in, p)
	if err != nil {
		return 0, err
	}
	k = newest(ring, p.Length)
	err = explain(ring, p, k)
	if err != nil && !errors.Is(err, ErrTorn) {
		return k, err
	}
	if tail := zeros(in, int64(p.Slots)*SlotSize); tail != nil {
		return k, tail
	}
	return k, err
}

// CheckTogether verifies that the disks of one guest, in order, are of one moment:
// block k is on each disk before k+1 is on the first.
func CheckTogether(ks ...uint64) error {
	for i, k := range ks {
		if k > ks[max(i-1, 0)] || k+1 < ks[0] {
			return fmt.Errorf("the disks are not of one moment: blocks %v", ks)
		}
	}
	return nil
}

// Write does what a guest does: it writes blocks from … to on a raw disk.
func Write(w io.WriterAt, p Params, from, to uint64) error {
	for k := from; k <= to; k++ {
		if _, err := w.WriteAt(block(k, p.Length), int64(p.slot(k))*SlotSize); err != nil {
			return err
		}
	}
	return nil
}

// block is the content of block k.
func block(k uint64, sectors uint16) []byte {
	stamp := binary.LittleEndian.AppendUint32(nil, magic)
	stamp = binary.LittleEndian.AppendUint32(stamp, uint32(k))
	return bytes.Repeat(stamp, int(sectors)*sectorSize/len(stamp))
}

func readRing(r io.Reader, p Params) ([]stamps, error) {
	ring := make([]stamps, p.Slots)
	sector := make([]byte, sectorSize)
	for i := range ring {
		for j := range perSlot {
			if _, err := io.ReadFull(r, sector); err != nil {
				return nil, fmt.Errorf("disk ends in slot %d of %d: %w", i, p.Slots, err)
			}
			ring[i][j] = stampOf(sector)
		}
	}
	return ring, nil
}

func stampOf(sector []byte) int64 {
	k := binary.LittleEndian.Uint32(sector[4:])
	switch {
	case isZero(sector):
		return empty
	case k > 0 && bytes.Equal(sector, block(uint64(k), 1)):
		return int64(k)
	}
	return foreign
}

// newest is the highest number of a block that is there in full.
func newest(ring []stamps, length uint16) uint64 {
	var k int64
	for _, s := range ring {
		k = max(k, slices.Min(s[:length]))
	}
	return uint64(k)
}

// explain compares the ring with what writes 1 … k leave behind.
func explain(ring []stamps, p Params, k uint64) error {
	want := make([]stamps, len(ring)) // empty, but for the blocks of the last round
	for i := k - min(k, uint64(p.Slots)); i < k; i++ {
		want[p.slot(i+1)].set(i+1, p.Length)
	}
	next := p.slot(k + 1)
	torn := false
	for i, s := range ring {
		for j, got := range s {
			if uint64(i) == next && j < int(p.Length) && got == int64(k+1) {
				torn = true
			} else if got != want[i][j] {
				return &BlockError{int64(i)*SlotSize + int64(j)*sectorSize, name(want[i][j]), name(got)}
			}
		}
	}
	if torn {
		return fmt.Errorf("block %d: %w", k+1, ErrTorn)
	}
	return nil
}

func name(stamp int64) string {
	switch stamp {
	case empty:
		return "zeros"
	case foreign:
		return "foreign bytes"
	}
	return fmt.Sprintf("block %d", stamp)
}

// zeros reads the rest of a disk, from offset on.
func zeros(r io.Reader, offset int64) error {
	for b := make([]byte, SlotSize); ; {
		n, err := io.ReadFull(r, b)
		if !isZero(b[:n]) {
			return &BlockError{offset, name(empty), "data that no guest wrote"}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		offset += int64(n)
	}
}

// zeroSlot is what an empty slot holds.
var zeroSlot [SlotSize]byte

// isZero is for at most a slot.
func isZero(b []byte) bool { return bytes.Equal(b, zeroSlot[:len(b)]) }
