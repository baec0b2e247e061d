package integration_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// guestSum is the sha256 of what a guest reads on an image.
func (b *bed) guestSum(path, format string) string {
	b.t.Helper()
	raw := filepath.Join(b.t.TempDir(), "raw")
	b.qemuImg("convert", "-U", "-f", format, "-O", "raw", path, raw)
	return sum(b.t, raw)
}

// Every snapshot of a guest that writes all the time is exported, in all ways.
func TestExportOfSnapshotsWhileTheGuestRuns(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 3)
	before := b.keptStates("g1")
	for i, name := range b.snapshotNames("g1") {
		for _, d := range b.disks("g1") {
			target := d.Target
			state := b.stateOf("g1", name, target)
			want := b.guestSum(state, formatOfLayer(b, "g1", target, state))
			for _, how := range [][]string{{"-O", "qcow2"}, {"-O", "raw"}, {"-O", "vhd"}, {"--compress"}} {
				out := b.path("export-" + name + target)
				args := append([]string{"export", "g1", name, "--disk", target, "-o", out}, how...)
				b.rotate(append(args, "--dry-run")...).wantExit(t, 0)
				if _, err := os.Stat(out); err == nil {
					t.Fatal("--dry-run has made a file")
				}
				b.rotate(args...).wantExit(t, 0)
				format := "qcow2"
				switch how[len(how)-1] {
				case "raw":
					format = "raw"
				case "vhd":
					format = "vpc" // as QEMU calls it; it takes the size from XenServer's VHDs as it is
				}
				if got := b.guestSum(out, format); got != want {
					t.Errorf("snapshot %d, %s, %q: other data", i, target, how)
				}
				if l, err := guest.Chain(t.Context(), out, format); err != nil || len(l) != 1 {
					t.Errorf("%v, %v", l, err)
				}
				if r := b.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "is there already") {
					t.Errorf("a second time: %v", r)
				}
				must(t, os.Remove(out))
			}
		}
	}
	b.exportsAreTheStates("g1")
	b.wantKept("g1", before, b.snapshotNames("g1")...)
	b.checkGuest("g1")
	for _, line := range []string{"export g1 nonsense -o x", "export nobody s -o x", "export g1 -o x", "export g1 " + b.snapshotNames("g1")[0] + " -o x", "export g1 " + b.snapshotNames("g1")[0] + " --disk sda -o x"} {
		if r := b.rotate(strings.Fields(line)...); r.Exit != 2 {
			t.Errorf("%s: %v", line, r)
		}
	}
	b.wantInOrder("g1", 4)
}

// An export that meets a rotation of the same layers is right, or fails and leaves
// no file; the rotation is done then, or by the next run.
func TestExportAmidARotation(t *testing.T) {
	long(t)
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 3)
	exported := 0
	for n := range 8 {
		b.bring("g1", "running")
		b.waitWrites("g1", 60)
		b.bring("g1", map[bool]string{true: "running", false: "shut off"}[n%4 < 2])
		before := b.keptStates("g1")
		name, target, out := b.snapshotNames("g1")[n%2], []string{"vda", "vdb"}[n%2], b.path("out.raw")
		run := b.beginRotate("run", "--now")
		time.Sleep(time.Duration(n) * 30 * time.Millisecond)
		export := b.rotate("export", "g1", name, "--disk", target, "-O", "raw", "-o", out)
		if r := run.wait(); r.Exit != 0 && r.Exit != 1 && r.Exit != 3 && r.Exit != 4 {
			t.Errorf("%v", r)
		}
		if export.Exit == 0 {
			exported++
			if got := sum(t, out); got != before[name][target].SHA256 {
				t.Errorf("export of %s, %s is not the state", name, target)
			}
			must(t, os.Remove(out))
		} else if _, err := os.Lstat(out); err == nil || export.Exit < 1 || export.Exit > 4 {
			t.Errorf("a file after a failure, or a strange end: %v", export)
		}
		b.unchanged("g1", before)
		b.checkGuest("g1")
		b.recover("g1", 4, "--no-snapshot")
	}
	t.Logf("%d of 8 exports were done amid a rotation", exported)
	if exported == 0 {
		t.Error("no export was done")
	}
}

