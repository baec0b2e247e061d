package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// sums are checksums of what qemu-img reads: by snapshot, "" being the present, and target.
type sums map[string]map[string]string

// insideSums reads what is inside the images of a guest that is off, by the names there.
func (b *bed) insideSums(dom string) sums {
	b.t.Helper()
	all := sums{}
	for _, d := range b.disks(dom) {
		out, err := exec.CommandContext(b.t.Context(), "qemu-img", "info", "-f", d.Format, "--output=json", d.Path).Output()
		must(b.t, err)
		var info struct {
			Snapshots []struct{ ID, Name string }
		}
		must(b.t, json.Unmarshal(out, &info))
		for id, sum := range internalStates(b.t, d.Path) {
			name := ""
			for _, s := range info.Snapshots {
				if s.ID == id {
					name = s.Name
				}
			}
			if all[name] == nil {
				all[name] = map[string]string{}
			}
			all[name][d.Target] = sum
		}
	}
	return all
}

// outsideSums reads the layers that libvirt has the snapshots' states in, and the disks.
func (b *bed) outsideSums(dom string) sums {
	b.t.Helper()
	all := sums{"": {}}
	for _, s := range b.snapshots(dom) {
		all[s.Name] = map[string]string{}
		for _, d := range s.Disks {
			if d.Overlay != "" {
				all[s.Name][d.Target] = stateSHA(b.t, b.stateLayer(dom, s.Name, d.Target), "")
			}
		}
	}
	for _, d := range b.disks(dom) {
		if b.domState(dom) == "shut off" {
			all[""][d.Target] = stateSHA(b.t, d.Path, "")
		}
	}
	return all
}

// stateLayer is the layer that the stored configuration of a snapshot names.
func (b *bed) stateLayer(dom, snapshot, target string) string {
	b.t.Helper()
	text := b.virsh("snapshot-dumpxml", dom, snapshot)
	_, after, _ := strings.Cut(text, "<domain")
	for _, disk := range strings.Split(after, "<disk ")[1:] {
		if disk, _, _ = strings.Cut(disk, "</disk>"); strings.Contains(disk, "<target dev='"+target+"'") {
			_, path, _ := strings.Cut(disk, "<source file='")
			path, _, _ = strings.Cut(path, "'")
			return path
		}
	}
	b.t.Fatalf("%s: no %s in\n%s", snapshot, target, text)
	return ""
}

func (b *bed) wantSums(what string, have, want sums) {
	b.t.Helper()
	for name := range want {
		if !maps.Equal(have[name], want[name]) {
			b.t.Errorf("%s: %q reads %v, not %v", what, name, have[name], want[name])
		}
	}
}

// A guest that writes all the time, with three internal snapshots by libvirt: with its memory, of
// the guest that is off, and on a branch.
func TestAGuestWithInternalSnapshotsIsAdopted(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: make([]guest.DiskSpec, 2)})
	b.virsh("snapshot-create-as", "g1", "running", "--description", "before <the> upgrade & \"after\"")
	b.waitWrites("g1", 60)
	b.destroy("g1")
	b.virsh("snapshot-create-as", "g1", "off")
	b.start("g1")
	b.destroy("g1")
	b.virsh("snapshot-revert", "g1", "running", "--force")
	b.waitWrites("g1", 40)
	b.destroy("g1")
	b.virsh("snapshot-create-as", "g1", "branch")
	want, images := b.insideSums("g1"), b.disks("g1")
	tree, before := b.virsh("snapshot-list", "g1", "--tree"), b.virsh("snapshot-dumpxml", "g1", "running")
	if r := b.rotate("run", "g1"); r.Exit == 0 || !strings.Contains(r.Stdout+r.Stderr, "virt-rotate adopt --internal g1") {
		t.Errorf("a run: %v", r)
	}
	dry := b.rotate("adopt", "--internal", "--dry-run", "g1").wantExit(t, 0)
	r := b.rotate("adopt", "--internal", "g1").wantExit(t, 0)
	t.Logf("%s\n%s", dry, r)
	b.wantSums("inside the images", b.insideSums("g1"), nil)
	b.wantSums("after the adoption", b.outsideSums("g1"), want)
	for i, d := range images {
		if len(internalStates(t, d.Path)) != 4 {
			t.Errorf("image %d was changed", i)
		}
	}
	if now := b.virsh("snapshot-list", "g1", "--tree"); now != tree {
		t.Errorf("the tree was\n%sand is\n%s", tree, now)
	}
	b.wantExternal("g1", "running", before)
	b.checkImages("g1")
	b.rotatesOn(want)
}

// wantExternal compares what libvirt has of a snapshot with what it had of it.
func (b *bed) wantExternal(dom, snapshot, before string) {
	b.t.Helper()
	if names := b.virsh("snapshot-list", dom, "--external", "--name"); len(strings.Fields(names)) != 3 {
		b.t.Errorf("external ones: %q", names)
	}
	if names := strings.Fields(b.virsh("snapshot-list", dom, "--disk-only", "--name")); !slices.Equal(names, []string{"running"}) {
		b.t.Errorf("of a guest that ran: %q", names)
	}
	if now := strings.TrimSpace(b.virsh("snapshot-current", dom, "--name")); now != "branch" {
		b.t.Errorf("%q is the current one", now)
	}
	after := b.virsh("snapshot-dumpxml", dom, snapshot)
	for _, tag := range []string{"creationTime", "description", "uuid", "memory unit"} {
		if tagText(before, tag) != tagText(after, tag) {
			b.t.Errorf("<%s> was %q and is %q", tag, tagText(before, tag), tagText(after, tag))
		}
	}
}

