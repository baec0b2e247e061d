package integration_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// slowMemory lets libvirt compress memory by a gzip that does not begin before go is called, and then does
// what gzip does: what is to happen while memory is written happens then.
func (b *bed) slowMemory() (start func()) {
	b.t.Helper()
	gzip, err := exec.LookPath("gzip")
	must(b.t, err)
	bin, begin := b.path("bin"), b.path("begin")
	waits := b.path(waitsToSave)
	must(b.t, os.MkdirAll(bin, 0o755))
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *d*) ;; *) : > '%s'; while ! [ -e '%s' ] && [ -d '%s' ]; do sleep 0.05; done ;; esac\nexec %s \"$@\"\n", waits, begin, bin, gzip)
	must(b.t, os.WriteFile(filepath.Join(bin, "gzip"), []byte(script), 0o755))
	conf, err := os.OpenFile(b.path("etc", "qemu.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(b.t, err)
	_, err = conf.WriteString("snapshot_image_format = \"gzip\"\n")
	must(b.t, err)
	must(b.t, conf.Close())
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	b.env = append(b.env, path)
	if b.daemon != nil {
		must(b.t, b.daemon.Kill())
		b.daemon.Env = append(b.daemon.Env, path)
		must(b.t, b.daemon.StartDaemon())
	}
	return func() { must(b.t, os.WriteFile(begin, nil, 0o600)) }
}

// waitsToSave is there as soon as memory is being written.
const waitsToSave = "waits-to-save"

// slowSnapshot begins a snapshot with memory, and returns when that is being written.
func (b *bed) slowSnapshot(dom, dir string) (r *rotation, file string) {
	b.t.Helper()
	r = b.beginRotate("snapshot", "--memory", "--name", "mine", dom)
	b.awaitIn(r, "memory being written", func() bool {
		_, err := os.Stat(b.path(waitsToSave))
		return err == nil
	})
	found, err := filepath.Glob(filepath.Join(dir, "*.memory"))
	must(b.t, err)
	if len(found) != 1 {
		b.t.Fatalf("files with memory: %q", found)
	}
	return r, found[0]
}

// wantTakenBack fails the test unless nothing is left of the snapshot and the guest goes on.
func (b *bed) wantTakenBack(dom string) {
	b.t.Helper()
	if names := b.snapshotNames(dom); len(names) > 0 {
		b.t.Errorf("snapshots %q", names)
	}
	if found, _ := filepath.Glob(b.path("images", "*mine*")); len(found) > 0 {
		b.t.Errorf("left behind: %q", found)
	}
	if found, _ := filepath.Glob(b.path("state", "intents", "*")); len(found) > 0 {
		b.t.Errorf("intents: %q", found)
	}
	if state := b.domState(dom); state != "running" {
		b.t.Errorf("the guest is %s", state)
	}
	b.waitWrites(dom, 20)
	b.checkGuest(dom)
}

const takesNone = "[policy.p]\ndomains = [\"g*\"]\nkeep = { last = 3 }\nmin_free = \"0%\"\n"

// A run is killed while libvirtd writes the memory: libvirtd goes on alone. Until it is done nothing is
// touched; then the snapshot is there, whole.
func TestLibvirtdFinishesASnapshotWithMemoryAlone(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	begin := b.slowMemory()
	b.writePolicy(takesNone)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	r, file := b.slowSnapshot("g1", b.path("images"))
	r.kill()
	refused := b.rotate("run", "--no-snapshot")
	if refused.Exit != 4 || !strings.Contains(refused.Stdout, "libvirt is at work on the guest (a snapshot)") {
		t.Errorf("%v", refused)
	}
	b.wantRefused("state", "snapshot", "--memory", "g1")
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	b.waitWrites("g1", 20) // it runs meanwhile
	begin()
	b.await("libvirtd's end of it", func() bool { return strings.Contains(b.virsh("domjobinfo", "g1"), "None") })
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	if b.memoryFile("g1", "mine") != file || len(was) != 2 {
		t.Errorf("%v", was)
	}
	if found, _ := filepath.Glob(b.path("state", "intents", "*")); len(found) > 0 {
		t.Errorf("intents: %q", found)
	}
	b.resumesAt("g1", "mine", was)
}

// Whoever writes the memory dies with it: nothing is left of it.
func TestAHalfWrittenMemoryIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(*bed, *rotation){
		"the run, with libvirt embedded": func(_ *bed, r *rotation) { r.kill() },
		"libvirtd and the run": func(b *bed, r *rotation) {
			r.kill()
			must(b.t, b.daemon.Kill())
			must(b.t, b.daemon.StartDaemon())
		},
		"libvirtd": func(b *bed, r *rotation) {
			must(b.t, b.daemon.Kill())
			if res := r.wait(); res.Exit != 1 {
				b.t.Errorf("%v", res)
			}
			must(b.t, b.daemon.StartDaemon())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed
			if strings.Contains(name, "embedded") {
				b = newBed
			}
			takenBack(b(t), die)
		})
	}
}

