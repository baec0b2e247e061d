package integration_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/bundle"
)

// A whole guest goes into a directory while it runs, and from there to another host, where it
// starts from the very state of the snapshot.
func TestAWholeGuestGoesToAnotherHost(t *testing.T) {
	t.Parallel()
	b, there := newBed(t), newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
	b.rotations("g1", 2)
	name := b.snapshotNames("g1")[0]
	want := b.keptStates("g1")[name]
	dir := b.path("out")
	export := []string{"export", "g1", name, "--all", "-o", dir}
	b.rotate(append(export, "--dry-run")...).wantExit(t, 0)
	if _, err := os.Lstat(dir); err == nil {
		t.Fatal("--dry-run has made a directory")
	}
	r := b.rotate(export...).wantExit(t, 0)
	for _, words := range []string{"vda.qcow2", "vdb.qcow2", "domain.xml", "left out   vdz  (it is read-only"} {
		if !strings.Contains(r.Stdout, words) {
			t.Errorf("no %q in %v", words, r)
		}
	}
	if r := b.rotate(export...); r.Exit != 4 || !strings.Contains(r.Stderr, "is there already") {
		t.Errorf("a second time: %v", r)
	}
	b.rotate("verify", "--full", dir).wantExit(t, 0)
	if out, err := inDir(dir, "sha256sum", "--strict", "-c", "SHA256SUMS"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m := manifestOf(t, dir)
	if m.Domain != "g1" || m.Snapshot.Name != name || len(m.Disks) != 2 || len(m.LeftOut) != 1 {
		t.Errorf("%+v", m)
	}
	for _, d := range m.Disks {
		if d.ContentSHA256 != want[d.Target].SHA256 || b.guestSum(filepath.Join(dir, d.File), d.Format) != d.ContentSHA256 {
			t.Errorf("%+v is not %v", d, want[d.Target])
		}
		if layers, err := guest.Chain(t.Context(), filepath.Join(dir, d.File), d.Format); err != nil || len(layers) != 1 {
			t.Errorf("%v, %v", layers, err)
		}
	}
	b.wantInOrder("g1", 3)
	b.arrives(there, dir, want)
}

// arrives imports a guest of the bed on another host, and starts it.
func (b *bed) arrives(there *bed, dir string, want map[string]guest.State) {
	b.t.Helper()
	images := there.path("images")
	args := []string{"import", dir, "--to", images}
	if r := there.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "--trust") || !strings.Contains(r.Stderr, b.host.SerialLog("g1")) || !strings.Contains(r.Stderr, "vdz") {
		b.t.Errorf("the boot disk and the serial line's file are of the host: %v", r)
	}
	wantFiles(b.t, images, 0)
	if r := there.rotate(append(args, "--trust", "--dry-run")...).wantExit(b.t, 0); !strings.Contains(r.Stdout, "touches    devices/serial") {
		b.t.Errorf("%v", r)
	}
	wantFiles(b.t, images, 0)
	there.rotate(append(args, "--trust")...).wantExit(b.t, 0)
	for target, state := range want {
		path := filepath.Join(images, "g1-"+target+".qcow2")
		if got := b.guestSum(path, "qcow2"); got != state.SHA256 {
			b.t.Errorf("%s has arrived as another state", path)
		}
		if !strings.Contains(there.virsh("domblklist", "g1"), path) {
			b.t.Errorf("the guest has another disk than %s", path)
		}
	}
	wantFiles(b.t, images, len(want))
	if r := there.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "--name") {
		b.t.Errorf("a second time: %v", r)
	}
	uuid := func(h *bed, name string) string { return strings.TrimSpace(h.virsh("domuuid", name)) }
	if uuid(b, "g1") != uuid(there, "g1") {
		b.t.Error("the guest has another UUID there, and need not")
	}
	there.rotate(append(args, "--trust", "--name", "copy")...).wantExit(b.t, 0)
	if uuid(there, "copy") == uuid(there, "g1") {
		b.t.Error("the copy has the UUID of the guest")
	}
	b.destroy("g1")
	first, err := b.host.Writes("g1")
	must(b.t, err)
	there.virsh("start", "g1")
	there.await("writes there", func() bool { now, err := b.host.Writes("g1"); return err == nil && now > first+40 })
	there.destroy("g1")
	if got := b.guestSum(filepath.Join(images, "g1-vda.qcow2"), "qcow2"); got == want["vda"].SHA256 {
		b.t.Error("the guest has written nothing there")
	}
}

