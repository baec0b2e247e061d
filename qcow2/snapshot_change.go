package qcow2

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Internal snapshots are taken, deleted and reverted to in one order of writes:
//
//	copied flags go, where clusters are about to be shared   fsync
//	new tables, higher refcounts                             fsync
//	the header, which names the new tables: one sector       fsync
//	lower refcounts of what is given up                      fsync
//	copied flags come, where clusters are no longer shared   fsync
//
// At any crash all states read as before, or as they are to be. Clusters may be lost, and
// flags missing, which makes a writer copy once too often: a repair mends both.

// TakeSnapshot makes an internal snapshot of what the guest sees, durably.
func (m *Image) TakeSnapshot(name string, now time.Time) error {
	if err := m.readyForSnapshots(); err != nil {
		return err
	}
	s, err := m.newSnapshot(name, now)
	if err != nil {
		return err
	}
	entries, err := m.snapshotEntries()
	if err == nil {
		err = m.canCount(m.l1)
	}
	if err != nil {
		return err
	}
	return m.fail(m.putSnapshot(s, entries))
}

func (m *Image) putSnapshot(s Snapshot, entries [][]byte) error {
	flagless := withoutCopied(m.l1)
	off, err := m.placeTable(encodeL1(flagless))
	if err != nil {
		return err
	}
	s.l1.offset, s.l1.count = off, int64(len(m.l1))
	h := m.h
	h.Snapshots++
	if h.SnapshotsOffset, err = m.placeTable(joinEntries(append(entries, encodeSnapshot(s)))); err != nil {
		return err
	}
	if err := m.share(flagless); err != nil {
		return err
	}
	if err := m.switchTables(h); err != nil {
		return err
	}
	return m.w.refs.writeBlocks()
}

// share counts once more what an L1 table leads to, which is about to be named twice.
func (m *Image) share(l1 []uint64) error {
	if err := m.clearCopied(l1); err != nil {
		return err
	}
	m.w.packAt = 0
	return m.eachCluster(l1, func(c int64) error {
		n, err := m.w.refs.get(c)
		if err != nil {
			return err
		}
		return m.w.refs.set(c, n+1)
	})
}

// DeleteSnapshot gives up the internal snapshot at place i of Snapshots, durably.
func (m *Image) DeleteSnapshot(i int) error {
	s, l1, err := m.snapshotAt(i)
	if err != nil {
		return err
	}
	entries, err := m.snapshotEntries()
	if err != nil {
		return err
	}
	h := m.h
	h.Snapshots--
	if h.SnapshotsOffset, err = m.placeTable(joinEntries(slices.Delete(entries, i, i+1))); err == nil {
		err = m.switchTables(h)
	}
	if err == nil {
		err = m.giveUpState(l1, s.l1.offset)
	}
	return m.fail(err)
}

// RevertTo lets the guest see what it saw at the internal snapshot at place i of Snapshots,
// durably. What it saw until now is given up.
func (m *Image) RevertTo(i int) error {
	s, l1, err := m.snapshotAt(i)
	if err != nil {
		return err
	}
	if m.h.HasBitmaps() {
		return unsupported(fmt.Sprintf("reverting an image with %d persistent bitmaps, which would become stale", m.h.Bitmaps))
	}
	if err := m.checkSnapshot(s, s.Size); err != nil {
		return err
	}
	if err := m.canCount(l1); err != nil {
		return err
	}
	return m.fail(m.revert(s, l1))
}

func (m *Image) revert(s Snapshot, l1 []uint64) error {
	h := m.h
	h.Size, h.L1Size = s.Size, uint32(len(l1))
	flagless := withoutCopied(l1)
	var err error
	if h.L1TableOffset, err = m.placeTable(encodeL1(flagless)); err != nil {
		return err
	}
	if err := m.share(flagless); err != nil {
		return err
	}
	old, was := m.h.L1TableOffset, m.l1
	if err := m.switchTables(h); err != nil {
		return err
	}
	m.l1 = flagless
	return m.giveUpState(was, old)
}

// readyForSnapshots wants a prepared image without changes on the way.
func (m *Image) readyForSnapshots() error {
	if err := m.ready(); err != nil {
		return err
	}
	if len(m.w.changes) > 0 {
		return fmt.Errorf("qcow2: a snapshot with changes that are not flushed")
	}
	return nil
}

// snapshotAt finds a snapshot, and reads its L1 table.
func (m *Image) snapshotAt(i int) (s Snapshot, l1 []uint64, err error) {
	if err := m.readyForSnapshots(); err != nil {
		return s, nil, err
	}
	list, err := m.Snapshots()
	if err != nil {
		return s, nil, err
	}
	if i < 0 || i >= len(list) {
		return s, nil, fmt.Errorf("qcow2: snapshot %d of %d", i, len(list))
	}
	s = list[i]
	if err := s.l1.check(m.cluster()); err != nil {
		return s, nil, err
	}
	if err := s.l1.checkWithin(m.size); err != nil {
		return s, nil, err
	}
	l1, err = m.readL1(s.l1.offset, s.l1.count)
	return s, l1, err
}

