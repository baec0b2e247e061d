package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// CompactTo writes the image f anew into the empty file to, with all that it has: its
// internal snapshots with their names, IDs, dates, memory and other data, its bitmaps, its
// backing name, and what this package does not know in its header. All that is in use lies
// in a row there; what Compact gives back is left out. It is durable when CompactTo returns;
// before that the file may be anything. f is only read.
//
// A *RefusedError has written nothing: the image is not sound, its data is encrypted by
// where it lies in the file, or it is in a data file, which two images cannot share.
func CompactTo(ctx context.Context, to, f File, o CompactOptions) (CompactResult, error) {
	c, err := newCompaction(vfs.Full(f), o)
	if err == nil {
		err = c.refuseToMove()
	}
	if err != nil {
		return CompactResult{}, err
	}
	if err := c.plan(ctx); err != nil || o.DryRun {
		return c.res, err
	}
	m := &mover{compaction: c, to: vfs.Full(to)}
	if err := m.run(ctx); err != nil {
		return c.res, err
	}
	info, err := m.to.Stat()
	c.res.SizeAfter, c.res.AllocatedAfter = info.Size, info.Allocated
	return c.res, err
}

func (c *compaction) refuseToMove() error {
	reason := ""
	switch {
	case c.h.Encrypted():
		reason = "it is encrypted, and where data lies in the file is part of the encryption"
	case c.l.dataFile:
		reason = "its data is in another file, which would belong to two images"
	default:
		return nil
	}
	return &chain.RefusedError{Path: c.f.Path(), Reason: reason + ": only the image itself can be made compact, in place"}
}

// A mover writes what is in use to a new file. The order of the clusters stays, so that
// tables of several clusters and compressed clusters remain in one piece.
type mover struct {
	*compaction
	to    vfs.File
	place [][]int32 // where clusters go, by page; 0 for those that go nowhere, and the header
	next  int32     // the first cluster that is free in the new file
}

func (m *mover) run(ctx context.Context) error {
	if err := m.keepAll(); err != nil {
		return err
	}
	m.assign()
	if err := m.copyAll(ctx); err != nil {
		return err
	}
	if err := m.relocate(); err != nil {
		return err
	}
	h, err := m.header()
	if err == nil {
		err = m.count(h)
	}
	if err != nil {
		return err
	}
	return m.finish()
}

// keepAll counts what goes to the new file. Refcounts do not: they are counted anew.
func (m *mover) keepAll() error {
	m.kept = newClusterCounts(m.l, m.counts.clusters)
	return m.references(func(r *ref, dropped bool, _ entry) error {
		if !dropped {
			m.kept.add(r)
		}
		return nil
	})
}

// references visits all references but those of refcounts.
func (m *mover) references(visit func(r *ref, dropped bool, next entry) error) error {
	_, err := usage(m.f, m.h, m.size, func(r *ref) error {
		if r.kind == refRefcountTable || r.kind == refRefcountBlock {
			return nil
		}
		next, dropped, err := m.compaction.next(r)
		if err != nil {
			return err
		}
		return visit(r, dropped, next)
	})
	return err
}

// assign puts the clusters in a row.
func (m *mover) assign() {
	m.place = make([][]int32, len(m.kept.pages))
	for i, page := range m.kept.pages {
		if page == nil {
			continue
		}
		m.place[i] = make([]int32, len(page))
		for k, n := range page {
			if n.references() > 0 {
				m.place[i][k] = m.next
				m.next++
			}
		}
	}
}

// moved is where byte off of a cluster in use goes.
func (m *mover) moved(off int64) int64 {
	i := off >> m.l.clusterBits
	page := m.place[i>>countPageBits]
	return int64(page[i&(1<<countPageBits-1)])<<m.l.clusterBits | off&(m.l.cluster()-1)
}

