package qcow2

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// An entry of the snapshot table ("Snapshots"). Entries begin at multiples of
// 8 bytes.
//
//	 0 l1_table_offset    8 l1_size       12 id_length       14 name_length
//	16 time              24 guest clock   32 vm_state_size   36 extra_data_size
//	40 extra data, ID, name
const (
	offSnapshotL1Size = 8
	offSnapshotID     = 12
	offSnapshotName   = 14
	offSnapshotExtra  = 36

	maxSnapshotExtra   = 1024
	maxSnapshotBytes   = 1024 * maxSnapshots
	minSnapshotExtraV3 = 16
)

// snapshotL1 is an L1 table of an internal snapshot.
type snapshotL1 struct {
	offset  int64
	entries int64
	at      int64 // of the snapshot table entry
}

// snapshots reports the snapshot table and the L1 tables that it names, and
// remembers their L2 tables.
func (w *walker) snapshots() error {
	if w.h.Snapshots == 0 {
		return nil
	}
	if w.l.dataFile {
		if err := w.wrong(refSnapshotTable, offSnapshots, "snapshots in an image with a data file"); err != nil {
			return err
		}
	}
	w.shared = newClusterCounts(w.l, (w.end-1)>>w.l.clusterBits+1)
	tables, length, err := w.snapshotTable()
	if err != nil {
		return err
	}
	if _, err := w.refer(&ref{
		kind: refSnapshotTable, offset: w.h.SnapshotsOffset, length: length, at: offSnapshotsTable, times: 1,
	}); err != nil {
		return err
	}
	return w.snapshotL1s(tables)
}

// snapshotTable reads the table. length is what it takes in the file.
func (w *walker) snapshotTable() (tables []snapshotL1, length int64, err error) {
	section := io.NewSectionReader(w.r, w.h.SnapshotsOffset, w.size-w.h.SnapshotsOffset)
	r := bufio.NewReaderSize(section, usagePiece)
	for i := range w.h.Snapshots {
		pad := -length & 7
		at := w.h.SnapshotsOffset + length + pad
		s, n, err := w.snapshot(r, pad, at)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, 0, w.fatal(refSnapshotTable, at, reasonCut)
		}
		if length += pad + n; err == nil && length > maxSnapshotBytes {
			err = w.fatal(refSnapshotTable, at, "longer than 64 MiB")
		}
		if err != nil {
			return nil, 0, err
		}
		if tables == nil {
			tables = make([]snapshotL1, 0, w.h.Snapshots-i)
		}
		tables = append(tables, s)
	}
	return tables, length, nil
}

// snapshot reads the entry at offset at, after some padding.
func (w *walker) snapshot(r *bufio.Reader, pad, at int64) (s snapshotL1, n int64, err error) {
	var b [minSnapshotLen]byte
	if _, err := r.Discard(int(pad)); err != nil {
		return s, 0, err
	}
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return s, 0, err
	}
	extra := int64(binary.BigEndian.Uint32(b[offSnapshotExtra:]))
	if extra > maxSnapshotExtra {
		return s, 0, w.fatal(refSnapshotTable, at, "more than 1024 bytes of extra data")
	}
	if w.h.Version >= 3 && extra < minSnapshotExtraV3 {
		if err := w.wrong(refSnapshotTable, at, "an entry without 16 bytes of extra data"); err != nil {
			return s, 0, err
		}
	}
	rest := extra + int64(binary.BigEndian.Uint16(b[offSnapshotID:])) +
		int64(binary.BigEndian.Uint16(b[offSnapshotName:]))
	_, err = r.Discard(int(rest))
	s = snapshotL1{
		offset:  int64(binary.BigEndian.Uint64(b[:])),
		entries: int64(binary.BigEndian.Uint32(b[offSnapshotL1Size:])),
		at:      at,
	}
	return s, minSnapshotLen + rest, err
}

// snapshotL1s reports the L1 tables. Together they cannot be larger than the
// file, unless they overlap: then they are not read, for that could take for ever.
func (w *walker) snapshotL1s(tables []snapshotL1) error {
	room := w.end + w.l.cluster()
	for _, s := range tables {
		length := s.entries * l1EntryLen
		reason := ""
		switch {
		case length == 0:
			continue
		case s.offset == 0:
			reason = reasonHeader
		case s.offset&(w.l.cluster()-1) != 0:
			reason = "offset is not aligned"
		case length > maxL1Bytes:
			reason = "larger than 32 MiB"
		}
		if reason != "" {
			if err := w.wrong(refSnapshotL1, s.at, reason); err != nil {
				return err
			}
			continue
		}
		if room -= length; room < 0 {
			return w.fatal(refSnapshotL1, s.at, "the tables overlap each other")
		}
		if err := w.snapshotL1(s); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) snapshotL1(s snapshotL1) error {
	length := s.entries * l1EntryLen
	inside, err := w.refer(&ref{kind: refSnapshotL1, offset: s.offset, length: length, at: s.at, times: 1})
	if err != nil || !inside {
		return err
	}
	return w.words(s.offset, length, func(at int64, entry uint64) error {
		return w.l1Entry(at, entry, 0)
	})
}
