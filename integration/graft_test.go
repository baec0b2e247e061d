package integration_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// graftThree is keepThree by grafts.
const graftThree = keepThree + "\nmethod = \"graft\""

// sharingBed has its images on a file system of that type, mounted from a loop device.
func sharingBed(t *testing.T, newBed func(*testing.T) *bed, fstype string) *bed {
	t.Helper()
	return sharingBedOf(t, newBed, fstype, 1<<30)
}

// sharingBedOf has a file system of so many bytes.
func sharingBedOf(t *testing.T, newBed func(*testing.T) *bed, fstype string, size int64) *bed {
	t.Helper()
	b := newBed(t)
	if b.daemon != nil { // it has mounts of its own
		must(t, b.daemon.Kill())
	}
	l, err := guest.NewLoopMount(t.Context(), b.path(b.loopName()), fstype, b.path("images"), size)
	must(t, err)
	b.loops = append(b.loops, l)
	if b.daemon != nil {
		must(t, b.daemon.StartDaemon())
	}
	return b
}

func onXFS(t *testing.T) *bed       { t.Helper(); return sharingBed(t, newBed, "xfs") }
func onXFSDaemon(t *testing.T) *bed { t.Helper(); return sharingBed(t, newDaemonBed, "xfs") }

// noOtherImages fails the test if a file lies beside the images that no disk has.
func (b *bed) noOtherImages(doms ...string) {
	b.t.Helper()
	var used []string
	for _, dom := range doms {
		for _, d := range b.disks(dom) {
			for _, l := range b.chainOf(d) {
				used = append(used, l.Path)
			}
		}
	}
	entries, err := os.ReadDir(b.path("images"))
	must(b.t, err)
	for _, e := range entries {
		if path := b.path("images", e.Name()); !slices.Contains(used, path) && e.Type().IsRegular() {
			b.t.Errorf("%s is in no chain", path)
		}
	}
}

// Ten rotations by grafts under a guest that writes: what is kept stays, nothing lies
// about, and libvirt can do with the snapshots what it always can.
func TestRotationByGrafts(t *testing.T) {
	t.Parallel()
	for _, c := range few([]struct {
		name, fstype string
		disks        []guest.DiskSpec
	}{
		{"XFS, one disk", "xfs", nil},
		{"XFS, two disks, one raw", "xfs", []guest.DiskSpec{{Options: "cluster_size=128k,extended_l2=on"}, {Format: "raw"}}},
		{"btrfs, two disks", "btrfs", []guest.DiskSpec{{}, {}}},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := sharingBed(t, newBed, c.fstype)
			b.logsOnFailure("g1")
			b.writePolicy(graftThree)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks})
			b.rotations("g1", 3)
			for range often(10, 3) {
				b.waitWrites("g1", 30)
				before := b.keptStates("g1")
				r := b.rotateNow("--verify=full")
				if have := r.methods(); !maps.Equal(have, map[string]int{"graft": max(1, len(c.disks))}) {
					t.Fatalf("merges %v: %+v", have, r)
				}
				b.unchanged("g1", before)
				b.noOtherImages("g1")
			}
			b.wantInOrder("g1", 4)
			b.noOtherImages("g1")
		})
	}
}

// Where extents cannot be shared, the policy's word is kept: nothing is merged. Left
// to itself, virt-rotate commits.
func TestAGraftIsRefusedWhereExtentsCannotBeShared(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 4)
	before := b.overlays("g1", "vda")
	b.writePolicy(strings.Replace(graftThree, "last = 3", "last = 1", 1))
	r := b.rotate("run", "--no-snapshot").wantExit(t, 4)
	if !strings.Contains(r.String(), "cannot share extents") || !strings.Contains(r.String(), filepath.Dir(before[0])) {
		t.Errorf("%v", r)
	}
	if after := b.overlays("g1", "vda"); !slices.Equal(after, before) {
		t.Errorf("the chain was %v, is %v", before, after)
	}
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 1", 1))
	var done report
	b.rotate("run", "--no-snapshot", "--output=json").wantExit(t, 0).decode(t, &done)
	if have := done.methods(); !maps.Equal(have, map[string]int{"commit": 1}) {
		t.Errorf("merges %v", have)
	}
	b.wantInOrder("g1", 2)
}
