package qcow2

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The snapshot table as it is changed: entries that stay are kept to the byte, with what
// this package does not know of them.

const (
	maxSnapshotName  = 255 // QEMU's buffers
	newSnapshotExtra = extraIcountEnd
)

// snapshotEntries are the bytes of the entries, without what fills them up.
func (m *Image) snapshotEntries() ([][]byte, error) {
	var entries [][]byte
	at := m.h.SnapshotsOffset
	for range m.h.Snapshots {
		var b [minSnapshotLen]byte
		at = roundUp(at, extAlign)
		if err := readFull(m.f, b[:], at, snapshotTable); err != nil {
			return nil, err
		}
		be := binary.BigEndian
		n := minSnapshotLen + int64(be.Uint32(b[offSnapshotExtra:])) + int64(be.Uint16(b[offSnapshotID:])) + int64(be.Uint16(b[offSnapshotName:]))
		if at+n-m.h.SnapshotsOffset > min(maxSnapshotBytes, maxListedBytes) {
			return nil, malformed(at, snapshotTable, "longer than 64 MiB")
		}
		e := make([]byte, n)
		if err := readFull(m.f, e, at, snapshotTable); err != nil {
			return nil, err
		}
		entries, at = append(entries, e), at+n
	}
	return entries, nil
}

// joinEntries is the table that has these entries.
func joinEntries(entries [][]byte) []byte {
	var table []byte
	for _, e := range entries {
		table = append(table, make([]byte, roundUp(int64(len(table)), extAlign)-int64(len(table)))...)
		table = append(table, e...)
	}
	return table
}

// encodeSnapshot is the entry of a snapshot without saved memory.
func encodeSnapshot(s Snapshot) []byte {
	be := binary.BigEndian
	b := make([]byte, minSnapshotLen+newSnapshotExtra)
	be.PutUint64(b, uint64(s.l1.offset))
	be.PutUint32(b[offSnapshotL1Size:], uint32(s.l1.count))
	be.PutUint16(b[offSnapshotID:], uint16(len(s.ID)))
	be.PutUint16(b[offSnapshotName:], uint16(len(s.Name)))
	be.PutUint32(b[offSnapshotSeconds:], uint32(s.Seconds))
	be.PutUint32(b[offSnapshotNanos:], uint32(s.Nanoseconds))
	be.PutUint32(b[offSnapshotExtra:], newSnapshotExtra)
	be.PutUint64(b[minSnapshotLen+offExtraSize:], uint64(s.Size))
	be.PutUint64(b[minSnapshotLen+offExtraIcount:], uint64(s.Icount))
	return append(append(b, s.ID...), s.Name...)
}

// newSnapshot is the one that is to be taken: its ID is one more than the highest.
func (m *Image) newSnapshot(name string, now time.Time) (Snapshot, error) {
	s := Snapshot{Name: name, Seconds: now.Unix(), Nanoseconds: int64(now.Nanosecond()), Size: m.h.Size}
	if name == "" || len(name) > maxSnapshotName || strings.ContainsRune(name, 0) {
		return s, fmt.Errorf("qcow2: a snapshot's name has 1 to %d bytes, and no NUL", maxSnapshotName)
	}
	list, err := m.Snapshots()
	if err != nil {
		return s, err
	}
	if len(list) >= maxSnapshots {
		return s, unsupported(fmt.Sprintf("more than %d snapshots", maxSnapshots))
	}
	var last uint64
	for _, old := range list {
		if id, err := strconv.ParseUint(old.ID, 10, 32); err == nil {
			last = max(last, id)
		}
	}
	s.ID = strconv.FormatUint(last+1, 10)
	return s, nil
}

// placeTable writes a table, or what one leads to, behind all that is in use; nothing refers to it
// yet. Nothing has the offset 0.
func (m *Image) placeTable(b []byte) (off int64, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	whole := make([]byte, roundUp(int64(len(b)), m.cluster()))
	copy(whole, b)
	first, err := m.w.refs.takeRow(int64(len(whole)) >> m.clusterBits)
	if err != nil {
		return 0, err
	}
	if err := m.f.Reserve(first<<m.clusterBits, int64(len(whole))); err != nil {
		return 0, err
	}
	_, err = m.f.WriteAt(whole, first<<m.clusterBits)
	return first << m.clusterBits, err
}

// switchTables lets the header name new tables, which are durable then: it is in one sector.
// The former snapshot table is given up.
func (m *Image) switchTables(h Header) error {
	if err := m.w.refs.flush(); err != nil {
		return err
	}
	var length int64
	if h.SnapshotsOffset != m.h.SnapshotsOffset && m.h.Snapshots > 0 {
		entries, err := m.snapshotEntries()
		if err != nil {
			return err
		}
		length = int64(len(joinEntries(entries)))
	}
	old := m.h.SnapshotsOffset
	h.RefcountTableOffset, h.RefcountTableClusters = m.h.RefcountTableOffset, m.h.RefcountTableClusters
	if err := m.writeHeader(h); err != nil {
		return err
	}
	return m.dropRow(old, length)
}

// dropRow counts the clusters of a table once less.
func (m *Image) dropRow(off, length int64) error {
	for at := off; at < off+length; at += m.cluster() {
		if _, err := m.w.refs.drop(at >> m.clusterBits); err != nil {
			return err
		}
	}
	return nil
}
