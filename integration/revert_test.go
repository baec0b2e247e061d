package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A revertCase is a guest with three snapshots that libvirt itself takes back to one.
type revertCase struct {
	name  string
	disks []guest.DiskSpec
	to    int // which of the snapshots, oldest first
	times int // one after the other
	args  []string
}

// libvirt's own revert deletes the active overlays and makes files of its own. The guest is
// rotated ten times after it, running and shut off by turns: no state changes that is still
// listed, nothing is left over, and names do not grow.
func TestLibvirtGoesBackAndRotationGoesOn(t *testing.T) {
	t.Parallel()
	for _, c := range few([]revertCase{
		{name: "oldest", disks: make([]guest.DiskSpec, 1), to: 0, times: 1},
		{name: "middle, two disks", disks: []guest.DiskSpec{{}, {Format: "raw"}}, to: 1, times: 1},
		{name: "newest", disks: make([]guest.DiskSpec, 1), to: 2, times: 1},
		{name: "middle, twice", disks: make([]guest.DiskSpec, 1), to: 1, times: 2},
		{name: "newest, twice", disks: []guest.DiskSpec{{}, {Format: "raw"}}, to: 2, times: 2},
		{name: "middle, and start", disks: make([]guest.DiskSpec, 1), to: 1, times: 1, args: []string{"--running"}},
	}, 3) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks})
			b.rotations("g1", 4)
			for range c.times {
				b.bring("g1", "running")
				b.waitWrites("g1", 30)
				b.destroy("g1")
				if !c.goBack(b) { // nothing was changed: rotation after other ways back has tests of its own
					b.start("g1")
					b.rotations("g1", 1)
					b.wantInOrder("g1", 4)
					return
				}
			}
			b.tenByTurns("g1")
			b.onlyChains("g1")
			b.wantInOrder("g1", 4)
		})
	}
}

// goBack has libvirt do it, where it can, and sees what is told of it.
func (c *revertCase) goBack(b *bed) bool {
	b.t.Helper()
	name := b.snapshotNames("g1")[c.to]
	if !b.goBackByLibvirt("g1", name, c.args...) {
		return false
	}
	for _, command := range []string{"status", "tree"} {
		if r := b.rotate(command, "g1").wantExit(b.t, 0); !strings.Contains(r.Stdout, "went back to "+name) {
			b.t.Errorf("%s says nothing of it: %v", command, r)
		}
	}
	b.rotate("doctor", "g1").wantExit(b.t, 0)
	var r report
	b.rotate("run", "--output=json", "g1").wantExit(b.t, 0).decode(b.t, &r)
	if len(c.args) == 0 && (r.Domains[0].Result != "nothing-to-do" || !strings.Contains(r.Domains[0].Waiting, "nothing was written since "+name)) {
		b.t.Errorf("%+v", r.Domains[0])
	}
	return true
}

// onlyChains fails the test if a file lies beside the images that no chain has, or one has a
// name that has grown.
func (b *bed) onlyChains(dom string) {
	b.t.Helper()
	used := map[string]bool{}
	for _, d := range b.disks(dom) {
		for _, l := range b.chainOf(d) {
			used[l.Path] = true
		}
	}
	files, err := filepath.Glob(b.path("images", dom+"-*"))
	must(b.t, err)
	grown := regexp.MustCompile(`\.p-\d{8}T\d{6}Z.*\.p-|\.\d{10}\..`)
	for _, f := range files {
		if !used[f] {
			b.t.Errorf("%s is left over", f)
		}
		if grown.MatchString(filepath.Base(f)) {
			b.t.Errorf("the name of %s has grown", f)
		}
	}
}

// libvirt goes back, virt-rotate goes back from there, to a state of the branch that was left
// and whose overlay libvirt has deleted, libvirt once more, and so on.
func TestLibvirtsRevertsAndOursByTurns(t *testing.T) {
	long(t)
	t.Parallel()
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "keep newer", true: "discard newer"}[discard], func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 9", 1))
			b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
			b.rotations("g1", 3)
			names := b.snapshotNames("g1")
			for _, to := range []string{names[2], names[0], names[1]} { // newest, oldest, middle
				b.writesOn("g1")
				b.goBackByLibvirt("g1", to)
				b.writesOn("g1")
				states := b.keptStates("g1")
				args := []string{"restore", "g1", names[1]}
				if discard {
					args = append(args, "--discard-newer")
				}
				b.rotate(args...).wantExit(t, 0)
				b.unchanged("g1", states)
				for target, now := range b.checkGuest("g1") {
					if now != states[names[1]][target] {
						t.Errorf("after libvirt's revert to %s: %s is in state %v, not %v", to, target, now, states[names[1]][target])
					}
				}
				b.bring("g1", "running")
				b.rotations("g1", 1)
				if discard {
					break // the others are given up
				}
			}
			b.writePolicy(keepThree)
			b.rotations("g1", 6)
			b.noRecords()
			b.onlyChains("g1")
			b.wantInOrder("g1", 4)
		})
	}
}

