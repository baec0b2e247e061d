package qcow2

import (
	"encoding/binary"
	"io"
	"math"
)

// maxCheckClusters is how many clusters a file may have, as for QEMU.
const maxCheckClusters = math.MaxInt32

// comparison reads the refcounts of a file beside what was counted.
type comparison struct {
	r      io.ReaderAt
	h      Header
	l      layout
	size   int64 // of the file
	counts *clusterCounts

	// differ is called for each cluster whose refcount is not what was counted,
	// or does not agree with copied flags or the rules on overlaps.
	differ func(cluster int64, refcount uint64, c clusterCount) error
	// unreadable is called for each stretch of clusters without a valid block.
	unreadable func(first, end int64, reason string) error

	highest int64 // last cluster in use, by whatever account
	absent  bool  // there is no block here
	missing int64 // clusters in use without a block
}

// run goes through the file once, in order. It needs the memory of one block.
func (c *comparison) run() error {
	block := make([]byte, c.l.cluster())
	per := c.l.refEntries()
	for first := int64(0); first < c.counts.clusters; first += per {
		end := min(first+per, c.counts.clusters)
		at, err := blockAt(c.r, c.h, c.size, first/per)
		if err != nil {
			return err
		}
		if reason := badBlock(at, c.l); reason != "" {
			if err := c.unreadable(first, end, reason); err != nil {
				return err
			}
			continue
		}
		if c.absent = at == 0; c.absent {
			clear(block)
		} else if err := readPadded(c.r, block, at, c.size); err != nil {
			return err
		}
		if err := c.block(block, first, end); err != nil {
			return err
		}
	}
	return nil
}

// blockAt returns entry i of the refcount table, without its reserved bits; 0
// beyond the end of the table.
func blockAt(r io.ReaderAt, h Header, size, i int64) (int64, error) {
	at, err := blockEntryAt(r, h, size, i)
	return at &^ int64(refTableReserved), err
}

// blockEntryAt is blockAt with reserved bits.
func blockEntryAt(r io.ReaderAt, h Header, size, i int64) (int64, error) {
	var b [8]byte
	if i >= int64(h.RefcountTableClusters)*h.ClusterSize()/8 {
		return 0, nil
	}
	err := readPadded(r, b[:], h.RefcountTableOffset+8*i, size)
	return int64(binary.BigEndian.Uint64(b[:])), err
}

// badBlock tells why QEMU cannot read a block at an offset; beyond the end of
// the file it sees zeros.
func badBlock(at int64, l layout) string {
	const maxLength = math.MaxInt64 &^ (1<<30 - 1)
	switch {
	case at&(l.cluster()-1) != 0:
		return "the refcount block is not aligned"
	case at < 0 || at > maxLength-l.cluster():
		return "the refcount block is beyond all files"
	}
	return ""
}

// refcountReader reads single refcounts, of clusters beyond the end of the file
// too. It is meant for clusters that are near to each other.
type refcountReader struct {
	r    io.ReaderAt
	h    Header
	l    layout
	size int64 // of the file

	index, block int64 // the last entry of the refcount table, -1 before the first
	at           int64 // where chunk is from, 0 before the first
	chunk        [4 << 10]byte
}

// get returns a refcount; ok is false if QEMU cannot read it.
func (r *refcountReader) get(cluster int64) (refcount uint64, ok bool, err error) {
	per := r.l.refEntries()
	if i := cluster / per; i != r.index {
		if r.block, err = blockAt(r.r, r.h, r.size, i); err != nil {
			return 0, false, err
		}
		r.index = i
	}
	if r.block == 0 || badBlock(r.block, r.l) != "" {
		return 0, r.block == 0, nil
	}
	bit := cluster % per << r.l.refOrder
	at := r.block + bit/8&^int64(len(r.chunk)-1)
	if at != r.at {
		if err := readPadded(r.r, r.chunk[:], at, r.size); err != nil {
			return 0, false, err
		}
		r.at = at
	}
	return getRef(r.chunk[:], r.l.refOrder, bit%int64(len(r.chunk)*8)>>r.l.refOrder), true, nil
}

// block compares the clusters from first to end with a block.
func (c *comparison) block(block []byte, first, end int64) error {
	for i := first; i < end; {
		next := min((i>>countPageBits+1)<<countPageBits, end)
		page := c.counts.page(i)
		if page == nil && allZeroRefs(block, c.l.refOrder, i-first, next-first) {
			i = next
			continue
		}
		for ; i < next; i++ {
			var n clusterCount
			if page != nil {
				n = page[i&(1<<countPageBits-1)]
			}
			if err := c.cluster(i, getRef(block, c.l.refOrder, i-first), n); err != nil {
				return err
			}
		}
	}
	return nil
}

// allZeroRefs tells whether refcounts from to end are all 0, in whole bytes.
func allZeroRefs(block []byte, order uint32, from, end int64) bool {
	for _, b := range block[from<<order/8 : (end<<order+7)/8] {
		if b != 0 {
			return false
		}
	}
	return true
}

func (c *comparison) cluster(i int64, refcount uint64, n clusterCount) error {
	if refcount == 0 && n == 0 {
		return nil
	}
	c.highest = i
	if c.absent {
		c.missing++
	}
	if refcount == n.references() && n.falselyFlagged(refcount) == 0 && n.class() != classOverlap {
		return nil
	}
	return c.differ(i, refcount, n)
}
