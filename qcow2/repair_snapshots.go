package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode"
	"unicode/utf8"
)

// restoreSnapshots writes a snapshot table of what is found, if the one that the
// header leads to cannot be read as it is, and makes the header lead there.
func (r *restorer) restoreSnapshots() error {
	if !r.lost.snapshots && (r.snapshots == 0 || r.readable()) {
		return nil
	}
	if err := certainOfData(r.h); err != nil {
		return err
	}
	if err := r.run(); err != nil {
		return err
	}
	if r.unreadable { // nothing is known about what is in use
		return malformed(offSnapshotsTable, "snapshots_offset", "the table is lost or damaged, and so is another one: "+r.res.Problems[0].String())
	}
	found, err := r.lostSnapshots()
	if err != nil {
		return err
	}
	r.left = len(found) < int(r.snapshots)
	if r.left && r.lost.refcounts {
		return unsupported(fmt.Sprintf("repair of an image that has lost its refcount table and %d of %d snapshots, whose clusters would be free then", int(r.snapshots)-len(found), r.snapshots))
	}
	at, ok := r.room(int64(len(joinEntries(found))))
	if !ok {
		return malformed(offSnapshotsTable, "snapshots_offset", "the table is damaged, and there is no place for a new one")
	}
	if err := r.writeSnapshots(found, at); err != nil {
		return err
	}
	text := fmt.Sprintf("a new snapshot table, with %d of %d snapshots", len(found), r.snapshots)
	if r.left {
		text += "; what belonged to others is still in use (-r leaks gives it free)"
	}
	r.done = append(r.done, text)
	return nil
}

// readable tells whether QEMU reads the snapshot table, and each entry has what version 3
// wants and something in it.
func (r *restorer) readable() bool {
	h := r.h
	h.Snapshots = r.snapshots
	w := &walker{
		r: r.f, h: h, l: r.l, size: r.size, end: roundUp(r.size, sectorSize),
		visit: func(*ref) error { return errUnreadable },
	}
	tables, _, err := w.snapshotTable()
	return err == nil && !slices.ContainsFunc(tables, func(s snapshotL1) bool { return s.entries == 0 && h.Size > 0 })
}

// lostSnapshots are the entries that make sense: those at the place that the header tells,
// or those of the one other place in the file that has as many as there should be.
func (r *restorer) lostSnapshots() ([]snapshotEntry, error) {
	var found []snapshotEntry
	if at := r.h.SnapshotsOffset; at > 0 && at < r.size && at&(r.l.cluster()-1) == 0 {
		found = r.entriesAt(at)
	}
	if len(found) > 0 {
		return found, nil
	}
	return r.searchSnapshots()
}

// searchSnapshots looks at the start of each cluster to which nothing leads, but which is
// in use if there are refcounts. A repair that did not come to its end can have left a
// copy of the table.
func (r *restorer) searchSnapshots() (found []snapshotEntry, err error) {
	for i := int64(1); i < r.counts.clusters; i++ {
		free, err := r.unused(i)
		if err != nil {
			return nil, err
		}
		if free || r.counts.at(i) != 0 {
			continue
		}
		e := r.entriesAt(i << r.l.clusterBits)
		if len(e) != int(r.snapshots) {
			continue
		}
		if found != nil && !slices.EqualFunc(found, e, bytes.Equal) {
			return nil, malformed(offSnapshotsTable, "snapshots_offset", "the table is lost, and several places look like it")
		}
		found = e
	}
	return found, nil
}

// unused tells whether a cluster has a refcount of 0, as far as there are refcounts.
func (r *restorer) unused(cluster int64) (bool, error) {
	if r.lost.refcounts {
		return false, nil
	}
	refcount, ok, err := r.stored.get(cluster)
	return ok && refcount == 0, err
}

// A snapshotEntry is one of a snapshot table, with as much extra data as its version wants.
type snapshotEntry = []byte

// entriesAt reads the entries that make sense at an offset, up to as many as there should be.
func (r *restorer) entriesAt(at int64) (found []snapshotEntry) {
	for len(found) < int(min(r.snapshots, maxSnapshots)) {
		e, n := r.entryAt(at)
		if e == nil {
			break
		}
		found = append(found, e)
		at += roundUp(n, extAlign)
	}
	return found
}

// entryAt reads an entry, which takes n bytes in the file; nil if there is none that makes
// sense. Where it does not with the extra data that it tells of, it is tried
// with as much as programs write.
func (r *restorer) entryAt(at int64) (e snapshotEntry, n int64) {
	var head [minSnapshotLen]byte
	if at+minSnapshotLen > r.size {
		return nil, 0
	}
	if _, err := r.f.ReadAt(head[:], at); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0
	}
	be := binary.BigEndian
	l1 := table{
		offset: int64(be.Uint64(head[:])), count: int64(be.Uint32(head[offSnapshotL1Size:])), entryLen: l1EntryLen, maxLen: maxL1Bytes,
	}
	if l1.count == 0 || l1.check(r.l.cluster()) != nil || l1.checkWithin(r.size) != nil {
		return nil, 0
	}
	told := min(be.Uint32(head[offSnapshotExtra:]), 2*maxSnapshotExtra)
	for _, extra := range []uint32{told, extraIcountEnd, extraSizeEnd, extraStateEnd, 0} {
		if extra > maxSnapshotExtra {
			continue
		}
		if e := r.entryWith(head, extra, at); e != nil {
			return e, minSnapshotLen + int64(extra) + int64(be.Uint16(head[offSnapshotID:])) + int64(be.Uint16(head[offSnapshotName:]))
		}
	}
	return nil, 0
}

