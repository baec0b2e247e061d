package integration_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// clones are images that nobody starts: what they read must never change.
type clones map[string]string // path → sha256 of what a guest would read

// add makes an image on another one, as an administrator does who clones.
func (c clones) add(b *bed, path, backing, format string) {
	b.t.Helper()
	must(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	b.qemuImg("create", "-q", "-f", "qcow2", "-b", backing, "-F", format, path)
	c[path] = b.guestSum(path, "qcow2")
}

// unchanged fails the test if a clone reads other bytes than when it was made.
func (c clones) unchanged(b *bed) {
	b.t.Helper()
	for path, was := range c {
		if now := b.guestSum(path, "qcow2"); now != was {
			b.t.Errorf("clone %s reads other bytes than when it was made", path)
			c[path] = now
		}
	}
}

// Linked clones that are shut off: of the golden image, of a clone, and of a
// snapshot's state. g1 has the golden image as its own disk, g2 is a clone; both are
// rotated, running and shut off by turns.
func TestClonesThatAreShutOffNeverChange(t *testing.T) {
	long(t)
	t.Parallel()
	for _, format := range []string{"qcow2", "raw"} {
		t.Run(format+" base", func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			golden := guest.DiskSpec{Path: b.path("images", "golden."+format), Format: format}
			b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{golden}})
			b.waitWrites("g1", 60)
			b.rotations("g1", 1) // from now on nobody writes to the golden image
			b.define(guest.Spec{Name: "g2", Disks: []guest.DiskSpec{{Path: b.path("images", "g2.qcow2"), Backing: golden.Path, BackingFormat: format}}})
			before := sum(t, golden.Path)
			c := b.cloneAll(golden)
			b.rotateClones(c, 2)
			ours := b.chain("g1", "vda")[1] // the state of the newest snapshot
			c.add(b, b.path("images", "of-a-snapshot.qcow2"), ours.Path, ours.Format)
			b.rotateClones(c, 4)
			if sum(t, golden.Path) != before {
				t.Error("the golden image has changed")
			}
			if _, err := os.Stat(ours.Path); err != nil {
				t.Errorf("a clone was made of it: %v", err)
			}
			b.letGo(c, b.path("images", "of-a-snapshot.qcow2"))
			for _, dom := range []string{"g1", "g2"} {
				b.rotate("run", "--no-snapshot", dom).wantExit(t, 0)
				b.wantInOrder(dom, 5) // golden, one private layer, three overlays
			}
			c.unchanged(b)
			if sum(t, golden.Path) != before {
				t.Error("the golden image has changed")
			}
		})
	}
}

// cloneAll makes clones of an image: domains that are shut off, beside it and in a
// directory that only libvirt knows, and a mere file with a relative name.
func (b *bed) cloneAll(of guest.DiskSpec) clones {
	b.t.Helper()
	c := clones{}
	c.add(b, b.path("images", "beside.qcow2"), of.Path, of.Format)
	c.add(b, b.path("elsewhere", "far.qcow2"), of.Path, of.Format)
	c.add(b, b.path("images", "file.qcow2"), filepath.Base(of.Path), of.Format)
	c.add(b, b.path("elsewhere", "clone-of-clone.qcow2"), b.path("images", "file.qcow2"), "qcow2")
	b.define(guest.Spec{Name: "other1", Disks: []guest.DiskSpec{{Path: b.path("images", "beside.qcow2"), Existing: true}}})
	b.define(guest.Spec{Name: "other2", Disks: []guest.DiskSpec{{Path: b.path("elsewhere", "clone-of-clone.qcow2"), Existing: true}, {Path: b.path("elsewhere", "far.qcow2"), Existing: true}}})
	return c
}

// rotateClones rotates g1 and g2 n times; one of the two runs.
func (b *bed) rotateClones(c clones, n int) {
	b.t.Helper()
	for i := range n {
		runs, off := "g1", "g2"
		if i%2 == 0 {
			runs, off = off, runs
		}
		for dom, state := range map[string]string{runs: "running", off: "shut off"} {
			b.bring(dom, "running")
			b.waitWrites(dom, 30)
			b.bring(dom, state)
		}
		before := map[string]states{runs: b.keptStates(runs), off: b.keptStates(off)}
		b.rotateNow()
		for dom, kept := range before {
			b.unchanged(dom, kept)
			b.checkGuest(dom)
		}
		c.unchanged(b)
	}
	for _, dom := range []string{"g1", "g2"} {
		b.bring(dom, "running")
	}
}

// bring starts a guest or pulls its plug, unless it is in that state already.
func (b *bed) bring(dom, state string) {
	b.t.Helper()
	switch now := b.domState(dom); {
	case now == state:
	case state == "running":
		b.start(dom)
	default:
		b.destroy(dom)
	}
}

// letGo deletes a clone that is no domain's.
func (b *bed) letGo(c clones, path string) {
	b.t.Helper()
	must(b.t, os.Remove(path))
	delete(c, path)
	b.t.Logf("%d clones left: %q", len(c), slices.Sorted(maps.Keys(c)))
}