func wantFiles(t *testing.T, dir string, n int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != n {
		t.Errorf("%s has %v, want %d", dir, entries, n)
	}
}

func inDir(dir, program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

func manifestOf(t *testing.T, dir string) (m bundle.Manifest) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, bundle.ManifestName))
	must(t, err)
	must(t, json.Unmarshal(text, &m))
	return m
}

// Some nights, ten with VIRT_ROTATE_NIGHTS: the guest changes, its snapshots rotate, and each night an increment of the export
// is written. Each is as large as what changed, and what each comes to is the state of its night.
func TestNightlyIncrements(t *testing.T) {
	t.Parallel()
	b, there := newBed(t), newBed(t)
	b.writePolicy(keep("2", ""))
	b.define(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Size: 64 << 20}, {Size: 16 << 20, Format: "raw"}}})
	random := rand.New(rand.NewPCG(1, 2))
	nights := times(t, "VIRT_ROTATE_NIGHTS", often(3, 2))
	var dirs []string
	var sums []map[string]string
	was := map[string][]byte{}
	for night := range nights {
		b.changes(random)
		b.rotate("run", "--now").wantExit(t, 0)
		names := b.snapshotNames("g1")
		dir := b.path(fmt.Sprintf("night-%d", night))
		args := []string{"export", "g1", names[len(names)-1], "--all", "-o", dir}
		if night > 0 {
			args = append(args, "--base", dirs[night-1])
		}
		r := b.rotate(args...).wantExit(t, 0)
		if night > 0 && !strings.Contains(r.Stdout, string(bundle.ByMaps)) {
			t.Errorf("night %d: %v", night, r)
		}
		dirs, sums = append(dirs, dir), append(sums, map[string]string{})
		for _, d := range b.disks("g1") {
			state := b.raw(b.stateOf("g1", names[len(names)-1], d.Target), formatOfLayer(b, "g1", d.Target, b.stateOf("g1", names[len(names)-1], d.Target)))
			sums[night][d.Target] = fmt.Sprintf("%x", sha256.Sum256(state))
			if night > 0 {
				b.wantAsLargeAs(filepath.Join(dir, d.Target+".qcow2"), changed(was[d.Target], state))
			}
			was[d.Target] = state
		}
		if m := manifestOf(t, dir); m.Disk("vda").ContentSHA256 != sums[night]["vda"] || m.Disk("vdb").ContentSHA256 != sums[night]["vdb"] {
			t.Errorf("night %d: the sums are not those of the states", night)
		}
	}
	b.rotate("verify", "--full", dirs[nights-1]).wantExit(t, 0)
	for night, dir := range dirs {
		name := fmt.Sprintf("g-%d", night)
		there.rotate("import", dir, "--to", there.path("images"), "--name", name, "--trust").wantExit(t, 0)
		for target, want := range sums[night] {
			if got := b.guestSum(there.path("images", name+"-"+target+".qcow2"), "qcow2"); got != want {
				t.Errorf("night %d, %s: imported as another state", night, target)
			}
		}
	}
}

