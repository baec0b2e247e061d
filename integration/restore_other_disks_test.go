package integration_test

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A disk is taken out of the guest: the others go back to a snapshot that has it, runs go
// on, and the snapshots with the disk go when their turn comes.
func TestADiskThatWasTakenOutStaysOut(t *testing.T) {
	long(t)
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: make([]guest.DiskSpec, 2)})
	b.rotations("g1", 3)
	b.waitWrites("g1", 30)
	b.destroy("g1")
	names, was := b.snapshotNames("g1"), b.keptStates("g1")
	b.virsh("detach-disk", "g1", "vdb", "--config")
	if r := b.rotate("restore", "g1", names[0]).wantExit(t, 0); !strings.Contains(r.String(), "has the disk vdb, the domain has not") {
		t.Errorf("%v", r)
	}
	if got := b.checkGuest("g1")["vda"]; got != was[names[0]]["vda"] {
		t.Errorf("vda is in state %v, not %v", got, was[names[0]]["vda"])
	}
	for range 6 {
		b.rotate("run", "--now").wantExit(t, 0)
		b.start("g1")
		b.destroy("g1")
	}
	for _, name := range names {
		if strings.Contains(strings.Join(b.snapshotNames("g1"), " "), name) {
			t.Errorf("%s is still there", name)
		}
	}
	b.checkImages("g1")
}

// What would be refused once the guest is off is refused while it runs.
func TestARestoreThatIsRefusedLeavesTheGuestRunning(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	to := b.snapshotNames("g1")[0]
	args := []string{"restore", "--stop", "--no-start", "--force", "--patience", "1s", "g1", to}
	b.virsh("snapshot-create-as", "g1", "mine", "--disk-only")
	for _, more := range []string{"--discard-newer", "--dry-run"} {
		r := b.rotate(append(args, more)...)
		if want := map[string]int{"--discard-newer": 4, "--dry-run": 0}[more]; r.Exit != want {
			t.Errorf("%s: %v", more, r)
		}
		if state := b.domState("g1"); state != "running" {
			t.Errorf("%s: the guest is %s", more, state)
		}
	}
	b.rotate(args...).wantExit(t, 0)
}
