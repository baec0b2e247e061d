package qcow2

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"syscall"
)

// refCacheBytes bounds the refcount blocks in memory.
const refCacheBytes = 32 << 20

// refcounts are the refcounts of the host clusters. Counts in memory run ahead
// of those on disk, by increments before the entries are written and by
// decrements after.
type refcounts struct {
	m      *Image
	table  []uint64            // the refcount table
	blocks map[int64]*refBlock // by place in the table
	fresh  []int64             // places of blocks that the table on disk lacks
	moved  bool                // the table has a new place, which the header does not know
	old    []int64             // clusters of the table's former places
	off    int64               // of the table
	inUse  []uint64            // a bit for each cluster that is not free
	hint   int64               // below it no cluster is free
	last   int64               // the first cluster behind all that are in use
	device bool                // the host file cannot grow
}

type refBlock struct {
	data  []byte
	dirty bool
}

// newRefcounts reads all refcounts once, to see what is free. The image has
// been verified.
func newRefcounts(m *Image) (*refcounts, error) {
	info, err := m.f.Stat()
	if err != nil {
		return nil, err
	}
	n := int64(m.h.RefcountTableClusters) << m.clusterBits / 8
	r := &refcounts{m: m, blocks: map[int64]*refBlock{}, off: m.h.RefcountTableOffset, device: info.IsBlock}
	b := make([]byte, n*8)
	if err := readFull(m.f, b, r.off, "refcount table"); err != nil {
		return nil, err
	}
	r.table = make([]uint64, n)
	for i := range r.table {
		r.table[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return r, r.findFree()
}

// findFree fills in inUse.
func (r *refcounts) findFree() error {
	clusters := (r.m.size + r.m.cluster() - 1) >> r.m.clusterBits
	per := r.m.refEntries()
	for i, off := range r.table {
		first := int64(i) * per
		if off == 0 || first >= clusters {
			continue
		}
		b := make([]byte, r.m.cluster())
		if err := readFull(r.m.f, b, int64(off), "refcount block"); err != nil {
			return err
		}
		for k := range min(per, clusters-first) {
			if getRef(b, r.m.refOrder, k) != 0 {
				r.mark(first + k)
			}
		}
	}
	return nil
}

func (r *refcounts) mark(c int64) {
	for int64(len(r.inUse)) <= c/64 {
		r.inUse = append(r.inUse, make([]uint64, max(64, len(r.inUse)))...)
	}
	r.inUse[c/64] |= 1 << (c % 64)
	r.last = max(r.last, c+1)
}

func (r *refcounts) unmark(c int64) {
	r.inUse[c/64] &^= 1 << (c % 64)
	r.hint = min(r.hint, c)
}

// end is the first cluster behind all that are in use.
func (r *refcounts) end() int64 { return r.last }

// freeBelow counts the free clusters before end.
func (r *refcounts) freeBelow() (n int64) {
	for _, w := range r.inUse {
		n += int64(bits.OnesCount64(w))
	}
	return r.last - n
}

// isFree tells whether cluster c is free.
func (r *refcounts) isFree(c int64) bool {
	return c/64 >= int64(len(r.inUse)) || r.inUse[c/64]&(1<<(c%64)) == 0
}

// take gets the first free clusters, at most want in a row, and counts them once.
func (r *refcounts) take(want int64) (first, got int64, err error) {
	first = r.firstFree()
	got = 1
	for got < want && r.isFree(first+got) {
		got++
	}
	r.hint = first + got
	return first, got, r.use(first, got)
}

// firstFree finds the first free cluster from the hint on.
func (r *refcounts) firstFree() int64 {
	c := r.hint
	for c/64 < int64(len(r.inUse)) {
		if free := ^r.inUse[c/64] >> (c % 64); free != 0 {
			return c + int64(bits.TrailingZeros64(free))
		}
		c = (c/64 + 1) * 64
	}
	return c
}

// takeRow gets n clusters in a row, behind all that are in use.
func (r *refcounts) takeRow(n int64) (first int64, err error) {
	first = r.last
	return first, r.use(first, n)
}

// use counts n free clusters once.
func (r *refcounts) use(first, n int64) error {
	if r.device && (first+n)<<r.m.clusterBits > r.m.size {
		return &fs.PathError{Op: "grow", Path: r.m.f.Path(), Err: syscall.ENOSPC}
	}
	for c := first; c < first+n; c++ {
		r.mark(c)
	}
	r.m.size = max(r.m.size, (first+n)<<r.m.clusterBits)
	for c := first; c < first+n; c++ {
		if err := r.set(c, 1); err != nil {
			return err
		}
	}
	return nil
}

// get returns how often cluster c is referred to.
func (r *refcounts) get(c int64) (uint64, error) {
	i := c / r.m.refEntries()
	if i >= int64(len(r.table)) || r.table[i] == 0 {
		return 0, nil
	}
	b, err := r.block(i)
	if err != nil {
		return 0, err
	}
	return getRef(b.data, r.m.refOrder, c%r.m.refEntries()), nil
}

func (r *refcounts) set(c int64, n uint64) error {
	b, err := r.blockFor(c)
	if err != nil {
		return err
	}
	putRef(b.data, r.m.refOrder, c%r.m.refEntries(), n)
	b.dirty = true
	return nil
}

// drop counts cluster c once less, and tells whether it is free now.
func (r *refcounts) drop(c int64) (free bool, err error) {
	n, err := r.get(c)
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, fmt.Errorf("qcow2: cluster %d has no references to give up", c)
	}
	if err := r.set(c, n-1); err != nil {
		return false, err
	}
	if n == 1 {
		r.unmark(c)
		r.m.tables.drop(c << r.m.clusterBits)
	}
	return n == 1, nil
}

// block returns the block at place i of the table, which has one.
func (r *refcounts) block(i int64) (*refBlock, error) {
	if b := r.blocks[i]; b != nil {
		return b, nil
	}
	if err := r.makeRoom(); err != nil {
		return nil, err
	}
	b := &refBlock{data: make([]byte, r.m.cluster())}
	if err := readFull(r.m.f, b.data, int64(r.table[i]), "refcount block"); err != nil {
		return nil, err
	}
	r.blocks[i] = b
	return b, nil
}

// makeRoom forgets all blocks when there are too many. Writing them early does
// no harm: increments may be there before they are needed, and decrements are
// only made once nothing refers to the clusters.
func (r *refcounts) makeRoom() error {
	if int64(len(r.blocks))<<r.m.clusterBits < refCacheBytes {
		return nil
	}
	if err := r.writeBlocks(); err != nil {
		return err
	}
	clear(r.blocks)
	return nil
}

// blockFor returns the block that counts cluster c, made first if need be.
func (r *refcounts) blockFor(c int64) (*refBlock, error) {
	i := c / r.m.refEntries()
	if i >= int64(len(r.table)) {
		if err := r.growTable(i + 1); err != nil {
			return nil, err
		}
	}
	if r.table[i] != 0 {
		return r.block(i)
	}
	if err := r.makeRoom(); err != nil {
		return nil, err
	}
	at := r.last
	b := &refBlock{data: make([]byte, r.m.cluster()), dirty: true}
	r.blocks[i], r.table[i] = b, uint64(at<<r.m.clusterBits)
	r.fresh = append(r.fresh, i)
	if err := r.use(at, 1); err != nil {
		return nil, err
	}
	return r.block(i) // counting itself may have made room
}

// growTable gives the table a new place with room for at least n entries.
func (r *refcounts) growTable(n int64) error {
	perCluster := r.m.cluster() / 8
	clusters := (n+n/2)/perCluster + 1
	if clusters<<r.m.clusterBits > maxRefcountTableBytes {
		clusters = maxRefcountTableBytes >> r.m.clusterBits
	}
	if n > clusters*perCluster {
		return unsupported("a refcount table of more than 8 MiB")
	}
	for c := range int64(len(r.table)) / perCluster {
		r.old = append(r.old, r.off>>r.m.clusterBits+c)
	}
	r.table = append(slices.Clone(r.table), make([]uint64, clusters*perCluster-int64(len(r.table)))...)
	r.moved = true
	first := r.last
	r.off = first << r.m.clusterBits
	return r.use(first, clusters)
}

// writeBlocks writes the blocks that have changed.
func (r *refcounts) writeBlocks() error {
	for _, i := range r.sorted() {
		b := r.blocks[i]
		if !b.dirty {
			continue
		}
		if _, err := r.m.f.WriteAt(b.data, int64(r.table[i])); err != nil {
			return err
		}
		b.dirty = false
	}
	return nil
}

func (r *refcounts) sorted() []int64 {
	places := make([]int64, 0, len(r.blocks))
	for i := range r.blocks {
		places = append(places, i)
	}
	slices.Sort(places)
	return places
}

// flush puts all counts on disk, in three barriers at most. What the caller has
// written before is durable afterwards, too.
func (r *refcounts) flush() error {
	if err := r.writeBlocks(); err != nil {
		return err
	}
	if r.moved {
		if _, err := r.m.f.WriteAt(r.tableBytes(0, int64(len(r.table))), r.off); err != nil {
			return err
		}
	}
	if err := r.m.f.Sync(); err != nil {
		return err
	}
	if !r.moved {
		return r.linkFresh()
	}
	return r.switchTable()
}

// linkFresh lets the table name its new blocks, which are durable. A new block may
// be counted by another new one, which is in the same place of the table or a higher
// one: so they are linked by the sector, the last sector first.
func (r *refcounts) linkFresh() error {
	const perSector = sectorSize / 8
	slices.Sort(r.fresh)
	for len(r.fresh) > 0 {
		from := r.fresh[len(r.fresh)-1] &^ (perSector - 1)
		if _, err := r.m.f.WriteAt(r.tableBytes(from, from+perSector), r.off+8*from); err != nil {
			return err
		}
		if err := r.m.f.Sync(); err != nil {
			return err
		}
		for len(r.fresh) > 0 && r.fresh[len(r.fresh)-1] >= from {
			r.fresh = r.fresh[:len(r.fresh)-1]
		}
	}
	return nil
}

// switchTable lets the header name the new table, which is durable. Offset and
// length are in one sector.
func (r *refcounts) switchTable() error {
	h := r.m.h
	h.RefcountTableOffset = r.off
	h.RefcountTableClusters = uint32(int64(len(r.table)) * 8 >> r.m.clusterBits)
	if err := r.m.writeHeader(h); err != nil {
		return err
	}
	r.moved, r.fresh = false, nil
	for _, c := range r.old {
		if _, err := r.drop(c); err != nil {
			return err
		}
	}
	r.old = nil
	return nil
}

func (r *refcounts) tableBytes(from, to int64) []byte {
	b := make([]byte, (to-from)*8)
	for i, e := range r.table[from:to] {
		binary.BigEndian.PutUint64(b[8*i:], e)
	}
	return b
}