// stateOf is the layer that holds the state of a snapshot's disk.
func (b *bed) stateOf(dom, snapshot, target string) string {
	b.t.Helper()
	overlay := b.overlay(dom, snapshot, target)
	layers := b.chain(dom, target) // active first
	i := slices.IndexFunc(layers, func(l guest.Layer) bool { return l.Path == overlay })
	if i < 0 || i+1 >= len(layers) {
		b.t.Fatalf("%s of %s is not in %v", overlay, target, layers)
	}
	return layers[i+1].Path
}

func formatOfLayer(b *bed, dom, target, path string) string {
	for _, l := range b.chain(dom, target) {
		if l.Path == path {
			return l.Format
		}
	}
	return "qcow2"
}

func TestTreeTellsWhoUsesAFile(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 1)
	base := b.chain("g1", "vda")[1].Path
	link := b.path("images", "hard-link")
	must(t, os.Link(base, link))
	for _, path := range []string{base, link} {
		out := b.rotate("tree", "--who", path).wantExit(t, 0).Stdout
		for _, want := range []string{"snapshot g1/" + b.snapshotNames("g1")[0], "built on by     " + b.disk("g1", "vda").Path, "opened by       a reader"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", path, want, out)
			}
		}
	}
	if r := b.rotate("tree", "--who", b.path("nothing")); r.Exit != 2 {
		t.Errorf("%v", r)
	}
}

func TestServeHandsOutASnapshotReadOnly(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	name, target := b.snapshotNames("g1")[0], b.disks("g1")[0].Target
	state := b.stateOf("g1", name, target)
	want := b.guestSum(state, formatOfLayer(b, "g1", target, state))
	socket := b.path("nbd")
	r := b.beginRotate("serve", "g1", name, "--socket", socket)
	url := "nbd+unix:///?socket=" + socket
	b.awaitIn(r, "the socket", func() bool { return listens(socket) })
	info, err := os.Stat(socket)
	must(t, err)
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket has mode %v", info.Mode())
	}
	raw := b.path("served.raw")
	b.qemuImg("convert", "-O", "raw", url, raw)
	if sum(t, raw) != want {
		t.Error("what is served is not the snapshot")
	}
	if out, err := b.host.Command(t.Context(), "qemu-io", "-f", "raw", "-c", "write 0 512", url).CombinedOutput(); err == nil {
		t.Errorf("it can be written to: %s", out)
	}
	must(t, r.cmd.Process.Signal(syscall.SIGTERM))
	if res := r.wait(); res.Exit != 0 || res.Stdout != "" && !strings.Contains(res.Stdout, url) {
		t.Errorf("%v", res)
	}
	b.wantInOrder("g1", 3)
}

// listens tells whether somebody can connect: a socket is there a moment before that.
func listens(socket string) bool {
	c, err := net.Dial("unix", socket)
	return err == nil && c.Close() == nil
}

// What serve --help shows is what one types, but for the place of the socket. guestfish boots a
// guest of its own: VIRT_ROTATE_LIBGUESTFS has its line typed, too.
func TestTheLinesInTheHelpOfServeWork(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "web"})
	b.writePolicy(strings.Replace(keepThree, "g*", "web", 1))
	b.rotations("web", 1)
	want := b.keptStates("web")[b.snapshotNames("web")[0]]["vda"].SHA256
	typed := map[string]bool{}
	var served *rotation
	for line := range strings.Lines(b.rotate("serve", "--help").wantExit(t, 0).Stdout) {
		line = strings.ReplaceAll(strings.TrimSpace(line), "/run/web.nbd", b.path("web.nbd"))
		switch word, rest, _ := strings.Cut(line, " "); {
		case word == "virt-rotate" && strings.HasSuffix(rest, "&"):
			served = b.beginRotate(strings.Fields(strings.TrimSuffix(rest, " &"))...)
			b.awaitIn(served, "the socket", func() bool { _, err := os.Stat(b.path("web.nbd")); return err == nil })
			typed["serve"] = true
		case word == "nbdcopy":
			shell(t, b.path(), "%s", line)
			if sum(t, b.path("disk.raw")) != want {
				t.Error("nbdcopy has made another disk")
			}
			typed[word] = true
		case word == "guestfish":
			if os.Getenv("VIRT_ROTATE_LIBGUESTFS") != "" {
				shell(t, b.path(), "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg %s", line)
			}
			typed[word] = true
		}
	}
	if len(typed) != 3 {
		t.Fatalf("the help has %v", typed)
	}
	must(t, served.cmd.Process.Signal(syscall.SIGTERM))
	served.wait().wantExit(t, 0)
}
