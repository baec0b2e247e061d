package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// An export that is killed anywhere has left nothing under its name, or all of it. What it left
// under another is named by the next one, with a command that removes it.
func TestKillAtEveryBoundaryOfAnExport(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	name := b.readyForExport()
	base := b.path("base")
	b.rotate("export", "g1", name, "--all", "-o", base).wantExit(t, 0)
	dir := b.path("out")
	for i, args := range [][]string{{"export", "g1", name, "--all", "-o", dir}, {"export", "g1", name, "--all", "--base", base, "-o", dir}} {
		for what, step := range map[string]int{"boundary": 1 + 2*i, "write": 11} {
			places := b.everyPlaceOf(what, step, args, func() {
				if _, err := os.Lstat(dir); err == nil {
					b.rotate("verify", "--full", dir).wantExit(t, 0)
					must(t, os.RemoveAll(dir))
				}
				b.tidiesUp(b.path(), append(args, "--dry-run")...)
			})
			if least := map[string]int{"boundary": 8, "write": 8}[what]; places < least {
				t.Errorf("%d places of %s, want %d at least", places, what, least)
			}
			b.rotate("verify", "--full", dir).wantExit(t, 0)
			must(t, os.RemoveAll(dir))
		}
	}
}

// readyForExport defines a guest that is off, with a snapshot.
func (b *bed) readyForExport() (snapshot string) {
	b.t.Helper()
	b.writePolicy(keepThree)
	b.define(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Size: 1 << 20}, {Size: 1 << 20}}})
	for _, d := range b.disks("g1") {
		b.qemuIO(d, "write -q -P 7 64k 128k")
	}
	b.rotate("run", "--now").wantExit(b.t, 0)
	return b.snapshotNames("g1")[0]
}

func (b *bed) qemuIO(d guest.Disk, command string) {
	b.t.Helper()
	if out, err := b.host.Command(b.t.Context(), "qemu-io", "-f", d.Format, "-c", command, d.Path).CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
}

// everyPlaceOf has virt-rotate killed at one in so many places of a kind, at each if all are
// wanted, until it ends by itself. It returns how many there were.
func (b *bed) everyPlaceOf(what string, step int, args []string, then func()) (places int) {
	b.t.Helper()
	if everyPlace() {
		step = 1
	}
	for n := 1; ; n += step {
		place := b.dieAt(what, n, args...)
		if place == "" {
			return n - 1
		}
		b.t.Logf("%s %d: %s", what, n, place)
		then()
		if b.t.Failed() {
			b.t.FailNow()
		}
	}
}

var removal = regexp.MustCompile(`was left by a run that was killed[^\n]*: rm -r ([^\n]*)`)

// tidiesUp runs a command, which names what is left in dir, and removes that as it says.
func (b *bed) tidiesUp(dir string, args ...string) result {
	b.t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".virt-rotate-*.tmp"))
	must(b.t, err)
	r := b.rotate(args...)
	found := removal.FindStringSubmatch(r.Stderr)
	if (len(left) > 0) != (found != nil) {
		b.t.Fatalf("%q is left, and the next command says %v", left, r)
	}
	if found != nil {
		if out, err := b.host.Command(b.t.Context(), "sh", "-c", "rm -r "+found[1]).CombinedOutput(); err != nil {
			b.t.Fatalf("%v: %s", err, out)
		}
	}
	if left, _ = filepath.Glob(filepath.Join(dir, ".virt-rotate-*.tmp")); len(left) > 0 {
		b.t.Fatalf("%q is still there", left)
	}
	return r
}

// An import that is killed anywhere has left no guest, or all of it.
func TestKillAtEveryBoundaryOfAnImport(t *testing.T) {
	t.Parallel()
	b, there := newBed(t), newBed(t)
	name, dir, images := b.readyForExport(), b.path("out"), there.path("images")
	b.rotate("export", "g1", name, "--all", "-o", dir).wantExit(t, 0)
	m := manifestOf(t, dir)
	args := []string{"import", dir, "--to", images, "--trust"}
	for what, step := range map[string]int{"boundary": 1, "write": 11} {
		defined := 0
		places := there.everyPlaceOf(what, step, args, func() {
			if strings.Contains(there.virsh("list", "--all", "--name"), "g1") {
				defined++
				there.wantWhole(images, m.Disk("vda").ContentSHA256, m.Disk("vdb").ContentSHA256)
				there.rotate("import", dir, "--to", images, "--trust", "--name", "other", "--dry-run").wantExit(t, 0)
				wantFiles(t, images, 2)
				there.forget(images)
			}
			there.staysInUse(images, append(args, "--dry-run"))
			there.tidiesUp(images, append(args, "--dry-run")...)
			wantFiles(t, images, 0)
		})
		if least := map[string]int{"boundary": 7, "write": 8}[what]; places < least || what == "boundary" && defined != 1 {
			t.Errorf("%d places of %s, want %d at least; the guest was defined at %d", places, what, least, defined)
		}
		there.wantWhole(images, m.Disk("vda").ContentSHA256, m.Disk("vdb").ContentSHA256)
		wantFiles(t, images, 2)
		there.forget(images)
	}
}

