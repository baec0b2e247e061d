package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// checkVerifyAgrees compares verify with a result of Check for the same
// image: it must refuse all corruptions but missing copied flags.
func checkVerifyAgrees(t *testing.T, m *checkMem, res CheckResult) {
	t.Helper()
	leaks, err := verify(m, mustRead(t, m.b))
	if err == nil && leaks != res.Leaks {
		t.Errorf("verify: %d leaks\ncheck: %s", leaks, res.describe())
	}
	bad := res.CheckErrors
	for _, p := range res.Problems {
		missing := p.Reason == reasonNotCopied || strings.HasSuffix(p.Reason, "does not agree with refcount 1")
		var refcount, references uint64
		n, _ := fmt.Sscanf(p.Reason, "refcount %d, %d references", &refcount, &references)
		leak := n == 2 && refcount > references
		if !missing && !leak {
			bad++
		}
	}
	var format *FormatError
	var unsupported *UnsupportedError
	if res.ProblemCount <= maxProblems && (err != nil) != (bad > 0) ||
		err != nil && !errors.As(err, &format) && !errors.As(err, &unsupported) {
		t.Errorf("verify: %v\ncheck: %s", err, res.describe())
	}
}

func TestVerifyRefusesWhatIsUnsafe(t *testing.T) {
	m := raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 300, steps: slices.Concat(everyday, packed, withSnapshots)})
	image := m.load(t)
	p := explore(t, image)
	l := p.h.layout()
	word := func(kind refKind, i int, change func(v uint64) uint64) func([]byte) {
		return func(b []byte) {
			at := p.words[kind][i]
			binary.BigEndian.PutUint64(b[at:], change(binary.BigEndian.Uint64(b[at:])))
		}
	}
	set := func(bits uint64) func(uint64) uint64 { return func(v uint64) uint64 { return v | bits } }
	lead := func(to int64) func(uint64) uint64 {
		return func(v uint64) uint64 { return v&^entryOffset | uint64(to) }
	}
	refcount := func(of int64, n uint64) func([]byte) {
		return func(b []byte) { putRef(b[p.blocks[0]:], l.refOrder, of/l.cluster(), n) }
	}
	outside := (p.size/512 + 5) * 512
	for _, c := range []struct {
		name, field, reason string
		change              func(b []byte)
	}{
		{"sound", "", "", func([]byte) {}},
		{"L1 reserved bit", "L2 table", "reserved", word(refL2, 0, set(1<<60))},
		{"L1 outside", "L2 table", "outside", word(refL2, 0, lead(outside))},
		{"L1 to the refcount table", "", "overlaps", word(refL2, 0, lead(p.h.RefcountTableOffset))},
		{"L1 flag alone", "L2 table", "leads to the header", word(refL2, 0, func(uint64) uint64 { return entryCopied })},
		{"L2 reserved bit", "cluster", "reserved", word(refData, 0, set(1<<58))},
		{"L2 outside", "cluster", "outside", word(refData, 0, lead(outside))},
		{"L2 to the L1 table", "", "overlaps", word(refData, 0, lead(p.h.L1TableOffset))},
		{"L2 to a refcount block", "", "overlaps", word(refData, 0, lead(p.blocks[0]))},
		{"compressed, to an L1 table", "", "overlaps", word(refCompressed, 0, func(uint64) uint64 { return entryCompressed | uint64(p.h.L1TableOffset) })},
		{"compressed, outside", "compressed", "outside", word(refCompressed, 0, set(1<<50))},
		{"compressed, copied", "compressed", "copied", word(refCompressed, 0, set(entryCopied))},
		{"refcount table reserved bit", "refcount block", "reserved", word(refRefcountBlock, 0, set(1))},
		{"refcount block outside", "refcount block", "outside", word(refRefcountBlock, 0, lead(outside))},
		{"no refcount block", "refcount", "0 for 1", word(refRefcountBlock, 0, func(uint64) uint64 { return 0 })},
		{"header without refcount", "refcount", "0 for 1", refcount(0, 0)},
		{"refcount table without refcount", "refcount", "0 for 1", refcount(p.h.RefcountTableOffset, 0)},
		{"L1 table without refcount", "refcount", "0 for 1", refcount(p.h.L1TableOffset, 0)},
		{"snapshot table without refcount", "refcount", "0 for 1", refcount(p.h.SnapshotsOffset, 0)},
		{"leak of the header", "", "", refcount(0, 9)},
		{"snapshot L1 outside", "snapshot", "outside", word(refSnapshotL1, 0, func(uint64) uint64 { return uint64(outside) })},
		{"snapshot L1 unaligned", "snapshot", "aligned", word(refSnapshotL1, 0, set(256))},
		{"snapshot table unreadable", "snapshot table", "more than 1024", func(b []byte) { b[p.h.SnapshotsOffset+offSnapshotExtra+2] = 5 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := slices.Clone(image)
			c.change(b)
			d := newCheckMem(b)
			_, err := verify(d, mustRead(t, b))
			if (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.field) ||
				err != nil && !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, want %q, %q", err, c.field, c.reason)
			}
			res, err := Check(d, RepairNone)
			if err != nil {
				t.Fatal(err)
			}
			checkVerifyAgrees(t, d, res)
		})
	}
}