// tagText is the text of the first element of that name, with its attributes.
func tagText(text, tag string) string {
	_, after, _ := strings.Cut(text, "<"+tag)
	after, _, _ = strings.Cut(after, "</")
	return after
}

// rotatesOn lets the guest run, rotates it ten times, and goes back to each that was adopted.
func (b *bed) rotatesOn(want sums) {
	b.t.Helper()
	b.start("g1")
	for range 10 {
		b.rotate("run", "--now", "g1").wantExit(b.t, 0)
	}
	b.wantSums("after ten rotations", b.outsideSums("g1"), sums{"running": want["running"], "off": want["off"], "branch": want["branch"]})
	if n := len(b.snapshotNames("g1")); n != 6 {
		b.t.Errorf("%d snapshots, want 3 and 3", n)
	}
	b.checkGuest("g1")
	b.t.Logf("%s", b.rotate("tree", "g1"))
	wantText(b.t, b.rotate("doctor").wantExit(b.t, 0), "nothing found")
	b.destroy("g1")
	for _, name := range []string{"running", "off", "branch"} {
		b.rotate("restore", "g1", name).wantExit(b.t, 0)
		b.wantSums("gone back to "+name, b.outsideSums("g1"), sums{"": want[name]})
	}
	b.rotate("run", "--now", "g1").wantExit(b.t, 0)
	b.rotate("delete", "--foreign", "g1", "off", "running").wantExit(b.t, 0)
	b.wantSums("after two were deleted", b.outsideSums("g1"), sums{"branch": want["branch"]})
	b.start("g1")
	b.checkImagesOff("g1")
}

// checkImagesOff has the guest shut off first.
func (b *bed) checkImagesOff(dom string) {
	b.t.Helper()
	b.destroy(dom)
	b.leaks = true
	b.checkImages(dom)
}

// offInside defines a guest that is off, with two disks and three internal snapshots, one of
// them on a branch, and one that libvirt does not list.
func (b *bed) offInside(dom string) sums {
	b.t.Helper()
	b.define(guest.Spec{Name: dom, Disks: []guest.DiskSpec{{Size: 1 << 20}, {Size: 1 << 20}}})
	write := func(n int) {
		for i, d := range b.disks(dom) {
			b.qemuIO(d, fmt.Sprintf("write -q -P %d %dk 128k", n+10*i, 64*n))
		}
	}
	write(1)
	b.virsh("snapshot-create-as", dom, "one")
	write(2)
	b.virsh("snapshot-create-as", dom, "two")
	b.virsh("snapshot-revert", dom, "one")
	write(3)
	b.virsh("snapshot-create-as", dom, "branch")
	b.qemuImg("snapshot", "-c", "alone", b.disk(dom, "vdb").Path)
	write(4)
	return b.insideSums(dom)
}

// An adoption that is killed before the guest is on the layers has left libvirt with all
// internal snapshots, and the next one begins anew.
func TestKillAtEveryBoundaryOfAnAdoption(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	for what, dom := range map[string]string{"boundary": "g1", "write": "g2"} {
		want := b.offInside(dom)
		step := map[string]int{"boundary": 4, "write": 29}[what]
		if everyPlace() {
			step = 1
		}
		n := 1
		for ; ; n += step {
			place := b.dieAt(what, n, "adopt", "--internal", dom)
			t.Logf("%s %d: %s", what, n, place)
			if place == "" || b.onLayers(dom) {
				break
			}
			b.oldStateIsWhole(dom, want)
		}
		b.finishesAdoption(dom, want)
		if n < 35 {
			t.Errorf("%d places of %s", n, what)
		}
	}
}

// One that is killed afterwards is finished, also if libvirt has forgotten a snapshot just then.
func TestKillAtEveryBoundaryWhileMetadataIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	for i, place := range []string{"on the layers", "before redefine", "after redefine", "metadata replaced"} {
		dom := fmt.Sprint("g", i)
		want := b.offInside(dom)
		if at := b.dieAt("boundary", place, "adopt", "--internal", dom); at != place || !b.onLayers(dom) {
			t.Fatalf("died at %q", at)
		}
		b.rotate("run", "--now", dom).wantExit(t, 4)
		switch place {
		case "before redefine":
			b.virsh("snapshot-delete", dom, "one", "--metadata")
		case "after redefine":
			b.start(dom)
		}
		b.finishesAdoption(dom, want)
	}
}

// onLayers tells whether the guest starts from what was made.
func (b *bed) onLayers(dom string) bool {
	b.t.Helper()
	return strings.Contains(b.disk(dom, "vda").Path, ".gen1.")
}

