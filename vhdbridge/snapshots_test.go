package vhdbridge

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// node makes a VHD of so many MiB; data is a byte that it has itself, 0 for none.
func node(t *testing.T, dir, name, parent string, mib int64, hidden bool, data byte, at time.Time) {
	t.Helper()
	srtest.Write(t, dir, srtest.Node{Name: name, Parent: parent, Size: mib << 20, Hidden: hidden, Own: []byte{data}, Created: at})
}

// Only what holds exactly what the layer below it holds is a snapshot of that.
func TestSnapshotsAreLeavesWithoutDataOnTheChain(t *testing.T) {
	dir := t.TempDir()
	day := func(n int) time.Time { return time.Date(2024, 5, n, 3, 0, 0, 0, time.UTC) }
	node(t, dir, "base", "", 8, true, 1, day(1))
	node(t, dir, "snap1", "base", 8, false, 0, day(2))
	node(t, dir, "written", "base", 8, false, 7, day(2))
	node(t, dir, "larger", "base", 10, false, 0, day(2))
	node(t, dir, "garbage", "base", 8, true, 0, day(2))
	node(t, dir, "mid", "base", 8, true, 2, day(2))
	node(t, dir, "snap2", "mid", 8, false, 0, day(3))
	node(t, dir, "twin", "mid", 8, false, 0, day(4))
	node(t, dir, "visible", "mid", 8, false, 3, day(5))
	node(t, dir, "onvisible", "visible", 8, false, 0, day(6))
	node(t, dir, "branch", "visible", 8, true, 3, day(6))
	node(t, dir, "leaf", "branch", 8, false, 3, day(6))
	node(t, dir, "disk", "visible", 8, false, 4, day(7))
	repo, err := Scan(vfs.OS(), dir, readers())
	must(t, err)
	taken, beside, err := repo.Snapshots("disk")
	must(t, err)
	var got []string
	for _, s := range taken {
		got = append(got, s.Node.VDI+" on "+s.State.VDI+" "+s.Node.Created.UTC().Format("02"))
	}
	if want := []string{"snap1 on base 02", "snap2 on mid 03"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	reasons := map[string]string{"written": "data of its own", "larger": "size", "twin": "same content as snap2", "onvisible": "a VDI itself", "branch": "base of a branch"}
	for _, b := range beside {
		if want := reasons[b.Node.VDI]; want == "" || !strings.Contains(b.Reason, want) {
			t.Errorf("%s: %s", b.Node.VDI, b.Reason)
		}
		delete(reasons, b.Node.VDI)
	}
	if len(reasons) > 0 {
		t.Errorf("not told: %v", reasons)
	}
	if _, _, err := repo.Snapshots("nothing"); err == nil {
		t.Error("no such VDI")
	}
}
