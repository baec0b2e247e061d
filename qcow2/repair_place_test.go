package qcow2

import (
	"encoding/binary"
	"slices"
	"testing"
)

// unblocked is an image of 512-byte clusters without its refcount block.
func unblocked(t *testing.T) (image []byte, p places) {
	t.Helper()
	image = raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 60, steps: []string{"write -P 1 @0 @30"}}).load(t)
	p = explore(t, image)
	put64(image, int(p.h.RefcountTableOffset), 0)
	return image, p
}

func mustCheck(t *testing.T, m *checkMem, repair Repair) CheckResult {
	t.Helper()
	res, err := Check(m, repair)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestNewRefcountsGoBehindTheEnd(t *testing.T) {
	image, p := unblocked(t)
	m := newCheckMem(slices.Clone(image))
	if res := mustCheck(t, m, RepairAll); res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Error(res.describe())
	}
	if h := mustRead(t, m.b); h.RefcountTableOffset < p.size || mapping(t, m.b) != mapping(t, image) {
		t.Errorf("%+v", h)
	}
}

func TestNewRefcountsOnADeviceGoToAFreePlace(t *testing.T) {
	image, p := unblocked(t)
	m := newCheckMem(append(slices.Clone(image), make([]byte, 16<<9)...))
	m.device = true
	if res := mustCheck(t, m, RepairAll); res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Error(res.describe())
	}
	if h := mustRead(t, m.b); h.RefcountTableOffset == p.h.RefcountTableOffset || mapping(t, m.b) != mapping(t, image) {
		t.Errorf("%+v", h)
	}
}

func TestFullDeviceIsLeftAlone(t *testing.T) {
	image, p := unblocked(t)
	for _, at := range []int64{p.h.RefcountTableOffset, p.blocks[0]} { // no room in their places either
		put64(image, int(p.words[refData][at/512]), uint64(at))
	}
	m := newCheckMem(slices.Clone(image))
	m.device = true
	before := mustCheck(t, m, RepairNone)
	if res := mustCheck(t, m, RepairAll); res.Corruptions != before.Corruptions || m.changes > 0 {
		t.Errorf("%d changes: %s", m.changes, res.describe())
	}
}

// What is missing at the end of a file must not be replaced by refcounts, nor
// look as if it were there.
func TestCutImageIsNotMadeToLookWhole(t *testing.T) {
	for _, cut := range []int{100, 512, 1500} {
		image, _ := unblocked(t)
		image = image[:len(image)-cut]
		m := newCheckMem(slices.Clone(image))
		before := mustCheck(t, m, RepairNone)
		res := mustCheck(t, m, RepairAll)
		if res.misplaced != before.misplaced || res.misplaced == 0 || len(m.b) != len(image) {
			t.Errorf("cut %d: before %safter %s", cut, before.describe(), res.describe())
		}
	}
}

// broken is an image of 512-byte clusters after a change.
func broken(t *testing.T, change func(b []byte, p places)) *checkMem {
	t.Helper()
	image := raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 60, steps: []string{"write -P 1 @0 @30"}}).load(t)
	change(image, explore(t, image))
	return newCheckMem(image)
}

func TestDirtyAndCorruptBitsStandUntilAllIsWell(t *testing.T) {
	for _, whole := range []bool{true, false} {
		m := broken(t, func(b []byte, p places) {
			b[offIncompatible+7] |= incompatDirty | incompatCorrupt
			putRef(b[p.blocks[0]:], 4, 9, 0)
			if !whole {
				b[p.words[refData][3]] |= 1 // a reserved bit
			}
		})
		mustCheck(t, m, RepairAll)
		if h := mustRead(t, m.b); h.Dirty() == whole || h.Corrupt() == whole {
			t.Errorf("sound %v: dirty %v, corrupt %v", whole, h.Dirty(), h.Corrupt())
		}
	}
}

func TestRepairOfLeaksRaisesNothing(t *testing.T) {
	m := broken(t, func(b []byte, p places) {
		putRef(b[p.blocks[0]:], 4, 9, 0)
		putRef(b[p.blocks[0]:], 4, 10, 3)
	})
	mustCheck(t, m, RepairLeaks)
	block := m.b[explore(t, m.b).blocks[0]:]
	if got := []uint64{getRef(block, 4, 9), getRef(block, 4, 10)}; got[0] != 0 || got[1] != 1 {
		t.Errorf("refcounts %d", got)
	}
}

