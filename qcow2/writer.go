package qcow2

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A writer is what an Image needs to be changed. The order of writes follows
// from one rule: what an entry points to, and its refcount, is durable before
// the entry. A crash may lose space, never data.
type writer struct {
	refs    *refcounts
	moving  bool     // data gets a new place even where it could be overwritten
	changes []change // entries that Flush will write
	freed   []entry  // clusters that nothing refers to after Flush
	freedL2 []int64  // offsets of L2 tables likewise
	broken  error    // after it, what is in memory and on disk may differ
	filled  int64    // the host file is reserved up to here
	packAt  int64    // where the last packed cluster ends
	growing bool     // Resize has not come to the point where the header gets the new size
	oldSize int64    // then: the size in the header
	grow    int64    // the host file must be this long, though nothing was written at its end
	leaked  int64    // clusters that had a refcount that is too high when the image was prepared
}

// A change is a new L2 entry for a cluster of the disk.
type change struct {
	index int64 // guest offset / cluster size
	entry entry
}

var errNotPrepared = errors.New("qcow2: the image is not prepared for writing")

// Prepare verifies the structure of the whole image and refuses what could not
// be changed without loss. It clears autoclear bits that it does not know.
func (m *Image) Prepare() error { return m.prepare(m.Writable()) }

// PrepareSnapshots is Prepare for what is done to internal snapshots alone. The data stays
// as it is, and persistent bitmaps stay right.
func (m *Image) PrepareSnapshots() error {
	data := *m
	data.h.Bitmaps = 0
	return m.prepare(data.Writable())
}

// prepare does it, unless the image is refused.
func (m *Image) prepare(refused error) error {
	if m.w != nil {
		return m.w.broken
	}
	if refused != nil {
		return refused
	}
	leaked, err := verify(m.f, m.h)
	if err != nil {
		return err
	}
	refs, err := newRefcounts(m)
	if err != nil {
		return err
	}
	m.w = &writer{refs: refs, leaked: leaked}
	h := m.h
	h.Autoclear = 0
	if m.h.HasBitmaps() {
		h.Autoclear = autoclearBitmaps & m.h.Autoclear
	}
	if h.Autoclear == m.h.Autoclear {
		return nil
	}
	return m.writeHeader(h)
}

// Writable refuses, by what the header says, what changing the data would lose or
// break. Prepare finds the rest.
func (m *Image) Writable() error {
	switch {
	case m.h.Corrupt():
		return malformed(offIncompatible, "incompatible_features", "the image is marked as corrupt: check and repair it first")
	case m.h.Dirty():
		return malformed(offIncompatible, "incompatible_features", "the refcounts are marked as dirty: check and repair the image first")
	case m.h.Encrypted():
		return unsupported("changing data of an encrypted image")
	case m.h.HasDataFile():
		return unsupported("changing data of an image with an external data file")
	case m.h.HasBitmaps() && !m.keeping:
		return unsupported(fmt.Sprintf("changing data of an image with %d persistent bitmaps, which would become stale", m.h.Bitmaps))
	}
	return nil
}

// ready tells whether the image can be changed.
func (m *Image) ready() error {
	if m.w == nil {
		return errNotPrepared
	}
	return m.w.broken
}

// fail makes the image refuse all further changes.
func (m *Image) fail(err error) error {
	if err != nil && m.w != nil && m.w.broken == nil {
		m.w.broken = fmt.Errorf("an earlier change failed: %w", err)
	}
	return err
}

// Granule is the cluster size: new data is placed in whole clusters.
func (m *Image) Granule() int64 { return m.cluster() }

// Reserve sees to it that the host file can grow by what so many bytes in so
// many pieces need at most: the data, an L2 table for each piece as far as there
// are that many, and refcounts.
func (m *Image) Reserve(bytes int64, pieces int) error {
	if err := m.ready(); err != nil {
		return err
	}
	clusters := (bytes+m.cluster()-1)>>m.clusterBits + 1
	clusters += min(clusters, int64(pieces)+(bytes>>m.clusterBits)/m.l2Entries()+1, m.h.l1Entries()) // L2 tables
	clusters -= min(clusters, m.w.refs.freeBelow())
	clusters += 2*(clusters/m.refEntries()+2) + clusters/m.refEntries()/m.l2Entries()
	start := m.w.refs.end() << m.clusterBits
	m.w.filled = start + clusters<<m.clusterBits
	if err := m.f.Reserve(start, clusters<<m.clusterBits); err != nil {
		return errors.Join(err, m.trim()) // it may have got a part
	}
	return nil
}

// Relocate lets Place move clusters that it could overwrite: new ones in a row
// share extents in one piece.
func (m *Image) Relocate(yes bool) {
	if m.w != nil {
		m.w.moving = yes
	}
}

// Place finds room for the pieces. Clusters that nobody else refers to are
// overwritten; others get a new place, contiguous as far as there is room.
func (m *Image) Place(pieces []Piece) ([]Piece, error) {
	if err := m.ready(); err != nil {
		return nil, err
	}
	out := make([]chain.Piece, 0, len(pieces))
	for _, p := range pieces {
		var err error
		if out, err = m.place(out, p); err != nil {
			return nil, m.fail(err)
		}
	}
	return out, nil
}

func (m *Image) place(out []chain.Piece, p chain.Piece) ([]chain.Piece, error) {
	if err := m.checkAligned(p.Offset, p.Length); err != nil {
		return nil, err
	}
	for off, end := p.Offset, p.Offset+p.Length; off < end; {
		host, n, err := m.placeSome(off, end)
		if err != nil {
			return nil, err
		}
		n = min(n, end-off)
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == off && out[k].Host+out[k].Length == host {
			out[k].Length += n
		} else {
			out = append(out, chain.Piece{Offset: off, Length: n, Host: host})
		}
		off += n
	}
	return out, nil
}

