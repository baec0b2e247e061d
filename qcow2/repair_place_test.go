package qcow2

import (
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
