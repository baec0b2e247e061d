package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// mapping is what a guest can see of the tables: each entry that leads
// somewhere, without flags, and what is there.
func mapping(t *testing.T, image []byte) string {
	t.Helper()
	h := mustRead(t, image)
	var b bytes.Buffer
	_, err := usage(newCheckMem(image), h, int64(len(image)), func(r *ref) error {
		if r.reason == "" && r.kind.class() != classMeta {
			fmt.Fprintln(&b, r.kind, r.at, r.offset, r.length, r.times, r.active)
		}
		if r.reason == "" && r.kind.class() == classData {
			data := make([]byte, r.length)
			if err := readPadded(bytes.NewReader(image), data, r.offset, int64(len(image))); err != nil {
				return err
			}
			b.Write(data)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return b.String()
}

// FuzzCheck: a check only reads, and little; a repair does not make things
// worse, and what it leaves is what a check finds afterwards.
func FuzzCheck(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image, false)
		f.Add(image, true)
		p := explore(f, image)
		for seed := range uint64(10) {
			b, _ := damage(rand.New(rand.NewPCG(seed, 0)), image, p)
			f.Add(b, seed%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, image []byte, all bool) {
		m := newCheckMem(slices.Clone(image))
		before, err := Check(m, RepairNone)
		if m.changes > 0 || !bytes.Equal(m.b, image) {
			t.Fatal("a check has written")
		}
		if err != nil {
			fuzzLostTables(t, image)
			return
		}
		h := mustRead(t, image)
		if size := int64(len(image)); m.read > 10*size+(maxOddTables+10)*h.ClusterSize()+1<<20 {
			t.Fatalf("%d bytes read of %d", m.read, size)
		}
		checkVerifyAgrees(t, m, before)
		repair := RepairLeaks
		if all {
			repair = RepairAll
		}
		got, err := Check(m, repair)
		if err != nil {
			if !bytes.Equal(m.b, image) {
				t.Fatalf("changed, though refused: %v", err)
			}
			return
		}
		again, err := Check(m, RepairNone)
		if err != nil {
			t.Fatal(err)
		}
		if again.Corruptions != got.Corruptions || again.Leaks != got.Leaks || again.CheckErrors != got.CheckErrors {
			t.Errorf("said to remain %sremains %s", got.describe(), again.describe())
		}
		if len(got.Restored) > 0 && before.misplaced+again.misplaced == 0 && mapping(t, withoutSnapshots(m.b)) != mapping(t, withoutSnapshots(image)) {
			t.Errorf("the guest sees something else\nbefore %safter %s", before.describe(), again.describe())
		}
		if len(got.Restored) > 0 {
			return // before, the check did not come to its end
		}
		if again.Corruptions > before.Corruptions && before.misplaced == 0 || again.CheckErrors > before.CheckErrors {
			t.Errorf("before %safter %s", before.describe(), again.describe())
		}
		if before.misplaced == 0 && mapping(t, m.b) != mapping(t, image) {
			t.Errorf("the guest sees something else\nbefore %safter %s", before.describe(), again.describe())
		}
	})
}

// fuzzLostTables: an image whose header cannot be read is repaired, or stays as it is.
func fuzzLostTables(t *testing.T, image []byte) {
	m := newCheckMem(slices.Clone(image))
	got, err := Check(m, RepairAll)
	if err != nil {
		if !bytes.Equal(m.b, image) && len(got.Restored) == 0 {
			t.Fatalf("changed, though refused: %v", err)
		}
		return
	}
	again, err := Check(m, RepairNone)
	if err != nil || again.Corruptions != got.Corruptions || again.Leaks != got.Leaks || again.CheckErrors != got.CheckErrors {
		t.Errorf("%v: said to remain %sremains %s", err, got.describe(), again.describe())
	}
}
