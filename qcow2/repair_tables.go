package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A restorer gives an image its refcount table and its snapshot table again, where the
// header does not lead to them any more, or leads to something that makes no sense.
//
// Snapshots come first: what they need must not be free in new refcounts.
type restorer struct {
	*checker  // of the image without its snapshots, and without refcounts if they are lost
	lost      lostTables
	snapshots uint32 // how many the header tells of

	done []string // for people
	left bool     // clusters of snapshots that were not found may look like leaks

	marked bool // as corrupt, for the time of the repair
}

// lostTables says to which tables the header does not lead.
type lostTables struct{ refcounts, snapshots bool }

// restore does what has to come before a repair. An image whose tables are where they
// should be is not changed.
func (r *restorer) restore(f vfs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, lost, err := readDamagedHeader(f, info.Size)
	if err != nil {
		return err
	}
	r.lost, r.snapshots = lost, h.Snapshots
	h.Snapshots = 0
	r.checker = checkerOf(f, h, info)
	if err := r.restoreSnapshots(); err != nil || !r.lost.refcounts {
		return err
	}
	return r.restoreRefcounts()
}

// readDamagedHeader reads a header that does not lead to a refcount table, or to a
// snapshot table, as ReadHeader reads others. An image without refcounts is one with a
// table of no clusters.
func readDamagedHeader(f io.ReaderAt, size int64) (h Header, lost lostTables, err error) {
	r := &patchedHeader{ReaderAt: f}
	var told [offSnapshotsTable + 8 - offSnapshots]byte // of the snapshot table
	if _, err := f.ReadAt(told[:], offSnapshots); err != nil && size >= headerLen {
		return h, lost, err
	}
	for {
		h, err = ReadHeader(r, size)
		var bad *FormatError
		if errors.As(err, &bad) && !Restorable(bad) {
			return h, lost, err
		}
		switch {
		case bad == nil:
			if lost.refcounts {
				h.RefcountTableOffset, h.RefcountTableClusters = 0, 0
			}
			if lost.snapshots {
				h.Snapshots = binary.BigEndian.Uint32(told[:])
				h.SnapshotsOffset = int64(binary.BigEndian.Uint64(told[offSnapshotsTable-offSnapshots:]))
			}
			return h, lost, err
		case bad.Offset < offSnapshots && !lost.refcounts:
			lost.refcounts = true
			stand, err := standInTable(f)
			if err != nil {
				return h, lost, err
			}
			r.patches = append(r.patches, stand)
		case bad.Offset >= offSnapshots && !lost.snapshots:
			lost.snapshots = true
			r.patches = append(r.patches, patch{offSnapshots, make([]byte, len(told))})
		default:
			return h, lost, err
		}
	}
}

// Restorable tells whether ReadHeader has refused an image for a table that Check makes
// anew, or looks for, with RepairAll.
func Restorable(e *FormatError) bool {
	switch e.Offset {
	case offRefcountTable, offRefcountClusters, offSnapshots, offSnapshotsTable:
		return e.Format == "qcow2"
	}
	return false
}

// standInTable makes a header name cluster 1, which every image has, as refcount table.
func standInTable(f io.ReaderAt) (patch, error) {
	var bits [4]byte
	if _, err := f.ReadAt(bits[:], offClusterBits); err != nil {
		return patch{}, err
	}
	var b [offRefcountClusters + 4 - offRefcountTable]byte
	binary.BigEndian.PutUint64(b[:], 1<<binary.BigEndian.Uint32(bits[:]))
	binary.BigEndian.PutUint32(b[offRefcountClusters-offRefcountTable:], 1)
	return patch{offRefcountTable, b[:]}, nil
}

// A patch is what is read at an offset in place of what is there.
type patch struct {
	off int64
	b   []byte
}

// A patchedHeader is a file that reads as if some of its bytes were others.
type patchedHeader struct {
	io.ReaderAt
	patches []patch
}

func (p *patchedHeader) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	for _, c := range p.patches {
		if from := c.off - off; from >= 0 && from+int64(len(c.b)) <= int64(n) {
			copy(b[from:], c.b)
		}
	}
	return n, err
}

// restoreRefcounts makes a new table for an image that does not lead to one.
func (r *restorer) restoreRefcounts() error {
	if err := certainOfData(r.h); err != nil {
		return err
	}
	c, err := r.recheck()
	if err != nil {
		return err
	}
	if c.unreadable {
		return malformed(offRefcountTable, "refcount_table_offset", "the table is lost, and so is another one: "+c.res.Problems[0].String())
	}
	m := &repairer{checker: c, all: true, lower: c.res.misplaced == 0}
	built, err := m.rebuild()
	if err == nil && !built {
		err = malformed(offRefcountTable, "refcount_table_offset", "the table is lost, and there is no place for a new one")
	}
	r.done = append(r.done, fmt.Sprintf("a new refcount table, at offset %d", m.h.RefcountTableOffset))
	return err
}

// recheck looks at the image again, with its snapshots as they are now.
func (r *restorer) recheck() (*checker, error) {
	info, err := r.f.Stat()
	if err != nil {
		return nil, err
	}
	h, _, err := readDamagedHeader(r.f, info.Size)
	if err != nil {
		return nil, err
	}
	c := checkerOf(r.f, h, info)
	return c, c.run()
}
