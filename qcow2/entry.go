package qcow2

import (
	"encoding/binary"
	"math/bits"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// Table entries, big endian ("Cluster mapping", "Refcount table").
//
// L1 entry:
//
//	 0- 8  reserved    9-55  offset of the L2 table    56-62  reserved
//	63     copied: the L2 table has refcount 1
//
// L2 entry, standard cluster:
//
//	 0     reads as zeros (version 3, without subclusters)    1- 8  reserved
//	 9-55  offset of the cluster, 0 if there is none         56-61  reserved
//	62     0                                                 63     copied
//
// L2 entry, compressed cluster; x = 62 - (cluster_bits - 8):
//
//	 0-x-1  offset, not aligned    x-61  further 512-byte sectors
//	62      1                      63    0
//
// With extended L2 entries a second word follows: bits 0-31 tell which
// subclusters are allocated, 32-63 which read as zeros.
//
// Refcount table entry: 0-8 reserved, 9-63 offset of the refcount block.
const (
	entryZero       = uint64(1) << 0
	entryCompressed = uint64(1) << 62
	entryCopied     = uint64(1) << 63
	entryOffset     = uint64(1)<<56 - 1<<9

	l1Reserved       = ^(entryCopied | entryOffset)
	l2Reserved       = ^(entryCopied | entryCompressed | entryOffset | entryZero)
	refTableReserved = uint64(1)<<9 - 1

	subclusters = 32 // of a cluster, with extended L2 entries
)

// layout is the geometry that follows from a header.
type layout struct {
	clusterBits uint32
	version     uint32
	extended    bool // extended L2 entries
	dataFile    bool // guest offsets are host offsets in another file
	refOrder    uint32
}

func (h *Header) layout() layout {
	return layout{h.ClusterBits, h.Version, h.ExtendedL2(), h.HasDataFile(), h.RefcountOrder}
}

func (l layout) cluster() int64 { return 1 << l.clusterBits }

// l2EntryLen is the length of an L2 entry in bytes.
func (l layout) l2EntryLen() int64 {
	if l.extended {
		return 1 << extL2EntryBits
	}
	return 1 << l2EntryBits
}

// l2Entries is how many entries an L2 table has.
func (l layout) l2Entries() int64 { return l.cluster() / l.l2EntryLen() }

// l2Covers is how many bytes of the disk an L2 table maps.
func (l layout) l2Covers() int64 { return l.l2Entries() * l.cluster() }

// refEntries is how many clusters a refcount block counts.
func (l layout) refEntries() int64 { return l.cluster() * 8 >> l.refOrder }

// granule is the smallest unit that an entry describes, in bytes.
func (l layout) granule() int64 {
	if l.extended {
		return l.cluster() / subclusters
	}
	return l.cluster()
}

// An entry is a decoded L2 entry.
type entry struct {
	desc   uint64 // first word
	bitmap uint64 // second word of an extended entry
}

// entryAt reads entry i of an L2 table.
func (l layout) entryAt(table []byte, i int64) entry {
	at := i * l.l2EntryLen()
	e := entry{desc: binary.BigEndian.Uint64(table[at:])}
	if l.extended {
		e.bitmap = binary.BigEndian.Uint64(table[at+8:])
	}
	return e
}

// putEntry is the inverse of entryAt.
func (l layout) putEntry(table []byte, i int64, e entry) {
	at := i * l.l2EntryLen()
	binary.BigEndian.PutUint64(table[at:], e.desc)
	if l.extended {
		binary.BigEndian.PutUint64(table[at+8:], e.bitmap)
	}
}

func (e entry) compressed() bool { return e.desc&entryCompressed != 0 }

// host is the offset of a standard cluster; 0 for none, but in a data file,
// where 0 is a place like others.
func (e entry) host() int64 { return int64(e.desc & entryOffset) }

// allocated tells whether a standard cluster has a place in the host file.
func (l layout) allocated(e entry) bool {
	return !e.compressed() && (e.host() != 0 || l.dataFile && e.desc&entryCopied != 0)
}

// packed returns where a compressed cluster is: from off, up to n bytes.
func (l layout) packed(e entry) (off, n int64) {
	x := 62 - (l.clusterBits - 8)
	off = int64(e.desc & (1<<x - 1))
	sectors := int64(e.desc&(entryCompressed-1)) >> x
	return off, (sectors+1)*sectorSize - off&(sectorSize-1)
}

// check tests the reserved bits and the alignment of an entry, which is at
// byte offset at of the file.
func (l layout) check(e entry, at int64) error {
	switch {
	case e.compressed() && e.desc&entryCopied != 0:
		return malformed(at, "L2 entry", "compressed and marked as copied")
	case e.compressed() && l.extended && e.bitmap != 0:
		return malformed(at, "L2 entry", "compressed with subclusters")
	case e.compressed():
		return nil
	case e.desc&l2Reserved != 0:
		return malformed(at, "L2 entry", "reserved bits are set")
	case e.desc&entryZero != 0 && (l.version < 3 || l.extended):
		return malformed(at, "L2 entry", "zero flag where there is none")
	case e.host()&(l.cluster()-1) != 0:
		return malformed(at, "L2 entry", "cluster offset is not aligned")
	case e.bitmap&(e.bitmap>>32)&(1<<32-1) != 0:
		return malformed(at, "L2 entry", "a subcluster is both data and zero")
	case l.extended && e.host() == 0 && !l.allocated(e) && e.bitmap&(1<<32-1) != 0:
		return malformed(at, "L2 entry", "allocated subclusters without a cluster")
	}
	return nil
}

// run tells what the entry has at granule i of its cluster, and for how many
// granules on.
func (l layout) run(e entry, i int64) (kind chain.Kind, n int64) {
	if !l.extended {
		return l.kind(e), 1
	}
	if e.compressed() {
		return chain.Compressed, subclusters - i
	}
	alloc, zero := uint32(e.bitmap)>>i, uint32(e.bitmap>>32)>>i
	switch {
	case alloc&1 != 0:
		return chain.Data, min(int64(bits.TrailingZeros32(^alloc)), subclusters-i)
	case zero&1 != 0:
		return chain.Zero, min(int64(bits.TrailingZeros32(^zero)), subclusters-i)
	}
	return chain.Hole, min(int64(bits.TrailingZeros32(alloc|zero)), subclusters-i)
}

func (l layout) kind(e entry) chain.Kind {
	switch {
	case e.compressed():
		return chain.Compressed
	case e.desc&entryZero != 0:
		return chain.Zero
	case l.allocated(e):
		return chain.Data
	}
	return chain.Hole
}

// getRef reads refcount i of a block; the width is 1<<order bits ("Refcount
// blocks": widths below 8 bits count from the least significant bit).
func getRef(block []byte, order uint32, i int64) uint64 {
	switch order {
	case 4:
		return uint64(binary.BigEndian.Uint16(block[2*i:]))
	case 3:
		return uint64(block[i])
	case 5:
		return uint64(binary.BigEndian.Uint32(block[4*i:]))
	case 6:
		return binary.BigEndian.Uint64(block[8*i:])
	}
	width := int64(1) << order
	shift := i * width % 8
	return uint64(block[i*width/8]>>shift) & (1<<width - 1)
}

// putRef is the inverse of getRef; n fits into the width.
func putRef(block []byte, order uint32, i int64, n uint64) {
	switch order {
	case 4:
		binary.BigEndian.PutUint16(block[2*i:], uint16(n))
	case 3:
		block[i] = byte(n)
	case 5:
		binary.BigEndian.PutUint32(block[4*i:], uint32(n))
	case 6:
		binary.BigEndian.PutUint64(block[8*i:], n)
	default:
		width := int64(1) << order
		shift := i * width % 8
		mask := byte(1<<width-1) << shift
		b := &block[i*width/8]
		*b = *b&^mask | byte(n)<<shift
	}
}

// maxRef is the largest refcount of the width.
func maxRef(order uint32) uint64 {
	if order == 6 {
		return 1<<64 - 1
	}
	return 1<<(1<<order) - 1
}
