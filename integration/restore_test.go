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

// A restoreCase is a guest with three snapshots that goes back to one of them.
type restoreCase struct {
	name    string
	disks   []guest.DiskSpec
	to      int // which of the snapshots, oldest first
	discard bool
}

// A guest goes back, writes on from there, and is rotated ten times, running and
// shut off by turns, until nothing of the branch is left. No state changes that is
// still listed.
func TestRestoreGoesBackAndRotationGoesOn(t *testing.T) {
	t.Parallel()
	for _, c := range few([]restoreCase{
		{name: "oldest", disks: make([]guest.DiskSpec, 1), to: 0},
		{name: "middle, two disks", disks: []guest.DiskSpec{{}, {Format: "raw"}}, to: 1},
		{name: "newest", disks: make([]guest.DiskSpec, 1), to: 2},
		{name: "oldest, discard newer", disks: []guest.DiskSpec{{}, {Format: "raw"}}, to: 0, discard: true},
		{name: "middle, discard newer", disks: make([]guest.DiskSpec, 1), to: 1, discard: true},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks})
			b.rotations("g1", 3)
			b.waitWrites("g1", 30)
			c.goBack(b)
			b.start("g1")
			b.checkGuest("g1")
			b.tenByTurns("g1")
			b.wantInOrder("g1", 4)
		})
	}
}

// tenByTurns rotates a guest that went back ten times, running and shut off by turns, until
// nothing is left of the branch. No state changes of a snapshot that is still listed.
func (b *bed) tenByTurns(dom string) {
	b.t.Helper()
	for n := range ten(false) {
		b.bring(dom, "running")
		b.waitWrites(dom, 30)
		b.bring(dom, map[bool]string{true: "running", false: "shut off"}[n%2 == 0])
		before := b.keptStates(dom)
		b.rotateNow(dom)
		b.unchanged(dom, before)
		b.checkGuest(dom)
	}
	b.bring(dom, "running")
	if names := b.snapshotNames(dom); len(names) != 3 {
		b.t.Errorf("snapshots %q, want 3", names)
	}
	b.noRecords()
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

// goBack restores, and checks what is there right afterwards.
func (c *restoreCase) goBack(b *bed) {
	b.t.Helper()
	names := b.snapshotNames("g1")
	to := names[c.to]
	if r := b.rotate("restore", "g1", to).wantExit(b.t, 4); !strings.Contains(r.String(), "the guest runs") {
		b.t.Errorf("%v", r)
	}
	if r := b.rotate("restore", "--stop", "--patience", "1s", "g1", to); r.Exit != 1 || !strings.Contains(r.Stderr, "--force") {
		b.t.Errorf("%v", r)
	}
	before := b.keptStates("g1")
	args := []string{"restore", "--stop", "--no-start", "--force", "--patience", "1s", "g1", to}
	if c.discard {
		args = append(args, "--discard-newer")
	}
	b.rotate(args...).wantExit(b.t, 0)
	b.unchanged("g1", before)
	b.checkImages("g1")
	left := b.snapshotNames("g1")
	if want := map[bool]int{true: c.to + 1, false: 4}[c.discard]; len(left) != want || !slices.Contains(left, to) {
		b.t.Errorf("snapshots %q, want %d of %q", left, want, names)
	}
	if cur := strings.TrimSpace(b.virsh("snapshot-current", "g1", "--name")); cur != to {
		b.t.Errorf("current is %q", cur)
	}
	for target, got := range b.checkGuest("g1") {
		if was := before[to][target]; got != was {
			b.t.Errorf("%s is in state %v, not %v", target, got, was)
		}
	}
}

// noRecords fails the test if layers are still on record as free to go.
func (b *bed) noRecords() {
	b.t.Helper()
	records, err := filepath.Glob(b.path("state", "released", "*"))
	must(b.t, err)
	for _, r := range records {
		text, err := os.ReadFile(r)
		must(b.t, err)
		b.t.Errorf("layers are still on record as free: %s", text)
	}
}

// A restore dies at each of its boundaries, or of its engine's writes: all disks
// are where they were, or all where they go; no snapshot is lost; and later runs leave
// nothing of it behind.
func TestKillAtEveryBoundaryOfARestore(t *testing.T) {
	t.Parallel()
	disks := []guest.DiskSpec{{}, {Format: "raw"}}
	for _, c := range []boundaryCase{
		{name: "boundaries", bed: newDaemonBed, disks: disks, last: 3, places: 12, step: 5},
		{name: "boundaries, discard newer", bed: newDaemonBed, disks: disks, last: 3, places: 6, step: 3, args: []string{"--discard-newer"}},
		{name: "writes", bed: newDaemonBed, disks: disks, last: 3, places: 4, writes: true, step: 3},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killRestore) })
	}
}

// killRestore kills a restore at its n-th place.
func (c *boundaryCase) killRestore(b *bed, n int) string {
	b.t.Helper()
	b.bring("g1", "running")
	b.rotations("g1", 3) // they also clear away what the last restore left
	b.noLeftovers("g1")
	b.noRecords()
	b.waitWrites("g1", 20)
	b.destroy("g1")
	to := b.snapshotNames("g1")[1]
	kept, now := b.keptStates("g1"), b.checkGuest("g1")
	place := b.dieAt(c.kind(), n, append([]string{"restore", "g1", to}, c.args...)...)
	after := b.keptStates("g1")
	for name, state := range kept {
		gone := len(c.args) > 0 && name > to
		if is, listed := after[name]; listed && !maps.Equal(is, state) || !listed && !gone {
			b.t.Errorf("%s: snapshot %s had %v, has %v", place, name, state, is)
		}
	}
	if is := b.checkGuest("g1"); !maps.Equal(is, now) && !maps.Equal(is, kept[to]) {
		b.t.Errorf("%s: the disks have %v, neither %v nor %v", place, is, now, kept[to])
	}
	for range 2 {
		b.rotate("run", "--no-snapshot").wantExit(b.t, 0)
		b.unchanged("g1", after)
	}
	return place
}

// Layers of a branch are merged by the same rules, while the guest runs, and every
// state that stays is what it was.
func TestLayersOfABranchAreMerged(t *testing.T) {
	long(t)
	t.Parallel()
	b := newBed(t)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 20", 1))
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 6)
	b.waitWrites("g1", 30)
	b.destroy("g1")
	names := b.snapshotNames("g1")
	b.rotate("restore", "g1", names[0]).wantExit(t, 0)
	b.start("g1")
	b.waitWrites("g1", 30)
	names = b.snapshotNames("g1")
	b.backdateAll("g1", names, 0, 24, 25, 26, 48, 49, 72) // days: 1 2 2 2 3 3 4
	before := b.keptStates("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "daily = 4", 1))
	var r report
	b.rotate("run", "--no-snapshot", "--output=json").wantExit(t, 0).decode(t, &r)
	if have := r.methods(); have["offline-commit"] == 0 || len(have) != 1 {
		t.Errorf("merges %v: %+v", have, r)
	}
	b.wantKept("g1", before, names[0], names[3], names[5], names[6])
	b.checkGuest("g1")
	b.writePolicy(keepThree)
	b.rotations("g1", 5)
	b.wantInOrder("g1", 4)
	b.noRecords()
}
