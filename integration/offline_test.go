package integration_test

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// owner is whose uid and gid a base gets, to see that both stay.
const owner = 12345

// Guests that are shut off at night: each time they have written, are shut off, and
// are rotated then. What virsh, doctor and the guest itself see afterwards is what
// they see after a rotation of a running guest.
func TestRotationOfAGuestThatIsShutOff(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks func(b *bed) []guest.DiskSpec
		block bool
	}{
		{name: "qcow2 base", disks: func(*bed) []guest.DiskSpec { return nil }},
		{name: "two disks", disks: func(*bed) []guest.DiskSpec { return []guest.DiskSpec{{}, {Format: "raw"}} }},
		{name: "qcow2 on a block device", block: true, disks: func(b *bed) []guest.DiskSpec {
			return []guest.DiskSpec{{Path: b.loopDevice(16 << 20), Format: "qcow2", Size: 8 << 20, Block: true}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			overlays := b.path("overlays")
			must(t, os.Mkdir(overlays, 0o755))
			policy := keepThree
			if c.block {
				policy += "\noverlay_dir = \"" + overlays + "\""
			}
			b.writePolicy(policy)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks(b)})
			base := b.disk("g1", "vda").Path
			for n := range 6 {
				b.waitWrites("g1", 30)
				b.destroy("g1")
				if !c.block { // libvirt takes and gives files at each start and stop
					must(t, os.Chown(base, owner, owner))
					must(t, os.Chmod(base, 0o640))
				}
				before := b.keptStates("g1")
				r := b.rotateNow("g1")
				b.unchanged("g1", before)
				if info, err := os.Stat(base); !c.block && (err != nil || info.Mode().Perm() != 0o640 || info.Sys().(*syscall.Stat_t).Uid != owner || info.Sys().(*syscall.Stat_t).Gid != owner) {
					t.Errorf("the base is %v now: %v", info, err)
				}
				b.checkImages("g1")
				wantMethods(t, r, n >= 3, len(b.disks("g1")))
				b.start("g1")
				b.checkGuest("g1")
			}
			if names := b.snapshotNames("g1"); len(names) != 3 {
				t.Errorf("snapshots %q, want 3", names)
			}
			b.rotations("g1", 2)
			b.wantInOrder("g1", 4)
		})
	}
}

// wantMethods wants one merge by the engine for each disk, or none.
func wantMethods(t *testing.T, r report, merged bool, disks int) {
	t.Helper()
	n := 0
	for _, s := range r.Domains[0].Steps {
		if s.Op == "merge" {
			n++
			if s.Method != "offline-commit" {
				t.Errorf("%+v", s)
			}
		}
		if info, err := os.Stat(s.Path); s.Op == "snapshot" && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("overlay %s: %v, %v", s.Path, info, err)
		}
	}
	if merged != (n == disks) || !merged && n > 0 {
		t.Errorf("%d merges of %d disks: %+v", n, disks, r.Domains[0].Steps)
	}
}

// With keep = 0 nothing is left but the base, and the guest starts from that.
func TestAGuestThatIsShutOffKeepsNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	base := b.disk("g1", "vda").Path
	b.rotations("g1", 2)
	b.destroy("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 0", 1))
	b.rotateNow("g1")
	if path := b.disk("g1", "vda").Path; path != base {
		t.Errorf("it starts from %s", path)
	}
	b.start("g1")
	b.waitWrites("g1", 30)
	b.wantInOrder("g1", 1)
}

func TestAGuestThatWroteNothingGetsNoSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 30)
	b.destroy("g1")
	b.rotateNow("g1")
	time.Sleep(1100 * time.Millisecond) // every = "1s": it is due
	var out report
	b.rotate("run", "--output=json").wantExit(t, 0).decode(t, &out)
	if d := out.Domains[0]; len(d.Steps) > 0 || !strings.Contains(d.Waiting, "nothing was written since") {
		t.Errorf("%+v", d)
	}
	b.start("g1")
	b.waitWrites("g1", 30)
	b.destroy("g1")
	b.rotate("run", "--output=json").wantExit(t, 0).decode(t, &out)
	if d := out.Domains[0]; len(d.Steps) != 1 || d.Steps[0].Op != "snapshot" {
		t.Errorf("%+v", d)
	}
}

// A run on a guest that is off dies at each of its boundaries.
func TestKillAtEveryBoundaryWhileOff(t *testing.T) {
	for _, c := range []boundaryCase{
		{name: "two disks", bed: newBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 25},
		{name: "keep nothing", bed: newBed, disks: make([]guest.DiskSpec, 1), taken: 2, places: 12},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killOff) })
	}
}

// The same at each write of the engine, which then is in the middle of a merge.
func TestKillAtEveryWriteOfTheEngine(t *testing.T) {
	for _, c := range []boundaryCase{
		{name: "two disks", bed: newBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 20, step: 5},
		{name: "keep nothing", bed: newBed, disks: make([]guest.DiskSpec, 1), taken: 2, places: 10, step: 5},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killOff) })
	}
}

// killOff kills a run at its n-th place. Every third time the guest is started before
// the next run, which must recover all the same.
func (c *boundaryCase) killOff(b *bed, n int) string {
	b.t.Helper()
	if c.taken > 0 {
		b.writePolicy(c.policy(c.taken))
		b.rotations("g1", c.taken)
		b.writePolicy(c.policy(c.last))
	}
	b.waitWrites("g1", 30)
	b.destroy("g1")
	kept := b.survivors("g1", c.args...)
	place := b.dieAt(c.kind(), n, append([]string{"run"}, c.args...)...)
	b.wantSurvivors("g1", kept)
	if n%3 == 0 {
		b.start("g1")
		b.waitWrites("g1", 10)
	}
	b.recover("g1", c.last+1, "--no-snapshot")
	if n%3 != 0 {
		b.start("g1")
	}
	return place
}

// A guest that is started amid a merge is kept out, or finds a valid chain.
func TestAGuestThatIsStartedInAnOfflineMerge(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Size: 256 << 20}}})
	b.rotations("g1", 3)
	kept := 0
	for n := range 8 {
		b.waitWrites("g1", 200)
		b.destroy("g1")
		before := b.keptStates("g1")
		r := b.beginRotate("run", "--now", "--output=json")
		time.Sleep(time.Duration(n) * 25 * time.Millisecond)
		out, err := b.host.Command(t.Context(), "virsh", "-c", b.host.URI(), "start", "g1").CombinedOutput()
		result := r.wait()
		if err != nil {
			kept++
			if !strings.Contains(string(out), "lock") && !strings.Contains(string(out), "job") {
				t.Errorf("start: %s", out)
			}
			b.start("g1")
		}
		b.unchanged("g1", before)
		b.checkGuest("g1")
		if !slices.Contains([]int{0, 1, 3, 4}, result.Exit) {
			t.Errorf("%v", result)
		}
		b.recover("g1", 4, "--no-snapshot")
	}
	t.Logf("%d of 8 starts were refused", kept)
	b.wantInOrder("g1", 4)
}
