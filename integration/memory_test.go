package integration_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// The counter of these guests is in their memory. After a boot they look for it on their first disk, for
// which the BIOS first reads the boot sector from another: a guest that has gone on has never read it. A
// memory that is of another moment than the disks would leave a gap in the numbered blocks, or write some
// twice, which CheckGuest sees.

// memoryFile is the file with the memory of a snapshot.
func (b *bed) memoryFile(dom, snapshot string) string {
	b.t.Helper()
	info := b.virsh("snapshot-dumpxml", dom, snapshot)
	found := regexp.MustCompile(`<memory snapshot='external' file='([^']+)'/>`).FindStringSubmatch(info)
	if found == nil || !strings.Contains(info, "<state>running</state>") {
		b.t.Fatalf("libvirt has no memory of %s:\n%s", snapshot, info)
	}
	return found[1]
}

// bootReads counts what the guest has read from its boot disk since its QEMU was started.
func (b *bed) bootReads(dom string) int {
	b.t.Helper()
	found := regexp.MustCompile(`rd_req (\d+)`).FindStringSubmatch(b.virsh("domblkstat", dom, "vdz"))
	if found == nil {
		b.t.Fatal("no figures of the boot disk")
	}
	n, err := strconv.Atoi(found[1])
	must(b.t, err)
	return n
}

// resumesAt takes a guest back to a snapshot with memory, and sees that it has gone on from there.
func (b *bed) resumesAt(dom, snapshot string, was map[string]guest.State) {
	b.t.Helper()
	b.rotate("restore", "--stop", "--force", "--patience", "1s", dom, snapshot).wantExit(b.t, 0)
	if state := b.domState(dom); state != "running" {
		b.t.Fatalf("the guest is %s", state)
	}
	if n := b.bootReads(dom); n != 0 {
		b.t.Errorf("the guest has booted: it has read its boot disk %d times", n)
	}
	b.waitWrites(dom, 30)
	for target, now := range b.checkGuest(dom) {
		if then := was[target].Blocks; now.Blocks <= then {
			b.t.Errorf("%s has %d blocks, no more than the snapshot", target, now.Blocks)
		}
	}
	b.same(dom, snapshot, was)
}

// wantNoMemories fails the test if a file with memory lies about.
func (b *bed) wantNoMemories() {
	b.t.Helper()
	left, err := filepath.Glob(b.path("images", "*.memory"))
	must(b.t, err)
	if len(left) > 0 {
		b.t.Errorf("left behind: %q", left)
	}
}

// A guest goes on from its memory, as often as one likes, whatever was rotated since; and the file goes
// with the snapshot.
func TestAGuestGoesOnFromItsMemory(t *testing.T) {
	t.Parallel()
	for name, new := range map[string]func(*testing.T) *bed{"daemon": newDaemonBed, "embedded": newBed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := new(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
			b.rotations("g1", 1)
			b.waitWrites("g1", 30)
			r := b.rotate("snapshot", "--memory", "--name", "mine", "--pin", "g1").wantExit(t, 0)
			if !regexp.MustCompile(`it stood still for \d+`).MatchString(r.Stdout) {
				t.Errorf("no word of the pause:\n%v", r)
			}
			was, file := b.keptStates("g1")["mine"], b.memoryFile("g1", "mine")
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 1<<16 {
				t.Errorf("%v %v", info, err)
			}
			b.wantSays(b.rotate("status", "g1"), "mine", "with memory (")
			b.wantSays(b.rotate("tree", "g1"), "memory in "+filepath.Base(file))
			b.resumesAt("g1", "mine", was)
			b.rotatesOver("g1")
			sum := fileSum(t, file)
			b.resumesAt("g1", "mine", was)
			b.resumesAt("g1", "mine", was)
			if fileSum(t, file) != sum {
				t.Error("the memory has changed")
			}
			b.wantSays(b.rotate("doctor", "g1"), "nothing found")
			b.rotate("unpin", "g1", "mine").wantExit(t, 0)
			b.rotations("g1", 4)
			if _, there := b.keptStates("g1")["mine"]; there {
				t.Error("the snapshot is still there")
			}
			b.wantNoMemories()
			b.checkGuest("g1")
		})
	}
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// rotatesOver rotates a guest four times, or ten if VIRT_ROTATE_TEN is set, with a pinned snapshot beside three others.
func (b *bed) rotatesOver(dom string) {
	b.t.Helper()
	rounds := 4
	if ten(false) == 10 {
		rounds = 10
	}
	for n := range rounds {
		b.waitWrites(dom, 20)
		before := b.keptStates(dom)
		if n%5 == 3 {
			b.bring(dom, "shut off")
		}
		b.rotateNow(dom)
		b.unchanged(dom, before)
		b.bring(dom, "running")
	}
	if names := b.snapshotNames(dom); len(names) != 4 {
		b.t.Errorf("snapshots %q, want 4", names)
	}
}