// copyAll copies all clusters, as long as they lie in a row.
func (m *mover) copyAll(ctx context.Context) error {
	start := int64(-1)
	for i := range m.kept.clusters + 1 {
		used := m.kept.at(i).references() > 0
		if used && start < 0 {
			start = i
		}
		full := start >= 0 && (i-start)<<m.l.clusterBits >= copyPiece
		if start < 0 || used && !full {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.copyRow(start, i); err != nil {
			return err
		}
		if start = -1; used {
			start = i
		}
	}
	return growTo(m.to, m.end())
}

// end is how long the new file is without refcounts.
func (m *mover) end() int64 { return int64(m.next) << m.l.clusterBits }

// copyPiece is how much is copied at once, in bytes.
const copyPiece = 16 << 20

// copyRow copies clusters in a row; the file may end within the last of them.
func (m *mover) copyRow(first, end int64) error {
	from := first << m.l.clusterBits
	n := min(end<<m.l.clusterBits, m.size) - from
	if n <= 0 {
		return nil
	}
	_, err := m.to.Copy(m.moved(from), m.f, from, n)
	m.told(n)
	return err
}

// relocate writes into all tables where what they lead to lies now.
func (m *mover) relocate() error {
	p := newPatcher(m.to, m.end(), m.l)
	mask := m.l.cluster() - 1
	err := m.references(func(r *ref, dropped bool, next entry) error {
		change := m.field(r, dropped, next)
		if change == nil {
			return nil
		}
		at := m.moved(r.at)
		return p.patch(at&^mask, func(b []byte) { change(b[at&mask:]) })
	})
	if err != nil {
		return err
	}
	return p.write()
}

// field returns what writes the field that leads to something; nil where the header does.
func (m *mover) field(r *ref, dropped bool, next entry) func(b []byte) {
	switch r.kind {
	case refData, refCompressed:
		if !dropped {
			next = m.movedEntry(r)
		}
		return func(b []byte) { m.l.putEntry(b, 0, next) }
	case refL2, refSnapshotL1, refBitmapTable, refBitmapData:
		return func(b []byte) {
			word := binary.BigEndian.Uint64(b)
			binary.BigEndian.PutUint64(b, word&^entryOffset|uint64(m.moved(r.offset)))
		}
	}
	return nil
}

func (m *mover) movedEntry(r *ref) entry {
	e := r.entry
	if !e.compressed() {
		e.desc = e.desc&^entryOffset | uint64(m.moved(r.offset))
		return e
	}
	x := 62 - (m.l.clusterBits - 8)
	e.desc = e.desc&^(1<<x-1) | uint64(m.moved(r.offset))
	return e
}

// header changes the header: tables are elsewhere, and of refcounts there are none yet.
func (m *mover) header() (Header, error) {
	h := m.h
	h.L1TableOffset, h.SnapshotsOffset = m.movedTable(h.L1TableOffset, h.L1Size), m.movedTable(h.SnapshotsOffset, h.Snapshots)
	h.BitmapDirectoryOffset = m.movedTable(h.BitmapDirectoryOffset, h.Bitmaps)
	h.RefcountTableOffset, h.RefcountTableClusters = 0, 0
	h.Autoclear &= autoclearBitmaps
	first := make([]byte, m.l.cluster())
	if err := readPadded(m.to, first, 0, m.end()); err != nil {
		return h, err
	}
	h.encode((*[headerLen]byte)(first))
	for _, e := range h.Extensions {
		if e.Type == ExtensionBitmaps && h.Bitmaps > 0 {
			binary.BigEndian.PutUint64(first[e.Offset+offBitmapsDirOffset:], uint64(h.BitmapDirectoryOffset))
		}
	}
	_, err := m.to.WriteAt(first, 0)
	return h, err
}

// movedTable is where a table goes that has entries.
func (m *mover) movedTable(off int64, entries uint32) int64 {
	if entries == 0 {
		return 0
	}
	return m.moved(off)
}

// count makes refcounts for all that is there.
func (m *mover) count(h Header) error {
	c := &checker{f: m.to, h: h, l: m.l, size: m.end(), nearest: math.MaxInt64, counts: newClusterCounts(m.l, int64(m.next))}
	built, err := (&repairer{checker: c, all: true, lower: true}).rebuild()
	if err == nil && !built {
		err = unsupported("a refcount table of more than 8 MiB")
	}
	return err
}

// finish sets copied flags where a cluster has become one state's alone, and looks once more.
func (m *mover) finish() error {
	res, err := check(m.to, RepairAll)
	if err == nil && res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		err = fmt.Errorf("qcow2: a check finds %d errors and %d leaks in the new image", res.Corruptions+res.CheckErrors, res.Leaks)
	}
	if err != nil {
		return err
	}
	return m.to.Sync()
}
