package vhd

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// A locator says where the file holds a name of the parent. Bytes.
type locator struct {
	code   uint32
	space  uint32 // room for it, in bytes or, by the letter of the specification, sectors
	length uint32
	offset int64
}

// A header is what the 1024 bytes of a dynamic disk say.
type header struct {
	table      int64  // where the block allocation table is, in bytes
	entries    uint32 // that it has
	blockSize  int64  // bytes of data, a power of two
	parentUUID UUID
	parentTime uint32
	parentName string
	locators   [locatorCount]locator
}

// decodeHeader checks each field that it decodes; at is where the header was.
func decodeHeader(b *[headerLen]byte, at int64) (header, error) {
	be := binary.BigEndian
	if string(b[:cookieLen]) != headerCookie {
		return header{}, malformed(at, "header cookie", "not cxsparse")
	}
	if checksum(b[:], offHeaderChecksum) != be.Uint32(b[offHeaderChecksum:]) {
		return header{}, malformed(at+offHeaderChecksum, "header checksum", "does not match: the header is damaged or half written")
	}
	if v := be.Uint32(b[offHeaderVersion:]); v != headerVersion {
		return header{}, unsupported(fmt.Sprintf("header version %#x", v))
	}
	h := header{
		table: int64(be.Uint64(b[offTable:])), entries: be.Uint32(b[offMaxEntries:]),
		blockSize:  int64(be.Uint32(b[offBlockSize:])),
		parentUUID: UUID(b[offParentUUID:]), parentTime: be.Uint32(b[offParentTime:]),
		parentName: decodeParentName(b[offParentName:][:parentNameLen]),
	}
	for i := range h.locators {
		e := b[offLocators+i*locatorLen:]
		h.locators[i] = locator{be.Uint32(e), be.Uint32(e[offLocatorSpace:]), be.Uint32(e[offLocatorLength:]), int64(be.Uint64(e[offLocatorData:]))}
	}
	return h, h.check(at)
}

// decodeParentName takes what is before the first NUL.
func decodeParentName(b []byte) string {
	var units []uint16
	for ; len(b) >= 2 && b[0]|b[1] != 0; b = b[2:] {
		units = append(units, binary.BigEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}

func (h *header) check(at int64) error {
	switch {
	case h.blockSize < minBlockSize || h.blockSize > maxBlockSize || h.blockSize&(h.blockSize-1) != 0:
		return malformed(at+offBlockSize, "block size", fmt.Sprintf("%d is not a power of two from %d to %d", h.blockSize, minBlockSize, maxBlockSize))
	case h.table < footerLen || h.table%sectorSize != 0:
		return malformed(at+offTable, "table offset", "no place for a table")
	case h.table < at+headerLen && at < h.table+h.tableBytes():
		return malformed(at+offTable, "table offset", "the table overlaps the header")
	case int64(h.entries)*4 > maxTableBytes:
		return malformed(at+offMaxEntries, "max table entries", fmt.Sprintf("more than %d", maxTableBytes/4))
	}
	return nil
}

// tableBytes is the length of the table with what fills up its last sector.
func (h *header) tableBytes() int64 { return roundUp(int64(h.entries)*4, sectorSize) }

// blocks is how many blocks a disk of size bytes has.
func (h *header) blocks(size int64) int64 { return (size + h.blockSize - 1) / h.blockSize }

// encode is the inverse of decodeHeader.
func (h *header) encode() (b [headerLen]byte) {
	be := binary.BigEndian
	copy(b[:], headerCookie)
	be.PutUint64(b[offHeaderNext:], noNext)
	be.PutUint64(b[offTable:], uint64(h.table))
	be.PutUint32(b[offHeaderVersion:], headerVersion)
	be.PutUint32(b[offMaxEntries:], h.entries)
	be.PutUint32(b[offBlockSize:], uint32(h.blockSize))
	copy(b[offParentUUID:], h.parentUUID[:])
	be.PutUint32(b[offParentTime:], h.parentTime)
	for i, u := range utf16.Encode([]rune(h.parentName)) {
		if 2*i+2 <= parentNameLen {
			be.PutUint16(b[offParentName+2*i:], u)
		}
	}
	for i, l := range h.locators {
		e := b[offLocators+i*locatorLen:]
		be.PutUint32(e, l.code)
		be.PutUint32(e[offLocatorSpace:], l.space)
		be.PutUint32(e[offLocatorLength:], l.length)
		be.PutUint64(e[offLocatorData:], uint64(l.offset))
	}
	be.PutUint32(b[offHeaderChecksum:], checksum(b[:], offHeaderChecksum))
	return b
}