// A snapshot that libvirt went back to is redefined, since the one before it goes. libvirt must
// know afterwards what its revert has made: at the next one it would else delete what the
// snapshot's disks name, and that holds the state of the snapshot above.
func TestARedefinedSnapshotKeepsWhatARevertHasMade(t *testing.T) {
	long(t)
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 3)
	names := b.snapshotNames("g1")
	b.writesOn("g1")
	reverted := b.goBackByLibvirt("g1", names[1])
	b.writesOn("g1")
	before := b.keptStates("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 2", 1))
	b.rotate("run", "--no-snapshot", "g1").wantExit(t, 0)
	b.wantKept("g1", before, names[1], names[2])
	if has := strings.Contains(b.virsh("snapshot-dumpxml", "g1", names[1]), "<revertDisks>"); has != reverted {
		t.Errorf("revertDisks are there: %v", has)
	}
	b.goBackByLibvirt("g1", names[2])
	b.wantKept("g1", before, names[1], names[2])
	b.bring("g1", "running")
	b.rotations("g1", 4)
	b.noRecords()
	b.onlyChains("g1")
	b.wantInOrder("g1", 3)
}

// writesOn lets the guest write, and shuts it off.
func (b *bed) writesOn(dom string) {
	b.t.Helper()
	b.bring(dom, "running")
	b.waitWrites(dom, 30)
	b.destroy(dom)
}

// A snapshot is deleted by libvirt's own means: the oldest, one in the middle, the newest, the
// end of a branch that was left. Each time the next runs are what they always are.
func TestLibvirtDeletesASnapshot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		which int
		off   bool
		left  bool // the snapshots above the oldest are on a branch that was left
	}{
		"oldest": {which: 0}, "middle": {which: 1}, "newest": {which: 2},
		"oldest, off": {which: 0, off: true}, "middle, off": {which: 1, off: true}, "newest, off": {which: 2, off: true},
		"end of a branch": {which: 2, off: true, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !slices.Contains([]string{"oldest", "middle, off", "end of a branch"}, name) {
				long(t)
			}
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
			b.rotations("g1", 4)
			b.waitWrites("g1", 30)
			if c.off || c.left {
				b.destroy("g1")
			}
			names := b.snapshotNames("g1")
			if c.left {
				if !b.goBackByLibvirt("g1", names[0]) {
					b.rotate("restore", "g1", names[0]).wantExit(t, 0)
				}
			}
			before := b.keptStates("g1")
			b.refusesChildren("g1", names[0])
			if out, err := b.host.Virsh(t.Context(), "snapshot-delete", "g1", names[c.which]); err != nil && (!c.left || b.libvirtReverts()) {
				t.Fatal(err)
			} else if err == nil && c.left && !b.libvirtReverts() { // before 9.9 it looks for all snapshots in the disks' own chains
				t.Errorf("libvirt deletes a snapshot of a branch: %s", out)
			}
			b.unchanged("g1", before)
			b.rotate("plan", "g1").wantExit(t, 0)
			b.bring("g1", "running")
			b.rotations("g1", 6)
			b.noRecords()
			b.onlyChains("g1")
			b.wantInOrder("g1", 4)
		})
	}
}

// refusesChildren sees that libvirt does not delete the children of an external snapshot, in
// any of the versions that are known: what it would leave behind is not.
func (b *bed) refusesChildren(dom, name string) {
	b.t.Helper()
	before := b.keptStates(dom)
	for _, how := range []string{"--children", "--children-only"} {
		if out, err := b.host.Virsh(b.t.Context(), "snapshot-delete", dom, name, how); err == nil {
			b.t.Errorf("libvirt deletes children of an external snapshot now: %s", out)
		}
	}
	b.unchanged(dom, before)
	if _, err := os.Stat(b.disk(dom, "vda").Path); err != nil {
		b.t.Error(err)
	}
}
