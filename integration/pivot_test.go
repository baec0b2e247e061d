package integration_test

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// QEMU before 8.1 ends by itself as a guest that writes all the time is moved to a raw base, on
// every bus but virtio's: it is paused for that moment.
func TestAGuestThatWritesLivesThroughTheMoveToARawBase(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.logsOnFailure("g1")
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Format: "raw"}, {Format: "raw"}}, Params: guest.Params{Batch: 64}})
	for range 3 {
		b.writePolicy(keepThree)
		b.rotations("g1", 2)
		b.mergesAll()
		if state := strings.TrimSpace(b.virsh("domstate", "g1")); state != "running" {
			t.Fatalf("the guest is %s", state)
		}
	}
	b.destroy("g1")
	b.checkGuest("g1")
}

// mergesAll has all snapshots of g1 dropped, and all layers merged into the base.
func (b *bed) mergesAll() {
	b.t.Helper()
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 0", 1))
	b.rotate("run").wantExit(b.t, 0)
	for _, d := range b.disks("g1") {
		if n := len(b.chain("g1", d.Target)); n != 1 {
			b.t.Fatalf("%s has %d layers", d.Target, n)
		}
	}
}

// A run that is killed in that moment leaves the guest paused; the next one lets it go on, says so,
// and does the rest. A guest that somebody else has paused stays paused.
func TestAGuestThatAKilledRunHasPausedGoesOn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Format: "raw"}}})
	b.writePolicy(keepThree)
	b.rotations("g1", 2)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 0", 1))
	if b.dieAt("boundary", "about to pause", "run") == "" {
		t.Skip("this QEMU needs no pause")
	}
	b.virsh("suspend", "g1")
	r := b.rotate("run").wantExit(t, 0)
	if !strings.Contains(r.Stderr, "it is resumed") || strings.TrimSpace(b.virsh("domstate", "g1")) != "running" {
		t.Errorf("%v: %s", r, b.virsh("domstate", "g1"))
	}
	b.waitWrites("g1", 10)
	b.wantTidy("g1", 1)

	b.writePolicy(keepThree)
	b.rotations("g1", 2)
	b.virsh("suspend", "g1")
	b.mergesAll()
	if state := strings.TrimSpace(b.virsh("domstate", "g1")); state != "paused" {
		t.Errorf("the guest is %s", state)
	}
}