// changes writes into the disks of a guest that is off: at random places, of random lengths.
func (b *bed) changes(random *rand.Rand) {
	b.t.Helper()
	for _, d := range b.disks("g1") {
		args := []string{"-f", d.Format}
		for range 60 {
			n := int64(4<<10) << random.Int64N(6)
			at := random.Int64N((16<<20-n)/4096) * 4096
			what := fmt.Sprintf("write -q -P %d %d %d", 1+random.IntN(250), at, n)
			if random.IntN(10) == 0 {
				what = fmt.Sprintf("write -q -z %d %d", at, n)
			}
			args = append(args, "-c", what)
		}
		out, err := b.host.Command(b.t.Context(), "qemu-io", append(args, d.Path)...).CombinedOutput()
		if err != nil {
			b.t.Fatalf("%v: %s", err, out)
		}
	}
}

// raw is what a guest reads on an image.
func (b *bed) raw(path, format string) []byte {
	b.t.Helper()
	raw := filepath.Join(b.t.TempDir(), "raw")
	b.qemuImg("convert", "-U", "-f", format, "-O", "raw", path, raw)
	data, err := os.ReadFile(raw)
	must(b.t, err)
	return data
}

// changed counts the bytes in blocks of 4 KiB that are other data than before. Those that have
// become zeros take no room.
func changed(before, now []byte) (n int64) {
	const block = 4096
	zeros := make([]byte, block)
	for at := 0; at < len(now); at += block {
		if string(before[at:at+block]) != string(now[at:at+block]) && string(now[at:at+block]) != string(zeros) {
			n += block
		}
	}
	return n
}

// wantAsLargeAs compares an image with what it has to hold: its header and tables are the rest.
func (b *bed) wantAsLargeAs(path string, want int64) {
	b.t.Helper()
	info, err := os.Stat(path)
	must(b.t, err)
	if most := want + want/20; info.Size() > most || info.Size() < want || want < 256<<10 {
		b.t.Errorf("%s has %d bytes for %d that changed, want %d at most", path, info.Size(), want, most)
	}
	b.t.Logf("%s: %d bytes for %d that changed: %+.1f %%", path, info.Size(), want, float64(info.Size()-want)*100/float64(want))
}

// An increment whose earlier snapshot is gone is found by comparing contents; QEMU reads it as it
// reads the snapshot, whatever the format of the whole export.
func TestIncrementsOnExportsOfEachFormat(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	first := b.readyForExport()
	formats := map[string][]string{"qcow2": {"-O", "qcow2"}, "raw": {"-O", "raw"}, "vhd": {"-O", "vhd"}, "compressed": {"--compress"}}
	for name, how := range formats {
		b.rotate(append([]string{"export", "g1", first, "--all", "-o", b.path("base-" + name)}, how...)...).wantExit(t, 0)
	}
	b.writePolicy(keep("1", ""))
	for range 2 {
		for _, d := range b.disks("g1") {
			b.qemuIO(d, "write -q -P 9 132k 8k")
		}
		b.rotate("run", "--now").wantExit(t, 0)
	}
	last := b.snapshotNames("g1")[0]
	if last == first || len(b.snapshotNames("g1")) != 1 {
		t.Fatalf("the first snapshot is kept: %q", b.snapshotNames("g1"))
	}
	want := b.guestSum(b.stateOf("g1", last, "vda"), "qcow2")
	for name := range formats {
		dir := b.path("next-" + name)
		r := b.rotate("export", "g1", last, "--all", "--base", b.path("base-"+name), "-o", dir).wantExit(t, 0)
		if !strings.Contains(r.Stdout, string(bundle.ByContents)) {
			t.Errorf("%s: %v", name, r)
		}
		b.rotate("verify", "--full", dir).wantExit(t, 0)
		m := manifestOf(t, dir)
		if got := b.guestSum(filepath.Join(dir, "vda.qcow2"), "qcow2"); got != want || m.Disk("vda").ContentSHA256 != want {
			t.Errorf("%s: QEMU reads another state", name)
		}
		if info, err := os.Stat(filepath.Join(dir, "vda.qcow2")); err != nil || info.Size() > 64<<10 {
			t.Errorf("%s: %v, %v: 8 KiB have changed", name, info, err)
		}
	}
}
