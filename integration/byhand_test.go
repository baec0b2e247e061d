package integration_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// What a person says of a snapshot survives merges below it, a restore and other disks' work;
// rotation counts it for nothing, and its end is as careful as that of any other.
func TestSnapshotsByHandOfARealGuest(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keep("2", ""))
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 2)
	b.waitWrites("g1", 30)
	b.rotate("snapshot", "--name", "before-upgrade", "--note", `of "the" <database>`, "--pin", "g1").wantExit(t, 0)
	b.rotate("snapshot", "--name", "before-upgrade", "g1").wantExit(t, 4)
	pinned := b.keptStates("g1")["before-upgrade"]
	b.rotations("g1", 4)
	b.wantNames("g1", "before-upgrade", "*", "*")
	b.same("g1", "before-upgrade", pinned)
	if info := b.virsh("snapshot-dumpxml", "g1", "before-upgrade"); !strings.Contains(info, "; pinned; note") {
		t.Errorf("libvirt has it as\n%s", info)
	}
	b.wantSays(b.rotate("status", "g1"), "before-upgrade", "pinned", `of "the" <database>`)
	b.wantSays(b.rotate("tree", "g1"), "before-upgrade: pinned")
	b.wantSays(b.rotate("check", "g1"), "3 snapshots (1 pinned)")
	b.wantRefused("pinned", "delete", "g1", "before-upgrade")

	b.rotate("restore", "--stop", "--force", "--patience", "1s", "g1", "before-upgrade").wantExit(t, 0)
	if state := b.domState("g1"); state != "running" {
		t.Errorf("the guest, which ran, is %s", state)
	}
	b.rotations("g1", 4)
	b.same("g1", "before-upgrade", pinned)
	b.wantSays(b.rotate("status", "g1"), `of "the" <database>`)

	b.rotate("unpin", "g1", "before").wantExit(t, 0)
	b.rotate("delete", "g1", "before-upgrade").wantExit(t, 0)
	if slices.Contains(b.snapshotNames("g1"), "before-upgrade") {
		t.Error("it is still there")
	}
	b.checkGuest("g1")
	b.rotations("g1", 2)
	b.wantInOrder("g1", 3)
}

// same fails the test unless a snapshot has the state that it had.
func (b *bed) same(dom, name string, was map[string]guest.State) {
	b.t.Helper()
	b.unchanged(dom, states{name: was})
	if _, there := b.keptStates(dom)[name]; !there || len(was) == 0 {
		b.t.Errorf("snapshot %s of %s is gone, or was never there", name, dom)
	}
}

// wantNames compares the names of the snapshots, oldest first; * is any.
func (b *bed) wantNames(dom string, want ...string) {
	b.t.Helper()
	names := b.snapshotNames(dom)
	if !slices.EqualFunc(names, want, func(a, w string) bool { return w == "*" || a == w }) {
		b.t.Errorf("snapshots of %s: %q, want %q", dom, names, want)
	}
}

func (b *bed) wantSays(r result, words ...string) {
	b.t.Helper()
	for _, w := range words {
		if !strings.Contains(r.Stdout, w) {
			b.t.Errorf("no %q in\n%v", w, r)
		}
	}
}

// A guest without a policy has what a person asks for, and nothing else.
func TestSnapshotsByHandOfAGuestWithoutAPolicy(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy("[policy.p]\ndomains = [\"none\"]\nevery = \"1h\"\nkeep = { last = 1 }\nmin_free = \"0%\"\n")
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 20)
	b.rotate("snapshot", "--expire", "1h", "--name", "for-an-hour", "g1").wantExit(t, 0)
	b.waitWrites("g1", 20)
	b.rotate("snapshot", "g*").wantExit(t, 0)
	b.destroy("g1")
	b.rotate("snapshot", "--name", "off", "g1").wantExit(t, 0)
	b.virsh("start", "g1")
	before := b.keptStates("g1")
	if len(before) != 3 {
		t.Fatalf("snapshots %q", b.snapshotNames("g1"))
	}
	b.rotate("run").wantExit(t, 0)
	b.wantNames("g1", "for-an-hour", "*", "off")
	b.waitWrites("g1", 20)
	b.rotateIn(2*time.Hour, "run").wantExit(t, 0)
	b.wantNames("g1", "*", "off")
	b.unchanged("g1", before)
	b.rotate("prune", "--keep", "last=1", "g1").wantExit(t, 0)
	b.wantNames("g1", "off")
	b.same("g1", "off", before["off"])
	b.rotate("prune", "--keep", "last=0", "g1").wantExit(t, 0)
	b.wantNames("g1")
	if chain := b.chain("g1", "vda"); len(chain) != 1 {
		t.Errorf("%d layers", len(chain))
	}
	b.checkGuest("g1")
}

// A snapshot of somebody else goes when that is asked for, with its layer, and no other does.
func TestDeletingASnapshotOfSomebodyElse(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		t.Run(map[bool]string{false: "running", true: "off"}[off], func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1"})
			b.waitWrites("g1", 20)
			b.virsh("snapshot-create-as", "g1", "mine", "--disk-only")
			b.rotations("g1", 2)
			if off {
				b.destroy("g1")
			}
			before, layers := b.keptStates("g1"), len(b.chain("g1", "vda"))
			b.wantRefused("foreign-snapshot", "delete", "g1", "mine")
			b.rotate("delete", "--foreign", "g1", "mine").wantExit(t, 0)
			b.wantNames("g1", "*", "*")
			b.unchanged("g1", before)
			if n := len(b.chain("g1", "vda")); n != layers-1 {
				t.Errorf("%d layers, want %d", n, layers-1)
			}
			b.checkGuest("g1")
			b.noRecords()
		})
	}
}