// entryWith reads an entry with so much extra data; nil if its names are none.
func (r *restorer) entryWith(head [minSnapshotLen]byte, extra uint32, at int64) snapshotEntry {
	be := binary.BigEndian
	id, name := int(be.Uint16(head[offSnapshotID:])), int(be.Uint16(head[offSnapshotName:]))
	rest := make([]byte, int(extra)+id+name)
	if at+minSnapshotLen+int64(len(rest)) > r.size {
		return nil
	}
	if _, err := r.f.ReadAt(rest, at+minSnapshotLen); err != nil {
		return nil
	}
	texts := rest[extra:]
	if id == 0 || !readableName(texts[:id]) || !readableName(texts[id:]) {
		return nil
	}
	more := rest[:extra]
	if r.h.Version >= 3 && extra < minSnapshotExtraV3 {
		more = r.extraData(head, more)
	}
	be.PutUint32(head[offSnapshotExtra:], uint32(len(more)))
	return slices.Concat(head[:], more, texts)
}

// extraData is what version 3 wants: the size of the memory in 64 bits, and that of the disk.
func (r *restorer) extraData(head [minSnapshotLen]byte, told []byte) []byte {
	var b [minSnapshotExtraV3]byte
	copy(b[4:], head[offSnapshotState:offSnapshotState+4])
	copy(b[:], told)
	binary.BigEndian.PutUint64(b[extraStateEnd:], uint64(r.h.Size))
	return b[:]
}

func readableName(b []byte) bool {
	return utf8.Valid(b) && !slices.ContainsFunc([]rune(string(b)), unicode.IsControl)
}

// room is a place for so many bytes that nobody uses: behind the end of the file, unless
// an entry leads there, else within it, if there are refcounts.
func (r *restorer) room(bytes int64) (start int64, ok bool) {
	clusters := (bytes + r.l.cluster() - 1) >> r.l.clusterBits
	if end := r.counts.clusters; !r.device && end+clusters <= r.nearest>>r.l.clusterBits {
		return end, true
	}
	run := int64(0)
	for i := int64(1); i < r.size>>r.l.clusterBits && run < clusters; i++ {
		run++
		if free, err := r.unused(i); err != nil || !free || r.counts.at(i) != 0 {
			run = 0
		}
		start = i + 1 - run
	}
	return start, run == clusters
}

// writeSnapshots writes the table, gives its clusters refcounts, and then makes the header
// lead to it, with one write of a sector. Until the repair has come to its
// end QEMU does not write to the image: it is marked as corrupt.
func (r *restorer) writeSnapshots(entries []snapshotEntry, start int64) error {
	at := start << r.l.clusterBits
	if len(entries) == 0 {
		return r.leadTo(0, 0)
	}
	table := joinEntries(entries)
	b := make([]byte, roundUp(int64(len(table)), r.l.cluster()))
	copy(b, table)
	if err := r.f.Reserve(at, int64(len(b))); err != nil {
		return err
	}
	if _, err := r.f.WriteAt(b, at); err != nil {
		return err
	}
	if err := r.useClusters(start, int64(len(b))>>r.l.clusterBits); err != nil {
		return err
	}
	return r.leadTo(at, len(entries))
}

// useClusters sets the refcounts of clusters to 1, as far as there are blocks for them.
func (r *restorer) useClusters(start, n int64) error {
	if err := r.f.Sync(); err != nil || r.lost.refcounts {
		return err
	}
	p := newPatcher(r.f, r.size, r.l)
	m := &repairer{checker: r.checker}
	for i := start; i < start+n; i++ {
		if err := m.setRefcount(p, i, 1); err != nil {
			return err
		}
	}
	return p.sync()
}

// leadTo makes the header name a table of so many entries.
func (r *restorer) leadTo(at int64, entries int) error {
	b := make([]byte, offSnapshotsTable+8-offSnapshots, offIncompatible+8-offSnapshots)
	binary.BigEndian.PutUint32(b, uint32(entries))
	binary.BigEndian.PutUint64(b[offSnapshotsTable-offSnapshots:], uint64(at))
	if r.h.Version >= 3 {
		r.marked = !r.h.Corrupt()
		b = binary.BigEndian.AppendUint64(b, r.h.Incompatible|incompatCorrupt)
	}
	if _, err := r.f.WriteAt(b, offSnapshots); err != nil {
		return err
	}
	return r.f.Sync()
}

// unmark takes back the mark that leadTo has made, where a repair has left other errors
// that were there before.
func (r *restorer) unmark() error {
	if !r.marked {
		return nil
	}
	var b [8]byte
	if _, err := r.f.ReadAt(b[:], offIncompatible); err != nil {
		return err
	}
	bits := binary.BigEndian.Uint64(b[:])
	if bits&incompatCorrupt == 0 {
		return nil
	}
	return writeIncompatible(r.f, bits&^incompatCorrupt)
}
