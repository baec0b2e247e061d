package integration_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A guest goes back, writes on from there, and is rotated until nothing of the
// branch is left. No state changes that is still listed.
func TestRestoreGoesBackAndRotationGoesOn(t *testing.T) {
	for _, c := range []struct {
		name    string
		disks   []guest.DiskSpec
		discard bool
	}{
		{name: "one disk", disks: make([]guest.DiskSpec, 1)},
		{name: "two disks", disks: []guest.DiskSpec{{}, {Format: "raw"}}},
		{name: "discard newer", disks: make([]guest.DiskSpec, 1), discard: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks})
			b.rotations("g1", 3)
			b.waitWrites("g1", 30)
			names := b.snapshotNames("g1")
			if r := b.rotate("restore", "g1", names[1]).wantExit(t, 4); !strings.Contains(r.String(), "the guest runs") {
				t.Errorf("%v", r)
			}
			if r := b.rotate("restore", "--stop", "--patience", "1s", "g1", names[1]); r.Exit != 1 || !strings.Contains(r.Stderr, "--force") {
				t.Errorf("%v", r)
			}
			before := b.keptStates("g1")
			args := []string{"restore", "--stop", "--force", "--patience", "1s", "g1", names[1]}
			if c.discard {
				args = append(args, "--discard-newer")
			}
			b.rotate(args...).wantExit(t, 0)
			b.unchanged("g1", before)
			b.checkImages("g1")
			left := b.snapshotNames("g1")
			if want := map[bool]int{true: 2, false: 4}[c.discard]; len(left) != want || !slices.Contains(left, names[1]) {
				t.Errorf("snapshots %q, want %d of %q", left, want, names)
			}
			if cur := strings.TrimSpace(b.virsh("snapshot-current", "g1", "--name")); cur != names[1] {
				t.Errorf("current is %q", cur)
			}
			for _, d := range b.disks("g1") {
				if got, was := b.checkGuest("g1")[d.Target], before[names[1]][d.Target]; got != was {
					t.Errorf("%s is in state %v, not %v", d.Target, got, was)
				}
			}
			b.start("g1")
			b.checkGuest("g1")
			b.rotations("g1", 6)
			if names := b.snapshotNames("g1"); len(names) != 3 {
				t.Errorf("snapshots %q, want 3", names)
			}
			b.rotateNow("g1")
			b.wantInOrder("g1", 4)
		})
	}
}

// The rest of the configuration stays as it is, or goes back with the disks.
func TestRestoreWithTheConfigurationOfThatTime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.virsh("desc", "g1", "--title", "--config", "as it was")
	b.rotations("g1", 2)
	b.virsh("desc", "g1", "--title", "--config", "changed")
	b.waitWrites("g1", 30)
	b.destroy("g1")
	names := b.snapshotNames("g1")
	states := b.keptStates("g1")
	title := func() string { return strings.TrimSpace(b.virsh("desc", "g1", "--title", "--config")) }
	b.rotate("restore", "g1", names[1]).wantExit(t, 0)
	if have := title(); have != "changed" {
		t.Errorf("without --with-config: the title is %q", have)
	}
	b.rotate("restore", "--with-config", "g1", names[0]).wantExit(t, 0)
	if have := title(); have != "as it was" {
		t.Errorf("--with-config: the title is %q", have)
	}
	b.unchanged("g1", states)
	if got, was := b.checkGuest("g1")["vda"], states[names[0]]["vda"]; got != was {
		t.Errorf("the disk is in state %v, not %v", got, was)
	}
	b.checkImages("g1")
	b.start("g1")
	b.rotations("g1", 5)
	b.wantInOrder("g1", 4)
}