// finishesAdoption adopts once more, and sees that nothing is left to do.
func (b *bed) finishesAdoption(dom string, want sums) {
	b.t.Helper()
	b.rotate("adopt", "--internal", dom).wantExit(b.t, 0)
	if b.domState(dom) == "running" {
		want = maps.Clone(want)
		delete(want, "")
	}
	b.wantSums("in the end", b.outsideSums(dom), want)
	for _, s := range b.snapshots(dom) {
		if parent := map[string]string{"two": "one", "branch": "one", "alone": "branch"}[s.Name]; s.Parent != parent {
			b.t.Errorf("%s descends from %q, not from %q", s.Name, s.Parent, parent)
		}
	}
	if made, err := filepath.Glob(filepath.Join(filepath.Dir(b.disk(dom, "vda").Path), dom+"-vd?.*.qcow2")); err != nil || len(made) != 9 {
		b.t.Errorf("%d files: %q %v", len(made), made, err)
	}
	b.rotate("run", "--now", dom).wantExit(b.t, 0)
}

// oldStateIsWhole sees that libvirt goes back to internal snapshots, and to the present again.
func (b *bed) oldStateIsWhole(dom string, want sums) {
	b.t.Helper()
	if names := strings.Fields(b.virsh("snapshot-list", dom, "--internal", "--name")); len(names) != 3 {
		b.t.Fatalf("libvirt has %q", names)
	}
	b.wantSums("the images", b.insideSums(dom), want)
}

// The ways to get it wrong, each told with what to do.
func TestWhatIsNotAdoptedByHand(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.offInside("g1")
	before := b.virsh("snapshot-list", "g1", "--tree")
	wantText(t, b.rotate("adopt", "g1").wantExit(t, 0), "g1 (shut off): nothing to do") // no other host has it
	b.rotate("adopt", "--internal", "nobody").wantExit(t, 2)
	b.virsh("snapshot-create-as", "g1", "outside", "--disk-only")
	wantText(t, b.rotate("adopt", "--internal", "g1").wantExit(t, 4), "snapshot outside is an external one")
	b.virsh("snapshot-delete", "g1", "outside", "--metadata")
	for _, d := range b.disks("g1") {
		b.qemuImg("commit", "-q", "-d", d.Path)
		must(t, os.Remove(d.Path))
		b.virsh("detach-disk", "g1", d.Target, "--config")
		b.virsh("attach-disk", "g1", b.host.Spec("g1").Disks[d.Target[2]-'a'].Path, d.Target, "--config", "--subdriver", "qcow2")
	}
	if now := b.virsh("snapshot-list", "g1", "--tree"); now != before {
		t.Fatalf("the tree is\n%s", now)
	}
	b.qemuImg("snapshot", "-d", "two", b.disk("g1", "vdb").Path)
	wantText(t, b.rotate("adopt", "--internal", "g1").wantExit(t, 4), "has none of that name", filepath.Base(b.disk("g1", "vdb").Path))
	b.virsh("snapshot-delete", "g1", "two", "--metadata")
	var told struct {
		Domains []struct{ Kept []struct{ Path string } }
	}
	b.rotate("adopt", "--internal", "--output=json", "g1").wantExit(t, 0).decode(t, &told)
	if len(told.Domains) != 1 || len(told.Domains[0].Kept) != 2 {
		t.Errorf("told: %+v", told)
	}
	if names := b.snapshotNames("g1"); !slices.Equal(slices.Sorted(slices.Values(names)), []string{"alone", "branch", "one", "two"}) {
		t.Errorf("snapshots: %q", names) // one disk had it still
	}
	wantText(t, b.rotate("adopt", "--internal", "g1").wantExit(t, 0), "nothing to do")
	b.virsh("start", "g1")
}

func wantText(t *testing.T, r result, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.Stdout+r.Stderr, text) {
			t.Errorf("%q is not in %v", text, r)
		}
	}
}

// libvirt's own revert and delete work on what was adopted, where it has them, and rotation goes
// on after both.
func TestLibvirtGoesBackToWhatWasAdopted(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	want := b.offInside("g1")
	b.rotate("adopt", "--internal", "g1").wantExit(t, 0)
	for _, name := range []string{"two", "one", "branch"} {
		out, err := b.host.Virsh(t.Context(), "snapshot-revert", "g1", name)
		if (err == nil) != b.libvirtReverts() {
			t.Errorf("%v: %s", err, out)
		}
		if err == nil {
			b.wantSums("gone back to "+name, b.outsideSums("g1"), sums{"": want[name]})
		}
		b.rotate("run", "--now", "g1").wantExit(t, 0)
		b.wantSums("after that", b.outsideSums("g1"), sums{"one": want["one"], "two": want["two"], "branch": want["branch"], "alone": want["alone"]})
	}
	if !b.libvirtReverts() {
		return
	}
	b.virsh("snapshot-delete", "g1", "alone") // the end of a branch, of which only a name is left
	b.wantSums("after a delete", b.outsideSums("g1"), sums{"one": want["one"], "two": want["two"], "branch": want["branch"]})
	b.rotate("run", "--now", "g1").wantExit(t, 0)
}
