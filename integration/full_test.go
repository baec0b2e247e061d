package integration_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// overlayRoom is in MiB: nine layers of a guest that is slow to be rotated and has
// written all of its disk each time.
const overlayRoom = 160

// fillOverlays leaves room for a part of an overlay.
var fillOverlays = fmt.Sprintf("head -c %dM /dev/zero > ballast || true; truncate -s -100K ballast", overlayRoom)

// A fullBed is a guest that is shut off and has two snapshots; its base, its overlays
// and the state directory lie on small file systems of their own.
type fullBed struct {
	*bed
	base, overlays, state string // directories
}

func newFullBed(t *testing.T) *fullBed {
	t.Helper()
	b := &fullBed{bed: newBed(t)}
	b.logsOnFailure("g1")
	b.base = b.loopMount("ext4", 120<<20)
	b.overlays = b.tmpfs("overlays", fmt.Sprintf("size=%dm", overlayRoom))
	b.state = b.tmpfs("state", "size=256k")
	b.policy("2", b.overlays)
	size := 16 << 20
	if everyPlace() { // there is to be some of it left in the end
		size = 64 << 20
	}
	b.boot(guest.Spec{
		Name: "g1", Disks: []guest.DiskSpec{{Path: filepath.Join(b.base, "g1.qcow2"), Size: int64(size)}},
		Params: guest.Params{Slots: uint32(size) / guest.SlotSize, Pause: 1}, // each block takes a cluster
	})
	b.rotations("g1", 2)
	b.writeAndStop()
	return b
}

func (b *fullBed) policy(last, overlayDir string) {
	b.t.Helper()
	b.writePolicy(keep(last, fmt.Sprintf("overlay_dir = %q", overlayDir)))
}

// tmpfs mounts a file system in memory on a directory of the host's.
func (b *bed) tmpfs(name, options string) string {
	b.t.Helper()
	dir := b.path(name)
	must(b.t, os.Mkdir(dir, 0o755))
	run(b.t, dir, "mount -t tmpfs -o mode=755,"+options+" tmpfs .")
	b.t.Cleanup(func() {
		must(b.t, b.host.KillGuests())
		run(b.t, "/", "umount "+dir)
	})
	return dir
}

func (b *fullBed) writeAndStop() {
	b.t.Helper()
	b.waitWrites("g1", 20)
	b.destroy("g1")
}

// beginUntil starts a virt-rotate that stops at a place of a kind (see
// dieAt), and returns when it has, or is over.
func (b *bed) beginUntil(what string, at any, args ...string) *rotation {
	b.t.Helper()
	program, err := mortal()
	must(b.t, err)
	r := b.begin(program, []string{killAt[what] + "=" + fmt.Sprint(at), "VIRT_ROTATE_STOP=1"}, args...)
	b.awaitIn(r, "its end or a stop", func() bool { return slices.Contains([]string{"", "T", "Z"}, b.processState(r)) })
	return r
}

// goOn lets a run go on that has stopped. The place where that was is "" if it had
// ended before.
func (r *rotation) goOn() (res result, place string) {
	_ = r.cmd.Process.Signal(syscall.SIGCONT) // a process that has ended has no need of it
	res = r.wait()
	_, after, _ := strings.Cut(res.Stderr, "killed at ")
	place, _, _ = strings.Cut(after, "\n")
	return res, place
}

// A file system runs full at any moment of a rotation of a guest that is off: the run
// fails and names a path, or can do without; nothing is lost, not even if the next run
// finds it full; and once there is room, one finishes.
func TestFullStorageAtAnyMomentWhileOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, what string
		dir        func(b *fullBed) string
		step, last int // one in so many of the first places; all if VIRT_ROTATE_KILLS is set
	}{
		{"base", "write", func(b *fullBed) string { return b.base }, 20, 45},
		{"overlays", "boundary", func(b *fullBed) string { return b.overlays }, 3, 8},
		{"state", "boundary", func(b *fullBed) string { return b.state }, 4, 14},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newFullBed(t)
			c.step = sparse(c.step)
			if everyPlace() {
				c.last = 1000
			}
			failed, n := 0, 1
			for ; n <= c.last && !t.Failed(); n += c.step {
				exit, place := b.fullAt(c.dir(b), c.what, n)
				if place == "" {
					break
				}
				t.Logf("full at %s: exit status %d", place, exit)
				if exit != 0 {
					failed++
				}
			}
			t.Logf("%d places, one in %d tried, %d runs failed", n-1, c.step, failed)
			if failed == 0 && !t.Failed() {
				t.Error("no run failed: is the file system full?")
			}
		})
	}
}

// everyPlace tells whether tests that are cut short go to all places.
func everyPlace() bool { return os.Getenv("VIRT_ROTATE_KILLS") != "" }