func takenBack(b *bed, die func(*bed, *rotation)) {
	b.t.Helper()
	b.logsOnFailure("g1")
	begin := b.slowMemory()
	b.writePolicy(takesNone)
	b.boot(guest.Spec{Name: "g1"})
	r, _ := b.slowSnapshot("g1", b.path("images"))
	die(b, r)
	b.await("libvirt to be done with it", func() bool { return strings.Contains(b.virsh("domjobinfo", "g1"), "None") })
	b.rotate("run", "--no-snapshot").wantExit(b.t, 0)
	b.wantTakenBack("g1")
	begin()
	b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(b.t, 0)
	b.resumesAt("g1", "mine", b.keptStates("g1")["mine"])
}

// A run that is interrupted has libvirt end its work, where libvirt does not die of that; else it waits for its
// end, and the snapshot is whole.
func TestAnInterruptedSnapshotWithMemory(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	begin := b.slowMemory()
	b.writePolicy(takesNone)
	b.boot(guest.Spec{Name: "g1"})
	r, _ := b.slowSnapshot("g1", b.path("images"))
	must(t, r.cmd.Process.Signal(syscall.SIGINT))
	major, minor := b.libvirtVersion()
	ends := major < 11 || major == 11 && minor <= 3
	if ends {
		b.await("QEMU to end it", func() bool {
			return strings.Contains(b.virsh("qemu-monitor-command", "g1", `{"execute":"query-migrate"}`), `"cancel`)
		})
	}
	begin() // libvirt waits for gzip
	if res := r.wait(); !strings.Contains(res.Stdout, "canceled") {
		t.Errorf("%v", res)
	}
	if ends {
		b.wantTakenBack("g1")
		return
	}
	b.resumesAt("g1", "mine", b.keptStates("g1")["mine"])
}

// The file system runs full while the memory is written.
func TestAFullFileSystemCostsTheSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	begin := b.slowMemory()
	small := b.loopMount("ext4", 128<<20)
	b.writePolicy(takesNone + "overlay_dir = \"" + small + "\"\n")
	b.boot(guest.Spec{Name: "g1"})
	r, _ := b.slowSnapshot("g1", small)
	_, err := exec.Command("dd", "if=/dev/zero", "of="+small+"/full", "bs=64k").CombinedOutput()
	if err == nil {
		t.Fatal("it is not full")
	}
	begin()
	if res := r.wait(); res.Exit != 1 {
		t.Errorf("%v", res)
	} else {
		t.Log(res.Stdout)
	}
	if found, _ := filepath.Glob(small + "/*mine*"); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
	b.wantTakenBack("g1")
	must(t, os.Remove(small+"/full"))
	b.rotate("snapshot", "--memory", "--name", "mine", "g1").wantExit(t, 0)
}

// A guest that writes faster than can be saved is paused, and goes on when all is written.
func TestAGuestThatOutrunsItsMemoryIsPaused(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	begin := b.slowMemory()
	b.writePolicy(takesNone)
	b.boot(guest.Spec{Name: "g1"})
	r, file := b.slowSnapshot("g1", b.path("images"))
	info, err := os.Stat(file)
	must(t, err)
	must(t, os.Truncate(file, 100<<20)) // as if so much of it had been written
	b.awaitIn(r, "a pause", func() bool { return b.domState("g1") == "paused" })
	must(t, os.Truncate(file, info.Size()))
	begin()
	res := r.wait().wantExit(t, 0)
	if !strings.Contains(res.Stdout, "it stood still for") {
		t.Errorf("%v", res)
	}
	if state := b.domState("g1"); state != "running" {
		t.Fatalf("the guest is %s", state)
	}
	b.waitWrites("g1", 20)
	b.resumesAt("g1", "mine", b.keptStates("g1")["mine"])
}

