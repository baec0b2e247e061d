package qcow2

import (
	"fmt"
	"strings"
	"testing"
)

// counts leaves out of a result what qemu-img does not say.
func (r CheckResult) counts() CheckResult {
	r.Problems, r.ProblemCount, r.ours, r.misplaced = nil, 0, 0, 0
	return r
}

func (r CheckResult) describe() string {
	var b strings.Builder
	for _, p := range r.Problems[:min(len(r.Problems), 20)] {
		fmt.Fprintf(&b, "  %v\n", p)
	}
	return fmt.Sprintf("%+v\n%s", r.counts(), b.String())
}

func wantSameCounts(t *testing.T, m specimen) {
	want, ok := m.qemuCheck(t)
	if !ok {
		t.Fatal("qemu-img gave up")
	}
	got, err := m.check(t, RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.counts()) != fmt.Sprint(want) {
		t.Errorf("got %s\nqemu %+v", got.describe(), want)
	}
	image := m.load(t)
	checkVerifyAgrees(t, newCheckMem(image), got)
	if sound := want.Corruptions == 0; sound == mustRead(t, image).Dirty() {
		t.Errorf("%+v: should it be dirty?", want)
	}
}