// The disks alone, and a guest that boots.
func TestMemoryIsNotUsedWhereNobodyWantsIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 30)
	b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	b.waitWrites("g1", 30)
	b.destroy("g1")
	b.wantSays(b.rotate("restore", "--no-start", "g1", "mine").wantExit(t, 0), "is not used: the guest is not to run")
	if now := b.checkGuest("g1"); b.domState("g1") != "shut off" || !maps.Equal(now, was) {
		t.Errorf("%s: %v, not %v", b.domState("g1"), now, was)
	}
	b.rotate("restore", "--without-memory", "--start", "g1", "mine").wantExit(t, 0)
	b.waitWrites("g1", 30)
	if b.bootReads("g1") == 0 {
		t.Error("the guest did not boot")
	}
	b.checkGuest("g1")
	b.same("g1", "mine", was)
	b.destroy("g1")
	must(t, os.Rename(b.memoryFile("g1", "mine"), b.path("images", "away")))
	b.wantRefused("memory", "restore", "g1", "mine")
	if r := b.rotate("doctor", "g1"); !strings.Contains(r.Stdout, "missing-file") || !strings.Contains(r.Stdout, "--without-memory") {
		t.Errorf("%v", r)
	}
	must(t, os.Rename(b.path("images", "away"), b.memoryFile("g1", "mine")))
	must(t, os.Truncate(b.memoryFile("g1", "mine"), 100))
	b.wantRefused("memory", "restore", "g1", "mine")
}

// A guest that is paused is so when it goes on; a snapshot resumes nothing that somebody has paused.
func TestMemoryOfAPausedGuest(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 30)
	b.virsh("suspend", "g1")
	b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	for range 2 {
		if state := b.domState("g1"); state != "paused" {
			t.Errorf("the guest is %s", state)
		}
		b.virsh("resume", "g1")
		b.waitWrites("g1", 30)
		b.checkGuest("g1")
		b.rotate("restore", "--stop", "--force", "--patience", "1s", "g1", "mine").wantExit(t, 0)
		b.same("g1", "mine", was)
	}
	if n := b.bootReads("g1"); n != 0 {
		t.Errorf("the guest has booted: it has read its boot disk %d times", n)
	}
}

// A machine that has changed so that it cannot go on stays off, on the disks of the snapshot.
func TestAGuestThatCannotGoOnIsOff(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 30)
	b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	b.waitWrites("g1", 30)
	b.destroy("g1")
	now := b.checkGuest("g1")
	file := b.memoryFile("g1", "mine")
	info, err := os.Stat(file)
	must(t, err)
	must(t, os.Truncate(file, info.Size()/2)) // libvirt reads its header only, beforehand
	r := b.rotate("restore", "g1", "mine")
	if r.Exit != 1 || !strings.Contains(r.Stdout, "the guest is off, for it does not go on from its memory") || b.domState("g1") != "shut off" {
		t.Fatalf("%s: %v", b.domState("g1"), r)
	}
	if is := b.checkGuest("g1"); !maps.Equal(is, was) {
		t.Errorf("the disks have %v, not %v", is, was)
	}
	names := b.snapshotNames("g1")
	b.same("g1", names[len(names)-1], now)
	b.start("g1")
	b.waitWrites("g1", 30)
	b.checkGuest("g1")
}

