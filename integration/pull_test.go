package integration_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// methods counts the merges of a report by their method.
func (r *report) methods() map[string]int {
	n := map[string]int{}
	for _, d := range r.Domains {
		for _, s := range d.Steps {
			if s.Op == "merge" {
				n[s.Method]++
			}
		}
	}
	return n
}

// Where the policy says so, layers of a guest that is shut off are pulled up; what
// cannot be pulled is committed. States, guest, doctor and libvirt's own deletion
// find everything in order.
func TestLayersOfAGuestThatIsShutOffArePulledUp(t *testing.T) {
	long(t)
	t.Parallel()
	b := newBed(t)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 20", 1))
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 7)
	names := b.snapshotNames("g1")
	b.destroy("g1")
	b.backdateAll("g1", names, 0, 1, 2, 24, 48, 49, 72) // days: 1 1 1 2 3 3 4
	before := b.keptStates("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "daily = 4", 1) + "\nmethod = \"pull\"")
	var r report
	b.rotate("run", "--no-snapshot", "--output=json").wantExit(t, 0).decode(t, &r)
	if have := r.methods(); !maps.Equal(have, map[string]int{"offline-pull": 2, "offline-commit": 2}) {
		t.Errorf("merges %v", have)
	}
	b.wantKept("g1", before, names[2], names[3], names[5], names[6])
	b.start("g1")
	b.wantInOrder("g1", 5)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 1", 1))
	b.rotations("g1", 2)
	b.wantInOrder("g1", 2)
}

// A goldenBed has a guest with three snapshots on a golden image that another one,
// which is shut off, builds on, too.
func goldenBed(t *testing.T) (b *bed, golden, own string) {
	b = newBed(t)
	b.writePolicy(keepThree)
	must(t, os.MkdirAll(b.path("images"), 0o755))
	golden, own = b.path("images", "golden.qcow2"), b.path("images", "g1.qcow2")
	b.qemuImg("create", "-q", "-f", "qcow2", golden, "8M")
	b.boot(guest.Spec{Name: "g0", Disks: []guest.DiskSpec{{Path: golden, Existing: true}}})
	b.waitWrites("g0", 60)
	b.destroy("g0") // what it wrote is what others build on
	b.virsh("undefine", "g0")
	b.define(guest.Spec{Name: "other", Disks: []guest.DiskSpec{{Path: b.path("images", "clone.qcow2"), Backing: golden, BackingFormat: "qcow2"}}})
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Path: own, Backing: golden, BackingFormat: "qcow2"}}})
	b.rotations("g1", 3)
	b.waitWrites("g1", 30)
	return b, golden, own
}

// detach runs the command and wants one merge by that method.
func (b *bed) detach(method string) {
	b.t.Helper()
	var r report
	b.rotate("run", "--detach", "--no-snapshot", "--output=json", "g1").wantExit(b.t, 0).decode(b.t, &r)
	if have := r.methods(); !maps.Equal(have, map[string]int{method: 1}) {
		b.t.Errorf("merges %v: %+v", have, r)
	}
}

// A guest that is shut off leaves a golden image that others build on, with its
// snapshots.
func TestAGuestThatIsShutOffIsDetached(t *testing.T) {
	long(t)
	t.Parallel()
	b, golden, _ := goldenBed(t)
	before := sum(t, golden)
	b.destroy("g1")
	if r := b.rotate("run", "--detach").wantExit(t, 2); !strings.Contains(r.Stderr, "names of domains") {
		t.Errorf("%v", r)
	}
	states := b.keptStates("g1")
	b.detach("offline-pull")
	b.wantKept("g1", states, b.snapshotNames("g1")...)
	if chain := b.chain("g1", "vda"); len(chain) != 4 {
		t.Errorf("the chain is %v", chain)
	}
	b.checkImages("g1")
	b.start("g1")
	b.rotations("g1", 5)
	if sum(t, golden) != before {
		t.Error("the golden image has changed")
	}
	b.wantInOrder("g1", 4)
}

// A running guest leaves the golden image; its snapshots stay on that until they go.
func TestARunningGuestIsDetached(t *testing.T) {
	t.Parallel()
	b, golden, own := goldenBed(t)
	before := map[string]string{golden: sum(t, golden)}
	names := b.snapshotNames("g1")
	for _, l := range b.chain("g1", "vda")[1:] {
		before[l.Path] = sum(t, l.Path)
	}
	state := b.path("before.raw")
	b.rotate("export", "g1", names[2], "-O", "raw", "-o", state).wantExit(t, 0)
	b.detach("pull")
	if chain := b.chain("g1", "vda"); len(chain) != 1 {
		t.Errorf("the chain is %v", chain)
	}
	for path, was := range before {
		if sum(t, path) != was {
			t.Errorf("%s has changed", path)
		}
	}
	after := b.path("after.raw")
	b.rotate("export", "g1", names[2], "-O", "raw", "-o", after).wantExit(t, 0)
	if sum(t, state) != sum(t, after) {
		t.Error("the newest snapshot has another state")
	}
	b.checkGuest("g1")
	for range 3 {
		b.waitWrites("g1", 30)
		b.rotateNow("g1")
	}
	if left := b.snapshotNames("g1"); len(left) != 3 || slices.Contains(names, left[0]) {
		t.Errorf("snapshots %q", left)
	}
	b.rotations("g1", 2)
	if sum(t, golden) != before[golden] {
		t.Error("the golden image has changed")
	}
	b.wantInOrder("g1", 4)
	if _, err := os.Stat(own); err != nil {
		t.Errorf("the image that the guest was given: %v", err)
	}
}
