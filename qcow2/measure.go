package qcow2

import (
	"fmt"
	"io"
)

// Measure tells, in bytes, how large the file of a new image is when all of its disk is
// written to, and how large when only so many bytes of data are, in whole clusters. As
// qemu-img does, it counts the tables for the whole disk both times.
func Measure(o CreateOptions, data int64) (required, full int64, err error) {
	backing := o.Backing
	if o.Backing, o.BackingFormat = "", ""; backing != "" {
		data = o.Size // nobody knows what of it the backing file has
	}
	size := o.Size
	o.Size = roundUp(o.Size, sectorSize)
	h, err := o.header()
	if err != nil {
		return 0, 0, err
	}
	l := h.layout()
	size = roundUp(size, l.cluster())
	full = size + l.metadata(size)
	return full - size + min(size, roundUp(data, l.cluster())), full, nil
}

// metadata is what header and tables take of an image that is wholly written.
func (l layout) metadata(size int64) int64 {
	tables := roundUp(size>>l.clusterBits, l.l2Entries()) / l.l2Entries()
	meta := 1 + tables + roundUp(tables*l1EntryLen, l.cluster())>>l.clusterBits
	clusters := meta + size>>l.clusterBits
	var blocks, table int64
	for last, n := int64(-1), int64(0); n != last; {
		last = n
		blocks = (clusters + table + blocks + l.refEntries() - 1) / l.refEntries()
		table = roundUp(blocks*8, l.cluster()) >> l.clusterBits
		n = clusters + blocks + table
	}
	return (meta + blocks + table) << l.clusterBits
}

// MeasureBitmaps tells how many bytes the persistent bitmaps of the image r, of size bytes
// with the header h, take at most in one with clusters of that size.
func MeasureBitmaps(r io.ReaderAt, h Header, cluster int64) (bytes int64, err error) {
	if cluster <= 0 {
		return 0, fmt.Errorf("cluster size %d: not a power of two", cluster)
	}
	list, err := ReadBitmaps(r, h)
	if err != nil {
		return 0, err
	}
	var directory int64
	for _, b := range list {
		if b.InUse { // not to be trusted, nobody copies it
			continue
		}
		bits := (h.Size + b.Granularity - 1) / b.Granularity
		clusters := roundUp((bits+7)/8, cluster) / cluster
		bytes += clusters*cluster + roundUp(8*clusters, cluster)
		directory += roundUp(minBitmapEntryLen+int64(len(b.Name)), extAlign)
	}
	return bytes + roundUp(directory, cluster), nil
}