// A restore is killed just before the guest goes on, and just after: it is off, on the disks of the snapshot, or runs.
func TestKillAroundAGoingOn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.waitWrites("g1", 20)
	b.rotate("snapshot", "--memory", "--pin", "--name", "mine", "g1").wantExit(t, 0)
	was := b.keptStates("g1")["mine"]
	for place, state := range map[string]string{"before go-on": "shut off", "after go-on": "running"} {
		b.waitWrites("g1", 20)
		b.destroy("g1")
		if b.dieAt("boundary", place, "restore", "g1", "mine") == "" {
			t.Fatal("not killed")
		}
		if is := b.domState("g1"); is != state {
			t.Errorf("killed %s: the guest is %s", place, is)
		}
		if now := b.checkGuest("g1"); state != "running" && !maps.Equal(now, was) {
			t.Errorf("killed %s: %v, not %v", place, now, was)
		}
		b.rotate("run", "--no-snapshot").wantExit(t, 0)
		b.resumesAt("g1", "mine", was)
	}
}

// A snapshot with memory dies at each of its boundaries, and a restore from it: the snapshot is there
// with its memory, or neither is, and the guest goes on.
func TestKillAtEveryBoundaryOfASnapshotWithMemory(t *testing.T) {
	long(t)
	t.Parallel()
	disks := []guest.DiskSpec{{}, {Format: "raw"}}
	for _, c := range []boundaryCase{
		{name: "daemon", bed: newDaemonBed, disks: disks, last: 2, places: 8, step: 4},
		{name: "embedded", bed: newBed, disks: disks, last: 2, places: 8, step: 6},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killWithMemory) })
	}
}

// diedAsQEMUSwitched is when libvirt's driver, which is in the killed process, has not noted any more that
// QEMU writes to the overlays: the first case of docs/recovery.md, which is left to a person. All files stay, and
// the guest goes on; other places cannot be tried on it.
func (b *bed) diedAsQEMUSwitched(run result, kept states) {
	b.t.Helper()
	run.wantExit(b.t, 3)
	if !strings.Contains(run.Stdout, "docs/recovery.md") {
		b.t.Errorf("the refusal does not say where to read on: %s", run.Stdout)
	}
	found, err := filepath.Glob(b.path("images", "g1-*.mine-*.qcow2"))
	must(b.t, err)
	if len(found) == 0 {
		b.t.Error("the overlay that QEMU writes to is gone")
	}
	b.unchanged("g1", kept)
	b.waitWrites("g1", 10)
	b.t.Log("the kill came as QEMU switched over: places after this one were not tried")
}

// killWithMemory kills a snapshot with memory at its n-th place.
func (c *boundaryCase) killWithMemory(b *bed, n int) string {
	b.t.Helper()
	kept := b.keptStates("g1")
	b.waitWrites("g1", 20)
	name := fmt.Sprintf("mine-%d", n)
	place := b.dieAt(c.kind(), n, "snapshot", "--memory", "--pin", "--name", name, "g1")
	b.await("libvirt to be done with it", func() bool { return strings.Contains(b.virsh("domjobinfo", "g1"), "None") })
	run := b.rotate("run", "--no-snapshot")
	if c.name == "embedded" && strings.Contains(run.Stdout, "but a process has it open") {
		b.diedAsQEMUSwitched(run, kept)
		return ""
	}
	run.wantExit(b.t, 0)
	b.unchanged("g1", kept)
	was, listed := b.keptStates("g1")[name]
	found, err := filepath.Glob(b.path("images", "*.memory"))
	must(b.t, err)
	if listed && len(found) != 1 || !listed && len(found) > 0 {
		b.t.Errorf("%s: listed: %v, there is %q", place, listed, found)
	}
	if state := b.domState("g1"); state != "running" {
		b.t.Errorf("%s: the guest is %s", place, state)
	}
	if listed {
		b.resumesAt("g1", name, was)
		b.rotate("unpin", "g1", name).wantExit(b.t, 0)
		b.rotate("delete", "g1", name).wantExit(b.t, 0)
		b.rotations("g1", 3) // they clear away what the restore left
	}
	b.wantNoMemories()
	b.noLeftovers("g1")
	b.waitWrites("g1", 10)
	if now := b.checkGuest("g1"); len(now) != 2 || maps.Equal(now, was) {
		b.t.Errorf("%s: %v", place, now)
	}
	return place
}
