package vhdbridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// twoDisks is a repository of two disks, a and b. Of both, snapshots were taken at hours 1, 2
// and 3; nothing was written to b between 1 and 2.
func twoDisks(t *testing.T) *Repository {
	t.Helper()
	dir := t.TempDir()
	at := func(h int) time.Time { return time.Date(2024, 5, 1, h, 0, 0, 0, time.UTC) }
	node(t, dir, "a0", "", 8, true, 1, at(0))
	node(t, dir, "sa1", "a0", 8, false, 0, at(1))
	node(t, dir, "a1", "a0", 8, true, 2, at(1))
	node(t, dir, "sa2", "a1", 8, false, 0, at(2))
	node(t, dir, "a2", "a1", 8, true, 3, at(2))
	node(t, dir, "sa3", "a2", 8, false, 0, at(3))
	node(t, dir, "a", "a2", 8, false, 4, at(3))
	node(t, dir, "b0", "", 8, true, 5, at(0))
	node(t, dir, "sb1", "b0", 8, false, 0, at(1))
	node(t, dir, "sb2", "b0", 8, false, 0, at(2))
	node(t, dir, "b1", "b0", 8, true, 6, at(2))
	node(t, dir, "sb3", "b1", 8, false, 0, at(3))
	node(t, dir, "b", "b1", 8, false, 7, at(3))
	repo, err := Scan(vfs.OS(), dir, readers())
	must(t, err)
	return repo
}

// tellVMs lets the repository know which snapshot of the guest each one is.
func tellVMs(r *Repository) {
	vdis := map[string]VDI{"a": {VM: "web", Device: "0", Guest: Owner{UUID: "w", Name: "web"}}, "b": {VM: "web", Device: "1", Guest: Owner{UUID: "w", Name: "web"}}}
	for n := 1; n <= 3; n++ {
		for i, disk := range []string{"a", "b"} {
			vdis[fmt.Sprint("s", disk, n)] = VDI{Snapshot: true, SnapshotOf: disk, SnapshotTime: time.Date(2024, 5, 1, n, 0, 0, 0, time.UTC), Device: fmt.Sprint(i),
				Guest: Owner{UUID: "w", Name: "web", Snapshot: fmt.Sprint("vm", n), SnapshotName: fmt.Sprint("hour ", n)}}
		}
	}
	r.Name(vdis)
}

// setsText shows sets as name:snapshots, of the disks in their order.
func setsText(sets []Set) (list []string) {
	for _, s := range sets {
		text := s.Name + ":"
		for _, t := range s.Taken {
			if t == nil {
				text += " -"
			} else {
				text += " " + t.Node.VDI
			}
		}
		list = append(list, text)
	}
	return list
}

// What of several disks was taken together is one snapshot: by what the pool says, or by dates.
func TestSnapshotsOfSeveralDisksAreOne(t *testing.T) {
	repo := twoDisks(t)
	s, err := repo.SetsOf([]string{"a", "b"})
	must(t, err)
	if len(s.Sets) != 0 || s.Loose["a"] != 3 || s.Loose["b"] != 2 {
		t.Errorf("without names: %q %v", setsText(s.Sets), s.Loose)
	}
	tellVMs(repo)
	s, err = repo.SetsOf([]string{"a", "b"})
	must(t, err)
	if want := []string{"hour 1: sa1 sb1", "hour 2: sa2 sb2", "hour 3: sa3 sb3"}; !slices.Equal(setsText(s.Sets), want) || len(s.Beside) != 0 {
		t.Errorf("by the pool: %q %v", setsText(s.Sets), s.Beside)
	}
	for _, n := range repo.Nodes {
		if n.Known != nil {
			n.Known.Guest = Owner{}
		}
	}
	repo.Node("sb2").Known.SnapshotTime = repo.Node("sb2").Known.SnapshotTime.Add(2 * time.Second)
	repo.Node("sb3").Known.SnapshotTime = repo.Node("sb3").Known.SnapshotTime.Add(time.Minute)
	s, err = repo.SetsOf([]string{"a", "b"})
	must(t, err)
	if want := []string{": sa1 sb1", ": sa2 sb2", ": sa3 -", ": - sb3"}; !slices.Equal(setsText(s.Sets), want) {
		t.Errorf("by dates: %q", setsText(s.Sets))
	}
	s, err = repo.SetsOf([]string{"b"})
	must(t, err)
	if want := []string{": sb1", ": sb2", ": sb3"}; !slices.Equal(setsText(s.Sets), want) {
		t.Errorf("of one disk: %q", setsText(s.Sets))
	}
}

// A snapshot of the guest that is older on one disk and newer on another is none.
func TestSnapshotsInDifferentOrdersAreRefused(t *testing.T) {
	repo := twoDisks(t)
	tellVMs(repo)
	one, three := repo.Node("sb1").Known, repo.Node("sb3").Known
	one.Guest.Snapshot, three.Guest.Snapshot = "vm3", "vm1"
	if _, err := repo.SetsOf([]string{"a", "b"}); !errors.Is(err, errOrder) {
		t.Error(err)
	}
}

// A disk that was not written to between two snapshots gets a layer without data between them.
func TestEverySnapshotHasAStateOfItsOwn(t *testing.T) {
	repo := twoDisks(t)
	tellVMs(repo)
	s, err := repo.SetsOf([]string{"a", "b"})
	must(t, err)
	d := Domain{Disks: []*Node{repo.Node("a"), repo.Node("b")}, Sets: s.Sets, Stems: repo.Stems()}
	groups, left, err := repo.Groups(nil, false)
	must(t, err)
	groups, err = d.Place(groups, time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), func(_ time.Time, called string, _ func(string) bool) (string, string) {
		return strings.ReplaceAll(called, "hour ", "s"), ""
	})
	must(t, err)
	if len(left) > 0 {
		t.Error(left)
	}
	var got []string
	for _, g := range groups {
		text := d.Stem(g.Node) + "=" + g.Node.VDI
		if g.Parent != nil {
			text += " on " + d.Stem(g.Parent)
		}
		got = append(got, text)
	}
	want := []string{"web-disk0=a0", "web-disk0.s1=a1 on web-disk0", "web-disk0.s2=a2 on web-disk0.s1", "web-disk0.s3=a on web-disk0.s2",
		"web-disk1=b0", "web-disk1.s1=sb2 on web-disk1", "web-disk1.s2=b1 on web-disk1.s1", "web-disk1.s3=b on web-disk1.s2"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for i, states := range [][2]string{{"a0", "b0"}, {"a1", "sb2"}, {"a2", "b1"}} {
		if s := d.Snapshots[i]; s.States[0].VDI != states[0] || s.States[1].VDI != states[1] {
			t.Errorf("%d: %s, %s", i, s.States[0].VDI, s.States[1].VDI)
		}
	}
}
