package qcow2

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// CreateOptions say what a new image is to be; zero values mean what qemu-img
// takes when it is not told.
type CreateOptions struct {
	Size            int64  // of the virtual disk, bytes; a multiple of 512
	ClusterSize     int64  // bytes; 0 means 64 KiB
	Version         uint32 // 2 or 3; 0 means 3
	RefcountBits    int    // 1 to 64; 0 means 16
	ExtendedL2      bool
	LazyRefcounts   bool
	CompressionType uint8
	Backing         string
	BackingFormat   string // must be told with Backing
}

// featureNames is the table that QEMU writes for those that do not know a bit
// ("Feature name table"): type (0 incompatible, 1 compatible, 2 autoclear), bit, name.
var featureNames = []struct {
	kind, bit byte
	name      string
}{
	{0, 0, "dirty bit"}, {0, 1, "corrupt bit"}, {0, 2, "external data file"},
	{0, 3, "compression type"}, {0, 4, "extended L2 entries"},
	{1, 0, "lazy refcounts"}, {2, 0, "bitmaps"}, {2, 1, "raw external data"},
}

// featureNameLen is the length of one entry of the table.
const featureNameLen = 48

// Create writes an empty image into p, which is empty or will be overwritten
// from its start, and makes it durable. The sector of the header is written last:
// what was an empty file begins with zeros until all else is there, and is no image.
func Create(p File, o CreateOptions) error {
	f := vfs.Full(p)
	h, err := o.header()
	if err != nil {
		return err
	}
	b, err := h.firstClusters(o)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(b[sectorSize:], sectorSize); err != nil {
		return err
	}
	if end := h.L1TableOffset + roundUp(int64(h.L1Size)*l1EntryLen, h.ClusterSize()); end > int64(len(b)) {
		if err := growTo(f, end); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(b[:sectorSize], 0); err != nil {
		return err
	}
	return f.Sync()
}

func growTo(f vfs.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.IsBlock {
		return err
	}
	return f.Truncate(size)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// header turns the options into a header: cluster 0, then the refcount table,
// one refcount block for each of what follows, then the L1 table.
func (o *CreateOptions) header() (Header, error) {
	h := Header{Version: 3, ClusterBits: 16, Size: o.Size, RefcountOrder: defaultRefcountOrder, HeaderLength: headerLen,
		BackingFile: o.Backing, BackingFormat: o.BackingFormat, CompressionType: o.CompressionType}
	if o.Version != 0 {
		h.Version = o.Version
	}
	if o.ClusterSize != 0 {
		if o.ClusterSize < 0 || o.ClusterSize&(o.ClusterSize-1) != 0 {
			return h, fmt.Errorf("cluster size %d: not a power of two", o.ClusterSize)
		}
		h.ClusterBits = uint32(bits.TrailingZeros64(uint64(o.ClusterSize)))
	}
	if o.RefcountBits != 0 {
		h.RefcountOrder = uint32(bits.TrailingZeros64(uint64(o.RefcountBits)))
		if o.RefcountBits < 0 || o.RefcountBits > 64 || 1<<h.RefcountOrder != o.RefcountBits {
			return h, fmt.Errorf("refcount width %d: want a power of two from 1 to 64", o.RefcountBits)
		}
	}
	if err := h.setFeatures(o); err != nil {
		return h, err
	}
	if err := checkNames(o.Backing, o.BackingFormat); err != nil {
		return h, err
	}
	return h, h.lay()
}

func (h *Header) setFeatures(o *CreateOptions) error {
	if h.Version == 2 {
		h.HeaderLength = headerLenV2
		if o.ExtendedL2 || o.LazyRefcounts || o.CompressionType != CompressionZlib || h.RefcountOrder != defaultRefcountOrder {
			return fmt.Errorf("extended L2 entries, lazy refcounts, zstd and refcounts of other than 16 bits need version 3")
		}
		return nil
	}
	if o.ExtendedL2 {
		h.Incompatible |= incompatExtendedL2
	}
	if o.CompressionType != CompressionZlib {
		h.Incompatible |= incompatCompression
	}
	if o.LazyRefcounts {
		h.Compatible |= compatLazyRefcounts
	}
	return nil
}

// lay finds places for the tables: cluster 0, table, blocks, L1. The table is as
// long as what there is at first needs.
func (h *Header) lay() error {
	if err := h.checkClusterBits(); err != nil {
		return err
	}
	if h.Size < 0 || h.Size%sectorSize != 0 {
		return fmt.Errorf("size %d: not a multiple of 512", h.Size)
	}
	h.L1Size = uint32(h.l1Entries())
	if h.l1Entries()*l1EntryLen > maxL1Bytes {
		return fmt.Errorf("size %d: more than %d-byte clusters can map", h.Size, h.ClusterSize())
	}
	l := h.layout()
	l1 := roundUp(int64(h.L1Size)*l1EntryLen, l.cluster()) >> l.clusterBits
	blocks, table := int64(1), int64(1)
	for {
		all := 1 + table + blocks + l1
		b := (all + l.refEntries() - 1) / l.refEntries()
		t := (b*8 + l.cluster() - 1) >> l.clusterBits
		if b <= blocks && t <= table {
			break
		}
		blocks, table = max(blocks, b), max(table, t)
	}
	h.RefcountTableOffset, h.RefcountTableClusters = l.cluster(), uint32(table)
	h.L1TableOffset = (1 + table + blocks) << l.clusterBits
	return h.check()
}

// firstClusters is the image up to its L1 table.
func (h *Header) firstClusters(o CreateOptions) ([]byte, error) {
	l := h.layout()
	b := make([]byte, h.L1TableOffset)
	if err := h.putNames(b[:l.cluster()], o); err != nil {
		return nil, err
	}
	var fixed [headerLen]byte
	copy(fixed[:], b)
	h.encode(&fixed)
	copy(b, fixed[:])
	l1 := roundUp(int64(h.L1Size)*l1EntryLen, l.cluster()) >> l.clusterBits
	used := h.L1TableOffset>>l.clusterBits + l1
	firstBlock := 1 + int64(h.RefcountTableClusters)
	for c := range used {
		i := c / l.refEntries()
		block := b[(firstBlock+i)<<l.clusterBits:][:l.cluster()]
		putRef(block, l.refOrder, c%l.refEntries(), 1)
		binary.BigEndian.PutUint64(b[l.cluster()+8*i:], uint64((firstBlock+i)<<l.clusterBits))
	}
	return b, nil
}

// putNames writes extensions and backing name into cluster 0.
func (h *Header) putNames(b []byte, o CreateOptions) error {
	at := int64(h.HeaderLength)
	put := func(data []byte) {
		if at+int64(len(data)) <= int64(len(b)) {
			copy(b[at:], data)
		}
		at += int64(len(data))
	}
	if o.Backing != "" {
		put(formatExtension(o.BackingFormat))
	}
	if h.Version == 3 && int64(len(b)) > 2*sectorSize {
		put(featureTable())
	}
	put(make([]byte, extHeaderLen))
	if o.Backing == "" {
		return nil
	}
	if at+int64(len(o.Backing)) > sectorSize && len(b) > sectorSize {
		at = roundUp(at, sectorSize) // in a sector of its own: see SetBacking
	}
	h.BackingFileOffset, h.BackingFileLength = at, uint32(len(o.Backing))
	put([]byte(o.Backing))
	if at > int64(len(b)) {
		return unsupported(fmt.Sprintf("a backing name of %d bytes: clusters of %d bytes have no room for it", len(o.Backing), len(b)))
	}
	return nil
}

func featureTable() []byte {
	b := make([]byte, extHeaderLen+featureNameLen*len(featureNames))
	binary.BigEndian.PutUint32(b, ExtensionFeatureNames)
	binary.BigEndian.PutUint32(b[offExtLength:], uint32(featureNameLen*len(featureNames)))
	for i, f := range featureNames {
		e := b[extHeaderLen+featureNameLen*i:]
		e[0], e[1] = f.kind, f.bit
		copy(e[2:featureNameLen], f.name)
	}
	return b
}
