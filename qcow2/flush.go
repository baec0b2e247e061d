package qcow2

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Flush makes the changes durable and visible, in this order:
//
//	data, refcounts, new L2 tables    fsync
//	entries of the refcount table     fsync, only if it has new blocks
//	L1 entries, entries of L2 tables  fsync
//	refcounts of what was freed       no fsync: until then space is lost, no more
func (m *Image) Flush() error {
	if err := m.ready(); err != nil {
		return err
	}
	if err := m.ensureLength(m.w.grow); err != nil {
		return m.fail(err)
	}
	if len(m.w.changes) == 0 {
		return m.fail(m.f.Sync()) // data may have been overwritten in place
	}
	groups, err := m.groups()
	if err == nil {
		err = m.flush(groups)
	}
	return m.fail(err)
}

// A group is the changes of one L2 table.
type group struct {
	l1      int64
	changes []change
	fresh   int64 // offset of a new table, or 0
}

// groups sorts the changes by L2 table and finds room for new tables.
func (m *Image) groups() ([]group, error) {
	slices.SortFunc(m.w.changes, func(a, b change) int { return int(a.index - b.index) })
	var groups []group
	for i := 0; i < len(m.w.changes); {
		l1, k := m.w.changes[i].index/m.l2Entries(), i+1
		for ; k < len(m.w.changes) && m.w.changes[k].index/m.l2Entries() == l1; k++ {
			if m.w.changes[k].index == m.w.changes[k-1].index {
				return nil, fmt.Errorf("qcow2: cluster %d is placed twice", m.w.changes[k].index)
			}
		}
		g := group{l1: l1, changes: m.w.changes[i:k]}
		if err := m.tableFor(&g); err != nil {
			return nil, err
		}
		groups = append(groups, g)
		i = k
	}
	return groups, nil
}

// tableFor gives a group a new table if it has none, or one that an internal
// snapshot uses as well.
func (m *Image) tableFor(g *group) error {
	if old := int64(m.l1[g.l1] & entryOffset); old != 0 {
		n, err := m.w.refs.get(old >> m.clusterBits)
		if err != nil || n == 1 {
			return err
		}
		m.w.freedL2 = append(m.w.freedL2, old)
	}
	c, _, err := m.take(1)
	g.fresh = c << m.clusterBits
	return err
}

func (m *Image) flush(groups []group) error {
	for i := range groups {
		if err := m.writeFresh(&groups[i]); err != nil {
			return err
		}
	}
	if err := m.trim(); err != nil {
		return err
	}
	if err := m.w.refs.flush(); err != nil {
		return err
	}
	for i := range groups {
		if err := m.link(&groups[i]); err != nil {
			return err
		}
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	m.w.changes = m.w.changes[:0]
	m.raw, m.rawOf = nil, 0
	return m.giveBack()
}

// trim gives back what Reserve has reserved beyond the end of the file.
func (m *Image) trim() error {
	if m.w.filled <= m.size {
		return nil
	}
	m.w.filled = 0
	info, err := m.f.Stat()
	if err != nil || info.IsBlock {
		return err
	}
	return m.f.Truncate(info.Size)
}

// ensureLength makes the file at least n bytes long.
func (m *Image) ensureLength(n int64) error {
	if n == 0 {
		return nil
	}
	m.w.grow = 0
	info, err := m.f.Stat()
	if err != nil || info.IsBlock || info.Size >= n {
		return err
	}
	m.size = max(m.size, n) // a cluster that ended with the file may be whole now
	return m.f.Truncate(n)
}

// writeFresh writes a table that nothing refers to yet.
func (m *Image) writeFresh(g *group) error {
	if g.fresh == 0 {
		return nil
	}
	table := make([]byte, m.cluster())
	if old := int64(m.l1[g.l1] & entryOffset); old != 0 {
		b, err := m.tables.get(old)
		if err != nil {
			return err
		}
		copy(table, b)
	}
	m.apply(table, g)
	if _, err := m.f.WriteAt(table, g.fresh); err != nil {
		return err
	}
	m.tables.drop(g.fresh)
	return nil
}

// apply puts the entries of a group into its table and returns the range of
// bytes that has changed, in whole sectors.
func (m *Image) apply(table []byte, g *group) (from, to int64) {
	for _, c := range g.changes {
		m.putEntry(table, c.index%m.l2Entries(), c.entry)
	}
	first, last := g.changes[0].index%m.l2Entries(), g.changes[len(g.changes)-1].index%m.l2Entries()
	from = first * m.l2EntryLen() &^ (sectorSize - 1)
	to = ((last+1)*m.l2EntryLen() + sectorSize - 1) &^ (sectorSize - 1)
	return from, to
}

// link makes the changes of a group visible: by the L1 entry of a new table, or
// by the entries of the old one. An entry does not cross sectors, so that a torn
// write leaves each as it was or as it is to be.
func (m *Image) link(g *group) error {
	if g.fresh == 0 {
		off := int64(m.l1[g.l1] & entryOffset)
		table, err := m.tables.get(off)
		if err != nil {
			return err
		}
		from, to := m.apply(table, g)
		_, err = m.f.WriteAt(table[from:to], off+from)
		return err
	}
	m.l1[g.l1] = uint64(g.fresh) | entryCopied
	var b [l1EntryLen]byte
	binary.BigEndian.PutUint64(b[:], m.l1[g.l1])
	_, err := m.f.WriteAt(b[:], m.h.L1TableOffset+g.l1*l1EntryLen)
	return err
}

// giveBack lowers the refcounts of what is no longer referred to and punches
// out what nobody else uses.
func (m *Image) giveBack() error {
	var free []int64
	for _, e := range m.w.freed {
		first, last := e.host()>>m.clusterBits, e.host()>>m.clusterBits
		if e.compressed() {
			off, n := m.packed(e)
			first, last = off>>m.clusterBits, (off+n-1)>>m.clusterBits
		}
		for c := first; c <= last; c++ {
			gone, err := m.w.refs.drop(c)
			if err != nil {
				return err
			}
			if gone {
				free = append(free, c)
			}
		}
	}
	for _, off := range m.w.freedL2 {
		if _, err := m.w.refs.drop(off >> m.clusterBits); err != nil {
			return err
		}
	}
	if len(m.w.freed) > 0 {
		m.w.packAt = 0 // that cluster may get another use
	}
	m.w.freed, m.w.freedL2 = m.w.freed[:0], m.w.freedL2[:0]
	if err := m.w.refs.writeBlocks(); err != nil {
		return err
	}
	return m.punch(free)
}

// punch gives the space of clusters back, in stretches.
func (m *Image) punch(clusters []int64) error {
	slices.Sort(clusters)
	for i := 0; i < len(clusters); {
		k := i + 1
		for k < len(clusters) && clusters[k] == clusters[k-1]+1 {
			k++
		}
		n := int64(k - i)
		if err := m.f.Punch(clusters[i]<<m.clusterBits, n<<m.clusterBits); err != nil {
			return err
		}
		i = k
	}
	return nil
}