// giveUpState counts once less what a state leads to that nobody sees any more, and its L1
// table.
func (m *Image) giveUpState(l1 []uint64, off int64) error {
	m.w.packAt, m.raw, m.rawOf = 0, nil, 0 // what is there may get another use
	var free []int64
	drop := func(c int64) error {
		gone, err := m.w.refs.drop(c)
		if gone {
			free = append(free, c)
		}
		return err
	}
	if err := m.eachCluster(l1, drop); err != nil {
		return err
	}
	for at := off; at < off+int64(len(l1))*l1EntryLen; at += m.cluster() {
		if err := drop(at >> m.clusterBits); err != nil {
			return err
		}
	}
	if err := m.w.refs.writeBlocks(); err != nil {
		return err
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	if err := m.setCopied(); err != nil {
		return err
	}
	return m.punch(free)
}

// eachCluster calls do for each cluster that an L1 table leads to, as often as it does: L2
// tables after what they name. The image has been verified.
func (m *Image) eachCluster(l1 []uint64, do func(c int64) error) error {
	table := make([]byte, m.cluster())
	for _, e := range l1 {
		off := int64(e & entryOffset)
		if off == 0 {
			continue
		}
		if err := readFull(m.f, table, off, "L2 table"); err != nil {
			return err
		}
		for i := range m.l2Entries() {
			if err := m.clustersOf(m.entryAt(table, i), do); err != nil {
				return err
			}
		}
		if err := do(off >> m.clusterBits); err != nil {
			return err
		}
	}
	return nil
}

func (m *Image) clustersOf(e entry, do func(c int64) error) error {
	switch {
	case e.compressed():
		off, n := m.packed(e)
		for c := off >> m.clusterBits; c <= (off+n-1)>>m.clusterBits; c++ {
			if err := do(c); err != nil {
				return err
			}
		}
	case m.allocated(e):
		return do(e.host() >> m.clusterBits)
	}
	return nil
}

// canCount refuses to count once more what refcounts are too narrow for.
func (m *Image) canCount(l1 []uint64) error {
	more := map[int64]uint64{} // of clusters that several compressed ones share
	most := maxRef(m.refOrder)
	return m.eachCluster(l1, func(c int64) error {
		n, err := m.w.refs.get(c)
		if err != nil {
			return err
		}
		if n > 1 && m.refOrder < defaultRefcountOrder {
			more[c]++
			n += more[c] - 1
		}
		if n >= most {
			return unsupported(fmt.Sprintf("a snapshot where refcounts of %d bits cannot count that cluster %d is used once more", 1<<m.refOrder, c))
		}
		return nil
	})
}

func withoutCopied(l1 []uint64) []uint64 {
	out := make([]uint64, len(l1))
	for i, e := range l1 {
		out[i] = e &^ entryCopied
	}
	return out
}

func encodeL1(l1 []uint64) []byte {
	b := make([]byte, len(l1)*l1EntryLen)
	for i, e := range l1 {
		binary.BigEndian.PutUint64(b[i*l1EntryLen:], e)
	}
	return b
}

// clearCopied takes the flags off the active L1 table, and off the tables that an L1 table
// leads to, durably.
func (m *Image) clearCopied(l1 []uint64) error {
	if err := m.rewriteL1(withoutCopied(m.l1)); err != nil {
		return err
	}
	for _, e := range l1 {
		err := m.rewriteL2(int64(e&entryOffset), func(e entry) (entry, error) {
			if !e.compressed() {
				e.desc &^= entryCopied
			}
			return e, nil
		})
		if err != nil {
			return err
		}
	}
	return m.f.Sync()
}

// setCopied gives the active tables the flags that they may have, durably.
func (m *Image) setCopied() error {
	next := withoutCopied(m.l1)
	for i, e := range next {
		off := int64(e & entryOffset)
		if off == 0 {
			continue
		}
		n, err := m.w.refs.get(off >> m.clusterBits)
		if err != nil {
			return err
		}
		if n == 1 {
			next[i] |= entryCopied
		}
		if err := m.rewriteL2(off, m.flagged); err != nil {
			return err
		}
	}
	if err := m.rewriteL1(next); err != nil {
		return err
	}
	return m.f.Sync()
}

// flagged is an entry with the flag that it may have.
func (m *Image) flagged(e entry) (entry, error) {
	if !m.allocated(e) {
		return e, nil
	}
	n, err := m.w.refs.get(e.host() >> m.clusterBits)
	e.desc &^= entryCopied
	if n == 1 {
		e.desc |= entryCopied
	}
	return e, err
}

// rewriteL1 writes flags of the active L1 table: entries do not cross sectors.
func (m *Image) rewriteL1(next []uint64) error {
	b := encodeL1(next)
	for from := 0; from < len(b); from += sectorSize {
		to := min(from+sectorSize, len(b))
		same := true
		for i := from / l1EntryLen; i < to/l1EntryLen; i++ {
			same = same && next[i] == m.l1[i]
		}
		if same {
			continue
		}
		if _, err := m.f.WriteAt(b[from:to], m.h.L1TableOffset+int64(from)); err != nil {
			return err
		}
	}
	m.l1 = next
	return nil
}

// rewriteL2 writes flags of the L2 table at off, if there is one and any change.
func (m *Image) rewriteL2(off int64, change func(e entry) (entry, error)) error {
	if off == 0 {
		return nil
	}
	table := make([]byte, m.cluster())
	if err := readFull(m.f, table, off, "L2 table"); err != nil {
		return err
	}
	changed := false
	for i := range m.l2Entries() {
		e := m.entryAt(table, i)
		next, err := change(e)
		if err != nil {
			return err
		}
		if next != e {
			m.putEntry(table, i, next)
			changed = true
		}
	}
	m.tables.drop(off)
	if !changed {
		return nil
	}
	_, err := m.f.WriteAt(table, off)
	return err
}
