package integration_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// The tests here use no virt-rotate: they show that the bed sees what it claims to.

func TestSnapshotsAndInnerCommitByVirshKeepStates(t *testing.T) {
	t.Parallel()
	for _, formats := range [][]string{{"qcow2"}, {"raw"}, {"qcow2", "raw"}} {
		t.Run(fmt.Sprint(formats), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			spec := guest.Spec{Name: "g"}
			for _, f := range formats {
				spec.Disks = append(spec.Disks, guest.DiskSpec{Format: f})
			}
			b.boot(spec)
			commitOldest(b)
		})
	}
}

// commitOldest takes three snapshots and drops the first, by hand.
func commitOldest(b *bed) {
	b.t.Helper()
	for _, name := range []string{"s1", "s2", "s3"} {
		b.snapshot("g", name)
		b.waitWrites("g", 60)
	}
	before := b.keptStates("g")
	if a, z := before["s1"]["vda"].Blocks, before["s3"]["vda"].Blocks; a >= z {
		b.t.Errorf("the guest wrote nothing between snapshots: blocks %d and %d", a, z)
	}
	// The metadata goes first, while libvirt can still repair that of its descendants.
	b.virsh("snapshot-delete", "g", "s1", "--metadata")
	for _, d := range b.disks("g") {
		chain := b.chain("g", d.Target)
		if len(chain) != 4 {
			b.t.Fatalf("disk %s has a chain of %d layers, want 4", d.Target, len(chain))
		}
		b.virsh("blockcommit", "g", d.Target, "--top", chain[2].Path, "--base", chain[3].Path, "--wait")
		if n := len(b.chain("g", d.Target)); n != 3 {
			b.t.Errorf("disk %s has a chain of %d layers after the merge, want 3", d.Target, n)
		}
	}
	b.waitWrites("g", 60)
	b.wantKept("g", before, "s2", "s3")
	for target, now := range b.checkGuest("g") {
		if last := before["s3"][target].Blocks; now.Blocks <= last {
			b.t.Errorf("disk %s holds %d blocks, no more than snapshot s3", target, now.Blocks)
		}
	}
	b.virsh("suspend", "g")
	b.checkImages("g")
}

func TestAWrongByteInAKeptLayerIsSeen(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.boot(guest.Spec{Name: "g", Disks: []guest.DiskSpec{{Format: "raw"}}})
	b.snapshot("g", "s1")
	before := b.keptStates("g")
	f, err := os.OpenFile(b.host.Spec("g").Disks[0].Path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{1}, 6<<20) // beyond the ring
	must(t, err)
	must(t, f.Close())
	if after, err := b.host.KeptStates(t.Context(), "g"); err == nil {
		t.Errorf("state was %v and is %v: nothing noticed", before, after)
	}
}

func TestAGuestWritesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	for bus, length := range map[string]uint16{"ide": 1, "virtio": 8} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.boot(guest.Spec{
				Name: "g", Bus: bus, Disks: make([]guest.DiskSpec, 2),
				Params: guest.Params{Slots: 40, Pause: 1, Length: length},
			})
			stopAndGo(b)
		})
	}
}

// stopAndGo cuts a guest's power in several ways.
func stopAndGo(b *bed) {
	b.t.Helper()
	var last uint64
	for _, stop := range []func(){
		func() { b.destroy("g") },
		func() { b.crash("g") },
		func() { b.snapshot("g", "s"); b.destroy("g") },
	} {
		b.waitWrites("g", 90) // twice round the ring
		stop()
		now := b.checkGuest("g")["vda"].Blocks
		if now <= last+90 {
			b.t.Errorf("block %d after block %d", now, last)
		}
		last = now
		b.start("g")
	}
}

func TestGuestsOutliveADaemonThatIsKilled(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.boot(guest.Spec{Name: "g"})
	b.snapshot("g", "s1")
	before := b.keptStates("g")
	must(t, b.daemon.Kill())
	if _, err := b.host.Virsh(t.Context(), "list"); err == nil {
		t.Error("a dead daemon answers")
	}
	b.waitWrites("g", 60)
	must(t, b.daemon.StartDaemon())
	b.wantKept("g", before, "s1")
	b.snapshot("g", "s2")
	b.wantKept("g", before, "s1", "s2")
	b.checkGuest("g")
}

func TestDisksOnLoopDevices(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	ext4 := b.loopMount("ext4", 64<<20)
	xfs := b.loopMount("xfs", 300<<20)
	b.boot(guest.Spec{Name: "g", Disks: []guest.DiskSpec{
		{Path: b.loopDevice(8 << 20), Format: "raw", Block: true},
		{Path: b.loopDevice(16 << 20), Format: "qcow2", Block: true, Size: 8 << 20},
		{Path: ext4 + "/c.qcow2"},
		{Path: xfs + "/d.raw", Format: "raw"},
	}})
	b.virsh("snapshot-create-as", "g", "s1", "--disk-only", "--atomic",
		"--diskspec", "vda,file="+ext4+"/a.s1.qcow2", "--diskspec", "vdb,file="+xfs+"/b.s1.qcow2",
		"--diskspec", "vdc,file="+ext4+"/c.s1.qcow2", "--diskspec", "vdd,file="+xfs+"/d.s1.qcow2")
	before := b.keptStates("g")
	if n := len(before["s1"]); n != 4 {
		t.Errorf("snapshot of %d disks, want 4", n)
	}
	b.waitWrites("g", 60)
	b.wantKept("g", before, "s1")
	b.checkGuest("g")
}