// checkAligned wants whole clusters, but at the end of the disk.
func (m *Image) checkAligned(off, n int64) error {
	mask := m.cluster() - 1
	if off < 0 || n <= 0 || off&mask != 0 || off+n > m.h.Size || (off+n)&mask != 0 && off+n != m.h.Size {
		return fmt.Errorf("qcow2: place %d+%d: not in whole clusters of the disk", off, n)
	}
	return nil
}

// placeSome finds a place for the cluster at off and as many after it, before
// end, as go on there.
func (m *Image) placeSome(off, end int64) (host, n int64, err error) {
	e, err := m.entry(off)
	if err != nil {
		return 0, 0, err
	}
	if stays, err := m.stays(e); err != nil || stays {
		if full := m.full(e); full != e {
			m.change(off, full)
		}
		return e.host(), m.cluster(), err
	}
	want, err := m.homeless(off, end)
	if err != nil {
		return 0, 0, err
	}
	first, got, err := m.take(want)
	if err != nil {
		return 0, 0, err
	}
	host = first << m.clusterBits
	for i := range got {
		if err := m.move(off+i<<m.clusterBits, host+i<<m.clusterBits); err != nil {
			return 0, 0, err
		}
	}
	return host, got << m.clusterBits, m.clearTail(off, host, got)
}

// stays tells whether new data of the cluster goes where the old is.
func (m *Image) stays(e entry) (bool, error) {
	if m.w.moving {
		return false, nil
	}
	return m.mine(e)
}

// mine tells whether the entry has a standard cluster of its own.
func (m *Image) mine(e entry) (bool, error) {
	if !m.allocated(e) {
		return false, nil
	}
	n, err := m.w.refs.get(e.host() >> m.clusterBits)
	return n == 1, err
}

// full is the entry with all of its cluster as data.
func (m *Image) full(e entry) entry {
	e.desc = e.desc&entryOffset | entryCopied
	if m.extended {
		e.bitmap = 1<<subclusters - 1
	}
	return e
}

// homeless counts the clusters from off on, before end, that need a new place.
func (m *Image) homeless(off, end int64) (n int64, err error) {
	for at := off; at < end; at += m.cluster() {
		e, err := m.entry(at)
		if err != nil {
			return 0, err
		}
		if stays, err := m.stays(e); err != nil || stays {
			return n, err
		}
		n++
	}
	return n, nil
}

// take gets up to want free clusters in a row.
func (m *Image) take(want int64) (first, got int64, err error) {
	return m.w.refs.take(want)
}

// move gives the cluster of the disk at off a new place; the old one is freed.
func (m *Image) move(off, host int64) error {
	old, err := m.entry(off)
	if err != nil {
		return err
	}
	m.free(old)
	m.change(off, m.full(entry{desc: uint64(host)}))
	return nil
}

func (m *Image) change(off int64, e entry) {
	m.w.changes = append(m.w.changes, change{off >> m.clusterBits, e})
}

// free notes what old refers to: it is given back after Flush.
func (m *Image) free(old entry) {
	if old.compressed() || m.allocated(old) {
		m.w.freed = append(m.w.freed, old)
	}
}

// clearTail zeroes what the last of n clusters at host has beyond the end of the
// disk: a disk that grows later must not find old data there.
func (m *Image) clearTail(off, host, n int64) error {
	over := off + n<<m.clusterBits - m.h.Size
	if over <= 0 {
		return nil
	}
	m.w.grow = max(m.w.grow, host+n<<m.clusterBits)
	return m.f.Punch(host+n<<m.clusterBits-over, over)
}

// Zero makes clusters read as zeros. Holes become zeros of their own even in an
// image without a backing file: it may be about to get one. Data becomes a hole
// there. Version 2 has no zero flag and needs clusters of zeros.
func (m *Image) Zero(off, n int64) error {
	if err := m.ready(); err != nil {
		return err
	}
	if err := m.checkAligned(off, n); err != nil {
		return err
	}
	for at, end := off, off+n; at < end; {
		next, err := m.zeroSome(at, end)
		if err != nil {
			return m.fail(err)
		}
		at = next
	}
	return nil
}

// zeroSome does it for one cluster.
func (m *Image) zeroSome(off, end int64) (next int64, err error) {
	old, err := m.entry(off)
	if err != nil {
		return 0, err
	}
	next = min(off+m.cluster(), end)
	zero := m.zeroEntry(m.h.BackingFile == "" && !m.hasHole(old))
	if m.version < 3 && zero != (entry{}) {
		return next, m.zeroData(off, next-off)
	}
	if zero != old {
		m.free(old)
		m.change(off, zero)
	}
	return next, nil
}

// hasHole tells whether anything below would show through the cluster.
func (m *Image) hasHole(e entry) bool {
	if m.extended && !e.compressed() {
		return (e.bitmap|e.bitmap>>subclusters)&allocatedSubclusters != allocatedSubclusters
	}
	return m.kind(e) == chain.Hole
}

// zeroEntry is the entry of a cluster that reads as zeros and takes no space.
func (m *Image) zeroEntry(hole bool) entry {
	switch {
	case hole:
		return entry{}
	case m.extended:
		return entry{bitmap: (1<<subclusters - 1) << subclusters}
	}
	return entry{desc: entryZero}
}

// zeroData places clusters and makes them zeros.
func (m *Image) zeroData(off, n int64) error {
	placed, err := m.place(nil, chain.Piece{Offset: off, Length: n})
	if err != nil {
		return err
	}
	for _, p := range placed {
		if err := m.f.Punch(p.Host, p.Length); err != nil {
			return err
		}
		m.w.grow = max(m.w.grow, p.Host+p.Length)
	}
	return nil
}
