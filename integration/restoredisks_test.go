package integration_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A guest whose disks are of different moments writes on from the last block of the first
// one, so that the others hold no prefix of its writes for a while: here the content of
// each state is summed up instead.

// sumsOf are the contents of all states of the guest's snapshots, by snapshot and disk.
func (b *bed) sumsOf(dom string) map[string]string {
	b.t.Helper()
	sums := map[string]string{}
	for _, s := range b.snapshots(dom) {
		for _, d := range s.Disks {
			layer, err := guest.StateLayer(b.t.Context(), d)
			must(b.t, err)
			sums[s.Name+" "+d.Target] = b.guestSum(layer.Path, layer.Format)
		}
	}
	return sums
}

// sumOf is the content of what a disk of a guest reads; the guest does not write.
func (b *bed) sumOf(dom, target string) string {
	b.t.Helper()
	d := b.disk(dom, target)
	return b.guestSum(d.Path, d.Format)
}

// sameSums fails the test if a state that is still there is another than before.
func (b *bed) sameSums(what, dom string, before map[string]string) map[string]string {
	b.t.Helper()
	now := b.sumsOf(dom)
	for name, sum := range now {
		if was, ok := before[name]; ok && was != sum {
			b.t.Errorf("%s: the state %s has changed", what, name)
		}
	}
	return now
}

// A partialCase is a restore of one of two disks.
type partialCase struct {
	disk    string
	to      int // which of three snapshots, oldest first
	discard bool
	config  bool // the configuration goes back, too
	later   bool // vdb came after the first snapshot, and no disk is named
}

// One disk goes back to a snapshot, the other stays; the guest goes on and is rotated ten
// times, running and off by turns: every state that is listed stays what it was, and
// nothing is left over.
func TestRestoreOfOneDisk(t *testing.T) {
	t.Parallel()
	for _, c := range few([]partialCase{
		{disk: "vda", to: 0}, {disk: "vdb", to: 1}, {disk: "vda", to: 2}, {disk: "vdb", to: 0, discard: true}, {disk: "vda", to: 0, later: true},
		{disk: "vdb", to: 1, config: true},
	}, 2) {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			b.threeSnapshots(c)
			c.goBack(b)
			b.goesOn("g1", ten(false))
			if names := b.snapshotNames("g1"); len(names) != 3 {
				t.Errorf("snapshots %q, want 3", names)
			}
			b.noRecords()
			for _, d := range b.disks("g1") {
				if chain := b.chainOf(d); len(chain) != 4 {
					t.Errorf("%s: %v", d.Target, chain)
				}
			}
			b.noLeftovers("g1")
			b.bring("g1", "shut off")
			b.checkImages("g1")
			if r := b.rotate("doctor", "g1").wantExit(t, 0); !strings.Contains(r.Stdout, "nothing found") {
				t.Errorf("%v", r)
			}
		})
	}
}

