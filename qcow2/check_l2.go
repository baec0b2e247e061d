package qcow2

import (
	"encoding/binary"
	"maps"
	"slices"
)

// l2Tables reads each L2 table once: those of the active L1 table in the order
// of the file, then those that only snapshots have, then the misplaced ones.
func (w *walker) l2Tables() error {
	table := make([]byte, w.l.cluster())
	if err := w.activeTables(table); err != nil {
		return err
	}
	if err := w.snapshotTables(table); err != nil {
		return err
	}
	for _, offset := range slices.Sorted(maps.Keys(w.odd)) {
		if err := w.l2Table(table, *w.odd[offset]); err != nil {
			return err
		}
	}
	return nil
}

// activeTables takes equal offsets together, and what snapshots say of them.
func (w *walker) activeTables(table []byte) error {
	for i, next := 0, 0; i < len(w.active); i = next {
		t := l2At{offset: w.active[i]}
		for next = i; next < len(w.active) && w.active[next] == t.offset; next++ {
			t.active++
		}
		t.times = t.active + w.ofSnapshots(t.offset)
		if err := w.l2Table(table, t); err != nil {
			return err
		}
	}
	return nil
}

// ofSnapshots is how many L1 entries of snapshots lead to an L2 table.
func (w *walker) ofSnapshots(offset int64) int64 {
	if w.shared == nil {
		return 0
	}
	return int64(w.shared.at(offset >> w.l.clusterBits).references())
}

// snapshotTables reads the tables that only snapshots have.
func (w *walker) snapshotTables(table []byte) error {
	if w.shared == nil {
		return nil
	}
	for i, page := range w.shared.pages {
		if page == nil {
			continue
		}
		for j, c := range page {
			if c == 0 {
				continue
			}
			offset := (int64(i)<<countPageBits + int64(j)) << w.l.clusterBits
			if _, done := slices.BinarySearch(w.active, offset); done {
				continue
			}
			if err := w.l2Table(table, l2At{offset: offset, times: int64(c.references())}); err != nil {
				return err
			}
		}
	}
	return nil
}

// l2Table reports what an L2 table refers to. Parts beyond the end of the file
// count as empty.
func (w *walker) l2Table(table []byte, t l2At) error {
	if empty, err := w.load(table, t.offset); err != nil || empty {
		return err
	}
	v := w.newVisit(t)
	length := int(w.l.l2EntryLen())
	for i := 0; i < len(table); i += length {
		e := entry{desc: binary.BigEndian.Uint64(table[i:])}
		if w.l.extended {
			e.bitmap = binary.BigEndian.Uint64(table[i+8:])
		}
		if e == (entry{}) {
			continue
		}
		if err := v.entry(e, t.offset+int64(i)); err != nil {
			return err
		}
	}
	v.stats.allocated += v.allocated * t.active
	v.stats.fragmented += v.fragmented * t.active
	return nil
}

// l2Visit is the state of a walk through one L2 table.
type l2Visit struct {
	*walker
	table l2At
	plain uint64 // bits that an entry has for which nothing is special
	last  int64  // offset of the last cluster that is whole
	ref   ref

	next                  int64 // where the next cluster is expected, 0 before the first
	allocated, fragmented int64
}

func (w *walker) newVisit(t l2At) *l2Visit {
	v := &l2Visit{walker: w, table: t, last: w.size - w.l.cluster()}
	v.ref = ref{
		kind: refData, length: w.l.cluster(), times: t.times, active: t.active,
		odd: t.offset&(w.l.cluster()-1) != 0,
	}
	if !w.l.dataFile && !w.l.extended {
		v.plain = entryCopied | entryOffset&^uint64(w.l.cluster()-1)
	}
	return v
}

func (v *l2Visit) wrong(kind refKind, at int64, reason string) error {
	return v.visit(&ref{kind: kind, at: at, times: v.table.times, reason: reason})
}

// entry reports an entry that is at offset at of the file. Nearly all are plain
// ones.
func (v *l2Visit) entry(e entry, at int64) error {
	if offset := e.host(); e.desc&^v.plain == 0 && 0 < offset && offset <= v.last {
		v.count(offset)
		v.ref.offset, v.ref.at, v.ref.copied, v.ref.entry = offset, at, e.desc&entryCopied != 0, e
		return v.visit(&v.ref)
	}
	if e.compressed() {
		return v.packedEntry(e, at)
	}
	return v.otherEntry(e, at)
}