// staysInUse defines another guest on an image that an import has placed before it was killed: the
// command that removes what is left must not name it then.
func (b *bed) staysInUse(images string, args []string) {
	b.t.Helper()
	image := filepath.Join(images, "g1-vda.qcow2")
	if _, err := os.Stat(image); err != nil {
		return
	}
	xml := b.path("borrows.xml")
	must(b.t, os.WriteFile(xml, []byte("<domain type='qemu'><name>borrows</name><memory>65536</memory><os><type>hvm</type></os><devices>"+
		"<disk type='file'><driver type='qcow2'/><source file='"+image+"'/><target dev='vda'/></disk></devices></domain>"), 0o644))
	b.virsh("define", xml)
	r := b.rotate(args...)
	if !strings.Contains(r.Stderr, image+" was placed by an import that was killed, and is in use") || strings.Contains(removal.FindString(r.Stderr), "rm -r "+image) ||
		strings.Contains(removal.FindStringSubmatch(r.Stderr)[1], image) {
		b.t.Errorf("%v", r)
	}
	b.virsh("undefine", "borrows")
}

// wantWhole compares the disks of a guest that was imported with the manifest.
func (b *bed) wantWhole(images, vda, vdb string) {
	b.t.Helper()
	for target, want := range map[string]string{"vda": vda, "vdb": vdb} {
		if got := b.guestSum(filepath.Join(images, "g1-"+target+".qcow2"), "qcow2"); got != want {
			b.t.Errorf("%s is another state", target)
		}
	}
}

// forget takes an imported guest away, with its images.
func (b *bed) forget(images string) {
	b.t.Helper()
	b.virsh("undefine", "g1")
	for _, target := range []string{"vda", "vdb"} {
		must(b.t, os.Remove(filepath.Join(images, "g1-"+target+".qcow2")))
	}
}

// A rotation that comes while a whole guest is exported leaves the layers alone, and the export
// is right. One that is at work has the export refused, which leaves nothing.
func TestAWholeExportAndARotationMeet(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 3)
	oldest, dir := b.snapshotNames("g1")[0], b.path("out")
	want := b.keptStates("g1")[oldest]
	export := []string{"export", "g1", oldest, "--all", "-o", dir}
	held := b.beginUntil("boundary", "export begun", export...)
	run := b.rotate("run", "--now", "g1") // wants to merge what is held
	if _, there := b.keptStates("g1")[oldest]; !there {
		t.Errorf("the snapshot that is being exported has been merged: %v", run)
	}
	res, _ := held.goOn()
	res.wantExit(t, 0)
	m := manifestOf(t, dir)
	for target, state := range want {
		if got := m.Disk(target).ContentSHA256; got != state.SHA256 {
			t.Errorf("%s is another state than that of %s", target, oldest)
		}
	}
	b.rotate("verify", "--full", dir).wantExit(t, 0)
	must(t, os.RemoveAll(dir))
	b.recover("g1", 4, "--no-snapshot")
	b.refusedAfterAMerge()
	b.refusedAmidAMerge()
}

// refusedAfterAMerge has a merge begin and end after an export has seen the layers, and before it
// holds them: one of them has the state of another snapshot then.
func (b *bed) refusedAfterAMerge() {
	b.t.Helper()
	dir, oldest := b.path("out"), b.snapshotNames("g1")[0]
	seen := b.beginUntil("boundary", "layers seen", "export", "g1", oldest, "--all", "-o", dir)
	b.rotate("run", "--now", "g1").wantExit(b.t, 0)
	res, _ := seen.goOn()
	if _, err := os.Lstat(dir); err == nil || res.Exit != 2 && res.Exit != 4 {
		b.t.Errorf("a state that is merged was exported: %v", res)
	}
}

// refusedAmidAMerge has a merge begin that does not end.
func (b *bed) refusedAmidAMerge() {
	b.t.Helper()
	b.fillOverlay("g1")
	b.writePolicy(keepThree + "\n" + slow)
	oldest := b.snapshotNames("g1")[0]
	r := b.beginRotate("run", "--now", "g1")
	b.mergeBegins(r)
	dir := b.path("out")
	if got := b.rotate("export", "g1", oldest, "--all", "-o", dir); got.Exit != 2 && got.Exit != 4 {
		b.t.Errorf("%s was exported amid a merge: %v", oldest, got)
	}
	if _, err := os.Lstat(dir); err == nil {
		b.t.Error("there is a directory")
	}
	r.kill()
	b.writePolicy(keepThree)
	b.recover("g1", 4, "--no-snapshot")
}
