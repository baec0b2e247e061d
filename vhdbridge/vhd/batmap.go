package vhd

import (
	"encoding/binary"
	"fmt"
)

// A batmap is XenServer's map of the blocks that are full. What is wrong with it
// does not matter for reading.
type batmap struct {
	at        int64 // of its header; 0 if there is none
	offset    int64 // of the map, in bytes
	bytes     int64 // of the map
	version   uint32
	checksum  uint32
	encrypted bool
	wrong     string // why it cannot be used, or ""
}

// loadBatmap looks for the header of a batmap in the first sector after the table.
// Only XenServer's tools write one.
func (m *meta) loadBatmap() error {
	at := m.head.table + m.head.tableBytes()
	if m.foot.creator>>8 != creatorTap>>8 || at > m.limit()-sectorSize {
		return nil
	}
	var b [sectorSize]byte
	if err := readFull(m.r, b[:], at, "batmap header"); err != nil {
		return err
	}
	if string(b[:cookieLen]) != batmapCookie {
		return nil
	}
	be := binary.BigEndian
	m.batmap = batmap{at: at, offset: int64(be.Uint64(b[offBatmapMap:])), bytes: int64(be.Uint32(b[offBatmapSectors:])) * sectorSize,
		version: be.Uint32(b[offBatmapVersion:]), checksum: be.Uint32(b[offBatmapChecksum:]), encrypted: b[offBatmapKeyHash] != 0}
	m.batmap.check(m)
	return nil
}

func (b *batmap) check(m *meta) {
	switch {
	case b.version > batmapVersion:
		b.wrong = fmt.Sprintf("version %#x is not known", b.version)
	case b.offset < footerLen || b.offset%sectorSize != 0 || b.bytes > maxTableBytes || b.offset > m.limit()-b.bytes:
		b.wrong = "the map is not within the file"
	case b.offset < b.at+sectorSize && b.at < b.offset+b.bytes,
		b.offset < m.at+headerLen && m.at < b.offset+b.bytes,
		b.offset < m.head.table+m.head.tableBytes() && m.head.table < b.offset+b.bytes:
		b.wrong = "the map overlaps other metadata"
	}
}

// sum is the checksum of the map.
func (b *batmap) sum(bits []byte) uint32 {
	var sum uint32
	for _, c := range bits {
		if b.version == batmapVersionSigns {
			sum += uint32(int32(int8(c)))
		} else {
			sum += uint32(c)
		}
	}
	return ^sum
}

// batmapBytes is how long the map for so many blocks is, in whole sectors.
func batmapBytes(blocks int64) int64 { return roundUp((blocks+7)/8, sectorSize) }

// readBatmap returns the map, which load has found to be within the file.
func (m *meta) readBatmap() ([]byte, error) {
	bits := make([]byte, m.batmap.bytes)
	return bits, readFull(m.r, bits, m.batmap.offset, "batmap")
}

// hasBit is the order of all bitmaps of VHD: the first bit is the highest.
func hasBit(bits []byte, i int64) bool {
	return i>>3 < int64(len(bits)) && bits[i>>3]&(0x80>>(i&7)) != 0
}

// setBit does nothing beyond the end.
func setBit(bits []byte, i int64) {
	if i>>3 < int64(len(bits)) {
		bits[i>>3] |= 0x80 >> (i & 7)
	}
}

func clearBit(bits []byte, i int64) {
	if i>>3 < int64(len(bits)) {
		bits[i>>3] &^= 0x80 >> (i & 7)
	}
}

// setBits sets bits [from, to).
func setBits(bits []byte, from, to int64) {
	for ; from < to && from&7 != 0; from++ {
		setBit(bits, from)
	}
	for ; from+8 <= to; from += 8 {
		bits[from>>3] = 0xFF
	}
	for ; from < to; from++ {
		setBit(bits, from)
	}
}

// run tells whether bit from is set, and how many from it on, before to, are alike.
func run(bits []byte, from, to int64) (set bool, n int64) {
	set = hasBit(bits, from)
	whole := byte(0)
	if set {
		whole = 0xFF
	}
	i := from + 1
	for i < to {
		switch {
		case i&7 == 0 && i+8 <= to && bits[i>>3] == whole:
			i += 8
		case hasBit(bits, i) == set:
			i++
		default:
			return set, i - from
		}
	}
	return set, i - from
}

// full tells whether all sectors of a block are there.
func full(bits []byte, sectors int64) bool {
	set, n := run(bits, 0, sectors)
	return set && n == sectors
}