// count notes a standard cluster for the statistics.
func (v *l2Visit) count(offset int64) {
	v.allocated++
	if v.next != 0 && v.next != offset {
		v.fragmented++
	}
	v.next = offset + v.ref.length
}

// otherEntry reports an entry that is not compressed.
func (v *l2Visit) otherEntry(e entry, at int64) error {
	if e.desc&l2Reserved != 0 {
		if err := v.wrong(refData, at, "reserved bits are set"); err != nil {
			return err
		}
	}
	if e.desc&entryZero != 0 && (v.l.version < 3 || v.l.extended) {
		if err := v.ours(refData, at, v.table.times, "zero flag where there is none"); err != nil {
			return err
		}
	}
	if v.l.allocated(e) {
		return v.standardEntry(e, at)
	}
	if e.bitmap&allocatedSubclusters != 0 {
		return v.wrong(refData, at, "allocated subclusters without a cluster")
	}
	return nil
}

// allocatedSubclusters are the bits of an extended entry that tell which
// subclusters hold data.
const allocatedSubclusters = uint64(1)<<subclusters - 1

// packedEntry reports a compressed cluster. It counts for each host cluster
// that it touches, and for its sectors the last one may be cut short.
func (v *l2Visit) packedEntry(e entry, at int64) error {
	if e.desc&entryCopied != 0 {
		if err := v.wrong(refCompressed, at, "compressed and marked as copied"); err != nil {
			return err
		}
	}
	switch {
	case v.l.dataFile:
		return v.wrong(refCompressed, at, "compressed, with an external data file")
	case e.bitmap != 0:
		return v.wrong(refCompressed, at, "compressed, with subclusters")
	}
	off, n := v.l.packed(e)
	inside, err := v.refer(&ref{kind: refCompressed, offset: off, length: n, at: at, times: v.table.times, entry: e})
	if err != nil {
		return err
	}
	v.allocated++
	v.fragmented++
	v.stats.compressed += v.table.active
	if inside && off+n > v.end {
		return v.ours(refCompressed, at, v.table.times, reasonCut)
	}
	return nil
}

// standardEntry reports a cluster that has a place in the file.
func (v *l2Visit) standardEntry(e entry, at int64) error {
	if e.bitmap&(e.bitmap>>subclusters)&allocatedSubclusters != 0 {
		if err := v.wrong(refData, at, "a subcluster is both data and zero"); err != nil {
			return err
		}
	}
	offset := e.host()
	if offset&(v.l.cluster()-1) != 0 {
		if err := v.wrong(refData, at, "offset is not aligned"); err != nil {
			return err
		}
	}
	v.count(offset)
	if v.l.dataFile {
		return v.inDataFile(e, at)
	}
	r := v.ref
	r.offset, r.at, r.copied, r.entry = offset, at, e.desc&entryCopied != 0, e
	inside, err := v.refer(&r)
	if err == nil && inside && v.visibleEnd(e, at) > v.size {
		err = v.ours(refData, at, v.table.times, reasonCut)
	}
	return err
}

// inDataFile wants the copied flag, which is checked in active tables only.
func (v *l2Visit) inDataFile(e entry, at int64) error {
	if v.table.active == 0 || e.desc&entryCopied != 0 {
		return nil
	}
	return v.visit(&ref{kind: refData, at: at, times: v.table.active, reason: reasonNotCopied})
}

// visibleEnd is where the part of a cluster ends that the guest can see: QEMU
// writes no further than the last subcluster, and old versions no further than
// the disk.
func (v *l2Visit) visibleEnd(e entry, at int64) int64 {
	n := v.l.cluster()
	switch {
	case v.l.extended:
		n = lastSubcluster(e) * v.l.granule()
	case e.desc&entryZero != 0:
		n = 0
	}
	if v.table.offset == v.lastTable && (at-v.table.offset)/v.l.l2EntryLen() == (v.h.Size-1)/v.l.cluster()%v.l.l2Entries() {
		n = min(n, (v.h.Size-1)&(v.l.cluster()-1)+1)
	}
	return e.host() + n
}

// lastSubcluster is how many subclusters there are up to the last allocated one.
func lastSubcluster(e entry) int64 {
	for i := int64(subclusters); i > 0; i-- {
		if e.bitmap>>(i-1)&1 != 0 {
			return i
		}
	}
	return 0
}
