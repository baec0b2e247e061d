package qcow2

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// guest is a hash of the disk as QEMU reads it, with zeros where it cannot; ""
// if it does not open the image.
func (s specimen) guest(t *testing.T) string {
	t.Helper()
	out := filepath.Join(s.dir, s.file+".guest")
	args := append([]string{"convert", "--salvage", "-O", "raw"}, s.args()...)
	cmd := exec.Command("qemu-img", append(args, out)...)
	cmd.Dir = s.dir
	if cmd.Run() != nil {
		return ""
	}
	b := load(t, out)
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// kept tells whether there is something that Check does not repair.
func (r CheckResult) kept() bool {
	return r.misplaced > 0 || slices.ContainsFunc(r.Problems, func(p Problem) bool {
		return strings.HasSuffix(p.Reason, "more than a refcount can tell")
	})
}

// wantGoodRepair: what RepairAll says to remain is what qemu-img finds, and
// nothing that qemu-img repairs but for entries that lead to a wrong place; the
// guest reads what it has read before.
func wantGoodRepair(t *testing.T, m specimen, image []byte) {
	before, err := m.check(t, RepairNone)
	if err != nil {
		return
	}
	guest := m.guest(t)
	qemu, repaired := m.copyTo(t, "by-qemu", image).qemuCheck(t, "-r", "all")
	got, err := m.check(t, RepairAll)
	if err != nil {
		t.Fatal(err)
	}
	story := fmt.Sprintf("before %safter %sqemu %+v, %v", before.describe(), got.describe(), qemu, repaired)
	after, checked := m.qemuCheck(t)
	same, ok := got.asQEMU()
	same.CorruptionsFixed, same.LeaksFixed = 0, 0
	if checked && ok && same.CheckErrors == 0 && fmt.Sprint(same) != fmt.Sprint(after) {
		t.Errorf("%s\nthen qemu finds %+v", story, after)
	}
	if m.guest(t) != guest {
		t.Errorf("the guest reads something else\n%s", story)
	}
	if repaired && got.Corruptions+got.Leaks > 0 && !got.kept() {
		t.Errorf("something remains\n%s", story)
	}
	overlaps := slices.ContainsFunc(got.Problems, func(p Problem) bool { return p.Reason == reasonOverlap })
	if got.Corruptions > before.Corruptions && !overlaps || got.CheckErrors > before.CheckErrors {
		t.Errorf("worse\n%s", story)
	}
}

// wantLeaksRepaired: RepairLeaks does what qemu-img -r leaks does where all
// entries are right, and nothing where not.
func wantLeaksRepaired(t *testing.T, m specimen, image []byte) {
	before, err := m.check(t, RepairNone)
	if err != nil || before.Leaks == 0 {
		return
	}
	qemu, ok := m.copyTo(t, "by-qemu", image).qemuCheck(t, "-r", "leaks")
	got, err := m.check(t, RepairLeaks)
	if err != nil {
		t.Fatal(err)
	}
	story := fmt.Sprintf("before %safter %sqemu %+v, %v", before.describe(), got.describe(), qemu, ok)
	if mapping(t, m.load(t)) != mapping(t, image) {
		t.Errorf("the guest sees something else\n%s", story)
	}
	if got.Corruptions > before.Corruptions || got.CheckErrors > before.CheckErrors {
		t.Errorf("worse\n%s", story)
	}
	if before.misplaced > 0 && got.Leaks != before.Leaks {
		t.Errorf("repaired although entries lead to wrong places\n%s", story)
	}
	if ok && before.misplaced == 0 && !forgetful(mustRead(t, image)) &&
		!sameButFlags(got, qemu, before) {
		t.Errorf("not as QEMU\n%s", story)
	}
}

// forgetful tells whether qemu-img -r loses all snapshots: it does so when
// it clears unknown features before it has read the snapshot table.
func forgetful(h Header) bool {
	return h.Autoclear&^(autoclearBitmaps|autoclearDataFileRaw) != 0
}

// sameButFlags compares repairs of leaks. QEMU leaves all flags as they are where
// other things are wrong, and counts those that its own repair made wrong.
func sameButFlags(got, qemu, before CheckResult) bool {
	same, ok := got.asQEMU()
	same.CorruptionsFixed, qemu.CorruptionsFixed = 0, 0
	if same.Corruptions < qemu.Corruptions && before.Corruptions > 0 {
		same.Corruptions = qemu.Corruptions
	}
	return !ok || fmt.Sprint(same) == fmt.Sprint(qemu)
}
