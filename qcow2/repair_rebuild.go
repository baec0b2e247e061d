package qcow2

import (
	"encoding/binary"
	"slices"
)

// structure is a new refcount table with its blocks, one after the other:
// the table first, then the blocks in their order.
type structure struct {
	start  int64   // clusters from the start of the file
	table  int64   // clusters of the table
	blocks []int64 // indices in the table
}

func (s structure) clusters() int64 { return s.table + int64(len(s.blocks)) }

func (s structure) end() int64 { return s.start + s.clusters() }

// rebuild writes new refcounts for the whole file to a place that nobody uses,
// and then switches to them with one write to the header. The old table and
// blocks are free afterwards. built is false if there is no such place.
func (r *repairer) rebuild() (built bool, err error) {
	if err := r.recount(); err != nil {
		return false, err
	}
	used, err := r.usedBlocks()
	if err != nil {
		return false, err
	}
	s, ok := r.place(used)
	if !ok {
		return false, nil
	}
	r.counts.add(&ref{
		kind: refRefcountTable, offset: s.start << r.l.clusterBits,
		length: s.clusters() << r.l.clusterBits, times: 1,
	})
	if err := r.writeStructure(s); err != nil {
		return false, err
	}
	return true, r.switchTo(s)
}

// recount counts all references but those of the old refcount structure.
func (r *repairer) recount() error {
	r.before = r.counts
	r.counts = newClusterCounts(r.l, r.before.clusters)
	_, err := usage(r.f, r.h, r.size, func(u *ref) error {
		if u.reason == "" && u.kind != refRefcountTable && u.kind != refRefcountBlock {
			r.counts.add(u)
		}
		return nil
	})
	return err
}

// block computes the refcounts of a block.
func (r *repairer) block(b []byte, i int64) error {
	if err := r.oldBlock(b, i); err != nil {
		return err
	}
	per := r.l.refEntries()
	for j := range per {
		n := r.counts.at(i*per + j)
		old := getRef(b, r.l.refOrder, j)
		refcount := r.target(old, n)
		if old > refcount && !r.lower {
			refcount = old
			r.counts.keep(i*per + j)
		}
		putRef(b, r.l.refOrder, j, refcount)
	}
	return nil
}

// oldBlock reads what there is of an old block. One that something else uses
// as well says nothing about refcounts.
func (r *repairer) oldBlock(b []byte, i int64) error {
	at, err := blockAt(r.f, r.h, r.size, i)
	if err != nil {
		return err
	}
	if at == 0 || badBlock(at, r.l) != "" || r.before.at(at>>r.l.clusterBits).references() != 1 {
		clear(b)
		return nil
	}
	return readPadded(r.f, b, at, r.size)
}

// usedBlocks lists the blocks that are not all zeros.
func (r *repairer) usedBlocks() ([]int64, error) {
	var used []int64
	b := make([]byte, r.l.cluster())
	per := r.l.refEntries()
	for i := range (r.counts.clusters + per - 1) / per {
		if err := r.block(b, i); err != nil {
			return nil, err
		}
		if !allZeroRefs(b, r.l.refOrder, 0, per) {
			used = append(used, i)
		}
	}
	return used, nil
}

// place puts the structure behind the end of the file, unless the file is a
// device, or an entry leads there or beyond the end within the last cluster: what
// comes there must not be taken for its data, and a file that grows would no longer
// show that something is missing. Then it looks for a free place within the
// file, if it is known what is free; the old structure is in use until the end.
func (r *repairer) place(used []int64) (structure, bool) {
	s, ok := r.structureAt(r.counts.clusters, used)
	if ok && !r.device && s.end() <= r.nearest>>r.l.clusterBits {
		return s, true
	}
	if !r.lower {
		return structure{}, false
	}
	within := r.size >> r.l.clusterBits
	for start := int64(1); start < within; {
		end := start
		for end < within && r.counts.at(end) == 0 && r.before.at(end) == 0 {
			end++
		}
		if s, ok := r.structureAt(start, used); ok && s.end() <= end {
			return s, true
		}
		start = end + 1
	}
	return structure{}, false
}

// structureAt adds the blocks that the structure needs for itself. ok is false if
// QEMU would not take so large a table.
func (r *repairer) structureAt(start int64, used []int64) (s structure, ok bool) {
	s = structure{start: start, blocks: slices.Clone(used)}
	for again := true; again; {
		again = false
		last := max(slices.Max(s.blocks), (s.end()-1)/r.l.refEntries())
		s.table = ((last+1)*8-1)>>r.l.clusterBits + 1
		if s.table<<r.l.clusterBits > maxRefcountTableBytes {
			return s, false
		}
		for i := s.start / r.l.refEntries(); i <= (s.end()-1)/r.l.refEntries(); i++ {
			if at, found := slices.BinarySearch(s.blocks, i); !found {
				s.blocks = slices.Insert(s.blocks, at, i)
				again = true
			}
		}
	}
	return s, true
}

// writeStructure writes table and blocks, and syncs.
func (r *repairer) writeStructure(s structure) error {
	at := s.start << r.l.clusterBits
	if err := r.f.Reserve(at, s.clusters()<<r.l.clusterBits); err != nil {
		return err
	}
	table := make([]byte, s.table<<r.l.clusterBits)
	b := make([]byte, r.l.cluster())
	for i, index := range s.blocks {
		block := (s.start + s.table + int64(i)) << r.l.clusterBits
		binary.BigEndian.PutUint64(table[8*index:], uint64(block))
		if err := r.block(b, index); err != nil {
			return err
		}
		if _, err := r.f.WriteAt(b, block); err != nil {
			return err
		}
	}
	if _, err := r.f.WriteAt(table, at); err != nil {
		return err
	}
	return r.f.Sync()
}

// switchTo makes the header name the new table: 12 bytes in one sector.
func (r *repairer) switchTo(s structure) error {
	var b [offRefcountClusters + 4 - offRefcountTable]byte
	at := s.start << r.l.clusterBits
	binary.BigEndian.PutUint64(b[:], uint64(at))
	binary.BigEndian.PutUint32(b[offRefcountClusters-offRefcountTable:], uint32(s.table))
	if _, err := r.f.WriteAt(b[:], offRefcountTable); err != nil {
		return err
	}
	r.h.RefcountTableOffset, r.h.RefcountTableClusters = at, uint32(s.table)
	r.size = max(r.size, s.end()<<r.l.clusterBits)
	return r.f.Sync()
}