// What cannot be kept is refused, or fails, and nothing is left of it.
func TestMemoryThatCannotBeKept(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	small := b.loopMount("ext4", 96<<20)
	b.writePolicy("[policy.p]\ndomains = [\"g*\"]\nkeep = { last = 3 }\nmin_free = \"0%\"\n")
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Path: small + "/a.qcow2"}}})
	b.boot(guest.Spec{Name: "g2", Devices: "<filesystem type='mount'><source dir='" + b.path("images") + "'/><target dir='x'/></filesystem>" +
		"<shmem name='vr-" + filepath.Base(b.path("."))[3:] + "'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"})
	for _, g := range []string{"g1", "g2"} {
		b.waitWrites(g, 20)
	}
	before := b.filesIn(small)
	must(t, os.WriteFile(small+"/full", make([]byte, 60<<20), 0o600))
	b.wantRefused("no-space", "snapshot", "--memory", "g1")
	must(t, os.Remove(small+"/full"))
	r := b.rotate("snapshot", "--memory", "g2")
	if r.Exit != 1 || !strings.Contains(r.Stdout, "shmem") && !strings.Contains(r.Stdout, "migrat") {
		t.Errorf("%v", r)
	}
	b.destroy("g1")
	b.wantRefused("memory", "snapshot", "--memory", "g1")
	if now := b.filesIn(small); now != before {
		t.Errorf("there is\n%s\nbefore\n%s", now, before)
	}
	for _, g := range []string{"g1", "g2"} {
		if names := b.snapshotNames(g); len(names) > 0 {
			t.Errorf("snapshots %q", names)
		}
	}
	if state := b.domState("g2"); state != "running" {
		t.Errorf("the guest is %s", state)
	}
	b.waitWrites("g2", 20)
	b.checkGuest("g2")
}

// filesIn is what lies where images are, by name.
func (b *bed) filesIn(dir string) string {
	b.t.Helper()
	var names []string
	for _, dir := range []string{b.path("images"), b.path("state", "intents"), dir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return strings.Join(names, "\n")
}

// libvirt's own revert goes on from the memory, too, where libvirt can; rotation goes on after it, and the
// file goes with the snapshot.
func TestLibvirtGoesBackToASnapshotWithMemory(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 2)
	b.rotate("snapshot", "--memory", "--name", "mine", "--pin", "g1").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	b.rotations("g1", 3) // what is below is merged, and the metadata written anew
	b.waitWrites("g1", 20)
	b.destroy("g1")
	if b.goBackByLibvirt("g1", "mine", "--running") {
		b.await("the guest to go on", func() bool { return b.domState("g1") == "running" })
		if n := b.bootReads("g1"); n != 0 {
			t.Errorf("the guest has booted: it has read its boot disk %d times", n)
		}
	}
	b.bring("g1", "running")
	b.waitWrites("g1", 20)
	b.checkGuest("g1")
	b.same("g1", "mine", was)
	b.rotations("g1", 2)
	b.resumesAt("g1", "mine", was)
	b.rotate("unpin", "g1", "mine").wantExit(t, 0)
	b.rotations("g1", 4)
	b.wantNoMemories()
	b.checkGuest("g1")
}

// A Linux guest has file systems that it has not written to the disk, an agent, and writes to all of its memory
// all the time: it is saved, and goes on in the middle of a line of work.
func TestALinuxGuestGoesOnFromItsMemory(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	b.quiescePolicy("yes")
	b.inGuest("dd if=/dev/urandom of=/x bs=1M count=32; while :; do cp /x /y; done")
	must(t, b.host.WaitLines(t.Context(), "g1", 20))
	r := b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(t, 0)
	t.Log(r.Stdout)
	then, err := b.host.Lines("g1")
	must(t, err)
	must(t, b.host.WaitLines(t.Context(), "g1", 40))
	b.destroy("g1")
	before, err := os.ReadFile(b.host.SerialLog("g1"))
	must(t, err)
	b.rotate("restore", "g1", "mine").wantExit(t, 0)
	must(t, b.host.WaitLines(t.Context(), "g1", 30))
	after, err := os.ReadFile(b.host.SerialLog("g1"))
	must(t, err)
	first := regexp.MustCompile(`line (\d+)`).FindStringSubmatch(string(after[len(before):]))
	if n, err := strconv.Atoi(first[1]); err != nil || n < 20 || n > then+1 {
		t.Errorf("it goes on at line %d, it was at %d", n, then)
	}
	b.wantThawed()
	b.destroy("g1")
	d := b.disk("g1", "vda")
	b.qemuImg("convert", "-f", d.Format, "-O", "raw", d.Path, b.path("now.raw"))
	if out, err := exec.Command("e2fsck", "-p", b.path("now.raw")).CombinedOutput(); err != nil && !strings.Contains(string(out), "recovering journal") {
		t.Fatalf("%v: %s", err, out)
	}
	e2fs(t, "e2fsck", "-fn", b.path("now.raw"))
	for i, line := range strings.Fields(e2fs(t, "debugfs", "-R", "cat "+guest.LinuxLog, b.path("now.raw"))) {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
}
