package vhd

import (
	"encoding/binary"
	"path/filepath"
)

// A layout is all metadata before the blocks, in the order and at the places where
// XenServer has it:
//
//	0 copy of the footer   512 header   1536 table, batmap header, batmap,
//	parent locators, each in sectors of its own
type layout struct {
	foot     footer
	head     header
	names    []parentName
	bat      []uint32
	bits     []byte // of the batmap, in whole sectors; nil for none
	batmap   []byte // its header as it was, or nil
	version  uint32 // of the batmap
	batmapAt int64
	end      int64 // behind it, in bytes
}

// place finds out where everything goes, and notes it in header and footer.
func (l *layout) place() {
	l.foot.dataOffset, l.head.table = headerStart, tableStart
	off := l.head.table + l.head.tableBytes()
	if l.bits != nil {
		l.batmapAt = off
		off += sectorSize + int64(len(l.bits))
	}
	l.head.locators = [locatorCount]locator{}
	for k, n := range l.names {
		space := roundUp(int64(len(n.bytes)), sectorSize)
		l.head.locators[k] = locator{n.code, uint32(space), uint32(len(n.bytes)), off}
		off += space
	}
	l.end = off
}

// bytes is the file up to the end of the layout.
func (l *layout) bytes() []byte {
	b := make([]byte, l.end)
	foot, head := l.foot.encode(), l.head.encode()
	copy(b, foot[:])
	copy(b[headerStart:], head[:])
	for k, e := range l.bat {
		binary.BigEndian.PutUint32(b[l.head.table+int64(k)*4:], e)
	}
	if l.bits != nil {
		l.putBatmap(b[l.batmapAt:])
	}
	for k, n := range l.names {
		copy(b[l.head.locators[k].offset:], n.bytes)
	}
	return b
}

func (l *layout) putBatmap(b []byte) {
	be := binary.BigEndian
	copy(b[:sectorSize], l.batmap)
	copy(b, batmapCookie)
	map1 := batmap{version: l.version}
	be.PutUint64(b[offBatmapMap:], uint64(l.batmapAt+sectorSize))
	be.PutUint32(b[offBatmapSectors:], uint32(len(l.bits)/sectorSize))
	be.PutUint32(b[offBatmapVersion:], l.version)
	be.PutUint32(b[offBatmapChecksum:], map1.sum(l.bits))
	copy(b[sectorSize:], l.bits)
}

// setParent makes it a differencing disk, or without names a dynamic one.
func (l *layout) setParent(names []parentName, name string, id UUID, stamp uint32) {
	l.names, l.foot.kind = names, Differencing
	l.head.parentUUID, l.head.parentTime, l.head.parentName = id, stamp, filepath.Base(name)
	if len(names) == 0 {
		l.foot.kind, l.head.parentTime, l.head.parentName = Dynamic, 0, ""
	}
}
