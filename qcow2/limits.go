package qcow2

import (
	"fmt"
	"math/bits"
)

// check tests the fixed header against the specification and QEMU's limits, in
// this order: what a later check relies on comes first.
func (h *Header) check() error {
	for _, check := range []func() error{
		h.checkVersion, h.checkClusterBits, h.checkHeaderLength, h.checkFeatures,
		h.checkCompression, h.checkMethods, h.checkBackingName, h.checkTables, h.checkSize,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (h *Header) checkVersion() error {
	if h.Version == 1 {
		return unsupported("version 1, of the format qcow; qemu-img convert -f qcow -O qcow2 makes one of it that is read")
	}
	if h.Version != 2 && h.Version != 3 {
		return unsupported(fmt.Sprintf("version %d", h.Version))
	}
	return nil
}

func (h *Header) checkClusterBits() error {
	if h.ClusterBits < minClusterBits || h.ClusterBits > maxClusterBits {
		return malformed(offClusterBits, "cluster_bits", "not in 9..21")
	}
	if h.ExtendedL2() && h.ClusterBits < minClusterBitsExtendedL2 {
		return malformed(offClusterBits, "cluster_bits", "less than 14 with extended L2 entries")
	}
	return nil
}

func (h *Header) checkHeaderLength() error {
	reason := ""
	switch {
	case h.Version == 2:
		return nil
	case h.HeaderLength < minHeaderLenV3:
		reason = "less than 104"
	case h.HeaderLength%extAlign != 0:
		reason = "not a multiple of 8"
	case int64(h.HeaderLength) > h.ClusterSize():
		reason = "more than a cluster"
	default:
		return nil
	}
	return malformed(offHeaderLength, "header_length", reason)
}

// checkFeatures leaves unknown compatible and autoclear bits alone, as the
// specification wants it from a reader.
func (h *Header) checkFeatures() error {
	if unknown := h.Incompatible &^ incompatKnown; unknown != 0 {
		bit := bits.TrailingZeros64(unknown)
		return unsupported(fmt.Sprintf("incompatible feature bit %d", bit))
	}
	if h.DataFileRaw() && !h.HasDataFile() {
		return malformed(offAutoclear, "autoclear_features", "raw data file without data file")
	}
	if h.DataFileRaw() && h.BackingFileOffset != 0 {
		return malformed(offAutoclear, "autoclear_features", "raw data file and backing file")
	}
	return nil
}

func (h *Header) checkCompression() error {
	flagged := h.Incompatible&incompatCompression != 0
	if flagged != (h.CompressionType != CompressionZlib) {
		return malformed(offCompressionType, "compression_type", "does not agree with its feature bit")
	}
	if h.CompressionType > CompressionZstd {
		return unsupported(fmt.Sprintf("compression type %d", h.CompressionType))
	}
	return nil
}

func (h *Header) checkMethods() error {
	if h.RefcountOrder > maxRefcountOrder {
		return malformed(offRefcountOrder, "refcount_order", "more than 6")
	}
	if h.CryptMethod > CryptLUKS {
		return unsupported(fmt.Sprintf("encryption method %d", h.CryptMethod))
	}
	return nil
}

// checkBackingName wants the name within cluster 0, after the header.
func (h *Header) checkBackingName() error {
	off := h.BackingFileOffset
	if off == 0 {
		return nil
	}
	if off < int64(h.HeaderLength) || off > h.ClusterSize() {
		return malformed(offBackingOffset, "backing_file_offset", "outside cluster 0, or within the header")
	}
	if int64(h.BackingFileLength) > min(maxBackingName, h.ClusterSize()-off) {
		return malformed(offBackingLength, "backing_file_size", "more than 1023, or than fits into cluster 0")
	}
	return nil
}

func (h *Header) checkTables() error {
	if h.RefcountTableClusters == 0 {
		return malformed(offRefcountClusters, "refcount_table_clusters", "is 0")
	}
	for _, t := range h.tables() {
		if err := t.check(h.ClusterSize()); err != nil {
			return err
		}
	}
	return nil
}

// checkSize wants an L1 table for the whole disk.
func (h *Header) checkSize() error {
	if h.Size < 0 {
		return malformed(offSize, "size", "2^63 or more")
	}
	if h.Size%sectorSize != 0 {
		return malformed(offSize, "size", "within 512 bytes of 2^63")
	}
	if h.l1Entries() > int64(h.L1Size) {
		return malformed(offL1Size, "l1_size", "too small for the size of the disk")
	}
	return nil
}

// l1Entries is how many L1 entries the disk needs: its size divided by what the
// L2 table of one cluster covers, rounded up. An empty disk needs none.
func (h *Header) l1Entries() int64 {
	entryBits := uint32(l2EntryBits)
	if h.ExtendedL2() {
		entryBits = extL2EntryBits
	}
	return (h.Size-1)>>(2*h.ClusterBits-entryBits) + 1
}

// table is a table that the header names. All lengths are bytes.
type table struct {
	field       string
	fieldOffset int64 // of the field that holds offset
	offset      int64
	count       int64
	entryLen    int64 // the least length of an entry, if they vary
	maxLen      int64
}

func (h *Header) tables() []table {
	return []table{
		{"l1_table_offset", offL1Table, h.L1TableOffset, int64(h.L1Size), l1EntryLen, maxL1Bytes},
		{"refcount_table_offset", offRefcountTable, h.RefcountTableOffset,
			int64(h.RefcountTableClusters), h.ClusterSize(), maxRefcountTableBytes},
		{"snapshots_offset", offSnapshotsTable, h.SnapshotsOffset,
			int64(h.Snapshots), minSnapshotLen, maxSnapshots * minSnapshotLen},
	}
}

// len does not overflow: a count has 32 bits and an entry at most 2 MiB, or an
// entry is 1 byte.
func (t table) len() int64 { return t.count * t.entryLen }

func (t table) check(cluster int64) error {
	reason := ""
	switch {
	case t.len() > t.maxLen:
		reason = fmt.Sprintf("the table has %d entries, more than the limit of %d", t.count, t.maxLen/t.entryLen)
	case t.offset < 0:
		reason = "2^63 or more"
	case t.offset%cluster != 0:
		reason = "not a multiple of the cluster size"
	case t.count > 0 && t.offset == 0:
		reason = "the table overlaps the header"
	default:
		return nil
	}
	return malformed(t.fieldOffset, t.field, reason)
}

// checkWithin wants the whole table in a file of size bytes. QEMU reads zeros
// beyond the end, which would make a cut image look empty.
func (t table) checkWithin(size int64) error {
	if t.count > 0 && t.len() > size-t.offset {
		return malformed(t.fieldOffset, t.field, "the table reaches beyond the end of the file")
	}
	return nil
}