// fullAt fills a file system when a run has come to its n-th place.
func (b *fullBed) fullAt(dir, what string, n int) (exit int, place string) {
	b.t.Helper()
	kept, now := b.survivors("g1", "--now"), b.checkGuest("g1")
	r := b.beginUntil(what, n, "run", "--now")
	ballast := fillUp(b.t, dir)
	res, place := r.goOn()
	if said := strings.ToLower(res.Stdout + res.Stderr); res.Exit != 0 && (!strings.Contains(said, "space") || !strings.Contains(said, strings.ToLower(dir))) {
		b.t.Errorf("%s: what is full is not told: %v", place, res)
	}
	for range 2 { // after the run, and after another one on the full file system
		b.wantSurvivors("g1", kept)
		if is := b.checkGuest("g1"); !maps.Equal(is, now) {
			b.t.Errorf("%s: the guest's disks went from %v to %v", place, now, is)
		}
		b.rotate("run", "--no-snapshot")
	}
	must(b.t, os.Remove(ballast))
	b.recover("g1", 3, "--no-snapshot")
	b.start("g1")
	b.checkGuest("g1")
	b.writeAndStop()
	return res.Exit, place
}

// fillUp writes a file until its file system is full, and returns its name.
func fillUp(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	must(t, err)
	for _, size := range []int{1 << 20, 4096} { // to the last block
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		t.Fatal(err)
	}
	_ = f.Sync() // what has not come to the disk is not there
	must(t, f.Close())
	return name
}

// Overlays cannot be made: a run and a restore say where and why, and change nothing;
// once they can, both are done.
func TestOverlaysThatCannotBeMadeAreNoHarm(t *testing.T) {
	t.Parallel()
	for _, c := range few([]struct {
		name, raise, lower string // scripts, in the directory of the overlays
	}{
		{"full", fillOverlays, "rm ballast"},
		{"no inodes", "mount -o remount,nr_inodes=$(( $(df --output=iused . | tail -1) )) .", "mount -o remount,nr_inodes=0 ."},
		{"read-only", "mount -o remount,ro .", "mount -o remount,rw ."},
		{"another directory that is not there", "", ""},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newFullBed(t)
			dir := b.overlays
			if c.raise == "" {
				dir = b.path("nowhere")
				b.policy("2", dir)
			}
			run(t, b.overlays, c.raise)
			oldest := b.snapshotNames("g1")[0]
			before := b.still("g1", b.overlays, b.base)
			for _, args := range [][]string{{"run", "--now"}, {"restore", "g1", oldest}, {"restore", "--discard-newer", "g1", oldest}} {
				r := b.rotate(args...)
				if r.Exit == 0 || !strings.Contains(r.Stdout+r.Stderr, dir) {
					t.Errorf("%q: %v", args, r)
				}
				t.Logf("%q: exit status %d: %s", args, r.Exit, strings.TrimSpace(r.Stdout+r.Stderr))
				before.unchanged(b.bed)
			}
			run(t, b.overlays, c.lower)
			b.policy("2", b.overlays)
			b.goesBack("restore", "g1", oldest)
		})
	}
}

// The same just when a restore makes its overlay: part of an image is no overlay, and
// nothing of it stays.
func TestStorageThatRunsFullInARestore(t *testing.T) {
	long(t)
	t.Parallel()
	b := newFullBed(t)
	oldest := b.snapshotNames("g1")[0]
	before := b.still("g1", b.overlays, b.base)
	r := b.beginUntil("write", 1, "restore", "--discard-newer", "g1", oldest)
	run(t, b.overlays, fillOverlays)
	if res, place := r.goOn(); place == "" || res.Exit != 1 || !strings.Contains(res.Stdout+res.Stderr, b.overlays) {
		t.Errorf("%s: %v", place, res)
	}
	must(t, os.Remove(filepath.Join(b.overlays, "ballast")))
	before.unchanged(b.bed)
	b.goesBack("restore", "--discard-newer", "g1", oldest)
}

// goesBack runs a restore, which must succeed, and rotates until nothing is left of it.
// Its last argument is the snapshot.
func (b *fullBed) goesBack(restore ...string) {
	b.t.Helper()
	kept, to := b.keptStates("g1"), restore[len(restore)-1]
	b.rotate(restore...).wantExit(b.t, 0)
	b.unchanged("g1", kept)
	if now := b.checkGuest("g1"); !maps.Equal(now, kept[to]) {
		b.t.Errorf("the guest has %v, not %v", now, kept[to])
	}
	b.start("g1")
	b.rotations("g1", 3)
	b.noRecords()
	b.wantTidy("g1", 3)
}

// An export for which there is no room leaves no file, and harms nothing.
func TestExportOntoAFullDisk(t *testing.T) {
	t.Parallel()
	b := newFullBed(t)
	small := b.tmpfs("small", "size=1m")
	name := b.snapshotNames("g1")[1]
	before := b.still("g1", b.overlays, b.base)
	for _, how := range [][]string{{"-O", "raw"}, {"-O", "qcow2"}, {"--compress"}} {
		run(t, small, "head -c 2M /dev/zero > ballast || true; truncate -s -128K ballast")
		r := b.rotate(append([]string{"export", "g1", name, "-o", filepath.Join(small, "out")}, how...)...)
		left, err := os.ReadDir(small)
		must(t, err)
		if len(left) != 1 || r.Exit != 1 || !strings.Contains(r.Stderr, small) || !strings.Contains(r.Stderr, "no space left") {
			t.Errorf("%q: %v; in the directory: %v", how, r, left)
		}
		t.Log(strings.TrimSpace(r.Stderr))
		before.unchanged(b.bed)
	}
	b.exportsAreTheStates("g1")
}