// What an entry with a wrong offset should lead to may have leaked.
func TestLeaksStayBesideMisplacedEntries(t *testing.T) {
	for name, rebuild := range map[string]bool{"in place": false, "new blocks": true} {
		m := broken(t, func(b []byte, p places) {
			put64(b, int(p.words[refData][5]), entryCopied|1<<40)
			putRef(b[p.blocks[0]:], 4, 15, 7)
			if rebuild {
				put64(b, int(p.h.RefcountTableOffset)+8*20, 1)
			}
		})
		before := mustCheck(t, m, RepairNone)
		after := mustCheck(t, m, RepairAll)
		if before.Leaks == 0 || after.Leaks < before.Leaks || after.badRefcounts() {
			t.Errorf("%s: before %safter %s", name, before.describe(), after.describe())
		}
	}
}

// badRefcounts tells whether there is a problem with refcount blocks.
func (r CheckResult) badRefcounts() bool {
	return slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.What == refRefcountBlock.String() })
}

// A table that is guest data as well is not touched.
func TestFlagsAreNotWrittenIntoGuestData(t *testing.T) {
	for _, kind := range []refKind{refL2, refL1} {
		m := broken(t, func(b []byte, p places) {
			table := map[refKind]int64{refL1: p.h.L1TableOffset, refL2: p.words[refData][0] &^ 511}[kind]
			put64(b, int(p.words[refData][3]), uint64(table))
			b[p.words[refData][7]] = 0 // no copied flag
			b[p.words[refL2][0]] = 0
			putRef(b[p.blocks[0]:], 4, table/512, 2)
		})
		image := slices.Clone(m.b)
		before, after := mustCheck(t, m, RepairNone), mustCheck(t, m, RepairAll)
		if mapping(t, m.b) != mapping(t, image) {
			t.Errorf("%v: before %safter %s", kind, before.describe(), after.describe())
		}
	}
}

func TestFlagsOfADataFileAreSet(t *testing.T) {
	image := raise(t, t.TempDir(), species{name: "disk", cluster: 4096, size: 600, options: "data_file=disk.raw", steps: everyday}).load(t)
	l2 := binary.BigEndian.Uint64(image[mustRead(t, image).L1TableOffset:]) & entryOffset
	image[l2+8*30] = 0 // no copied flag
	m := newCheckMem(image)
	before, after := mustCheck(t, m, RepairNone), mustCheck(t, m, RepairAll)
	if before.Corruptions != 1 || after.Corruptions != 0 {
		t.Errorf("before %safter %s", before.describe(), after.describe())
	}
}

// Neither an entry that is not aligned is changed, nor what a table that is not
// aligned seems to hold: that may be anything.
func TestUnalignedPlacesAreLeftAlone(t *testing.T) {
	s := species{name: "disk", cluster: 4 << 10, size: 60, steps: []string{"write -P 1 @0 @30"}}
	image := raise(t, t.TempDir(), s).load(t)
	p := explore(t, image)
	entry := p.words[refData][4]
	put64(image, int(entry), 9<<12|512)
	l2 := p.words[refData][0] &^ 4095
	wantUnchanged(t, image, entry, entry+8)
	put64(image, int(p.words[refL2][0]), entryCopied|uint64(l2+512))
	put64(image, int(l2+4096+16), 12<<12) // beyond the table
	for _, at := range p.words[refData] {
		put64(image, int(at), 0)
	}
	wantUnchanged(t, image, l2, l2+8192)
}

func wantUnchanged(t *testing.T, image []byte, from, end int64) {
	t.Helper()
	m := newCheckMem(slices.Clone(image))
	mustCheck(t, m, RepairAll)
	if string(m.b[from:end]) != string(image[from:end]) {
		t.Errorf("%x became %x", image[from:end], m.b[from:end])
	}
}

// What an entry with reserved bits leads to is no refcount block, and may be anything: the
// refcounts of a leak are not looked for there.
func TestRefcountsAreNotWrittenIntoOtherTables(t *testing.T) {
	for _, bits := range []uint64{0, 1} {
		for _, kind := range []refKind{refL2, refL1} {
			m := broken(t, func(b []byte, p places) {
				table := map[refKind]int64{refL1: p.h.L1TableOffset, refL2: p.words[refData][0] &^ 511}[kind]
				put64(b, int(p.h.RefcountTableOffset), uint64(table)|bits)
			})
			image := slices.Clone(m.b)
			for _, repair := range []Repair{RepairLeaks, RepairAll} {
				before, after := mustCheck(t, m, RepairNone), mustCheck(t, m, repair)
				if before.Leaks+before.Corruptions+before.CheckErrors == 0 || mapping(t, m.b) != mapping(t, image) {
					t.Errorf("%v, %d: before %safter %s", kind, bits, before.describe(), after.describe())
				}
			}
		}
	}
}