// threeSnapshots leaves a guest off that has written since the last of them.
func (b *bed) threeSnapshots(c partialCase) {
	b.t.Helper()
	b.define(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	if c.later {
		b.virsh("detach-disk", "g1", "vdb", "--config")
	}
	b.start("g1")
	for n := range 3 {
		if c.later && n == 1 {
			b.destroy("g1")
			b.virsh("attach-disk", "g1", b.host.Spec("g1").Disks[1].Path, "vdb", "--targetbus", "ide", "--driver", "qemu", "--subdriver", "raw", "--config")
			b.start("g1")
		}
		b.waitWrites("g1", 30)
		b.rotateNow("g1")
	}
	b.waitWrites("g1", 30)
	b.virsh("desc", "g1", "--title", "--config", "changed")
	b.destroy("g1")
}

// goBack restores, and checks what is there right afterwards.
func (c *partialCase) goBack(b *bed) {
	b.t.Helper()
	before, to := b.sumsOf("g1"), b.snapshotNames("g1")[c.to]
	want := map[string]string{"vda": b.sumOf("g1", "vda"), "vdb": b.sumOf("g1", "vdb")}
	present := maps.Clone(want)
	want[c.disk] = before[to+" "+c.disk]
	args := []string{"restore", "g1", to}
	if !c.later {
		args = append(args, "--disk", c.disk)
	}
	if c.config {
		args = append(args, "--with-config")
	}
	if c.discard {
		args = append(args, "--discard-newer")
	}
	if r := b.rotate(append(args, "--dry-run")...).wantExit(b.t, 0); !strings.Contains(r.Stdout, "of different moments") {
		b.t.Errorf("%v", r)
	}
	b.rotate(args...).wantExit(b.t, 0)
	if title := strings.TrimSpace(b.virsh("desc", "g1", "--title")); (title == "changed") == c.config {
		b.t.Errorf("the guest's title is %q", title)
	}
	for target, sum := range want {
		if b.sumOf("g1", target) != sum {
			b.t.Errorf("%s reads something else", target)
		}
	}
	after := b.sameSums("the restore", "g1", before)
	if names := b.snapshotNames("g1"); !c.discard {
		for target, sum := range present {
			if after[names[len(names)-1]+" "+target] != sum {
				b.t.Errorf("the present of %s is not kept", target)
			}
		}
	}
	b.rotate("status", "*").wantExit(b.t, 0)
	b.rotate("tree", "g1").wantExit(b.t, 0)
	b.rotate("doctor", "g1").wantExit(b.t, 0)
	b.checkImages("g1")
}

// goesOn lets the guest be rotated n times, running and off by turns.
func (b *bed) goesOn(dom string, n int) {
	b.t.Helper()
	sums := b.sumsOf(dom)
	for i := range n {
		b.bring(dom, "running")
		b.waitWrites(dom, 30)
		if i%2 == 1 {
			b.bring(dom, "shut off")
		}
		b.rotateNow(dom)
		sums = b.sameSums(fmt.Sprintf("rotation %d", i), dom, sums)
	}
}

// After one disk has gone back, libvirt's own delete of that snapshot, or of a newer one,
// takes no state but that one's: what it would merge into, or delete, is not in use. (Of an
// older one see docs/recovery.md.)
func TestLibvirtsDeleteAfterARestoreOfOneDisk(t *testing.T) {
	long(t)
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 9", 1))
	c := partialCase{disk: "vda", to: 1}
	b.threeSnapshots(c)
	to := b.snapshotNames("g1")[c.to]
	c.goBack(b)
	for _, running := range []bool{false, true} {
		if running {
			b.start("g1")
			b.waitWrites("g1", 30)
			b.rotateNow("g1")
		}
		for _, name := range slices.Backward(b.snapshotNames("g1")) {
			if name < to {
				continue
			}
			if running {
				b.virsh("suspend", "g1")
			}
			before, active := b.sumsOf("g1"), [2]string{b.sumOf("g1", "vda"), b.sumOf("g1", "vdb")}
			out, err := b.host.Virsh(t.Context(), "snapshot-delete", "g1", name)
			t.Logf("running %v, %s: %s %v", running, name, strings.TrimSpace(out), err)
			for state, sum := range b.sumsOf("g1") {
				if before[state] != sum && !strings.HasPrefix(state, name+" ") {
					t.Errorf("running %v: after %s was deleted the state %s has changed", running, name, state)
				}
			}
			if active != [2]string{b.sumOf("g1", "vda"), b.sumOf("g1", "vdb")} {
				t.Errorf("running %v: after %s was deleted the disks have changed", running, name)
			}
			if running {
				b.virsh("resume", "g1")
			}
		}
	}
	b.rotate("run", "--now").wantExit(t, 0)
}

// Disks that nobody has are refused by name, and nothing is changed.
func TestRestoreOfADiskThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 1)
	b.destroy("g1")
	before := b.virsh("dumpxml", "g1")
	if r := b.rotate("restore", "--disk", "vdx", "g1", b.snapshotNames("g1")[0]).wantExit(t, 4); !strings.Contains(r.Stdout, "no-disk: vdx: the snapshot has no such disk: it has vda") {
		t.Errorf("%v", r)
	}
	if b.virsh("dumpxml", "g1") != before {
		t.Error("the domain has changed")
	}
}
