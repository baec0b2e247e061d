package integration_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A tightBed is a guest whose base lies on a small file system of its own, and
// whose overlays lie elsewhere.
type tightBed struct {
	*bed
	small, overlays string // directories
}

// newTightBed boots the guest with two snapshots, the first taken before the
// guest had written much: most of a merge will be growth of the base.
func newTightBed(t *testing.T) *tightBed {
	t.Helper()
	// Mounted before the daemon starts: it has mounts of its own.
	dir := shortDir(t)
	loop, err := guest.NewLoopMount(t.Context(), filepath.Join(dir, "loop"), "ext4", filepath.Join(dir, "small"), 40<<20)
	must(t, err)
	b := &tightBed{bed: newDaemonBed(t)}
	b.loops = append(b.loops, loop)
	b.logsOnFailure("g1")
	b.small, b.overlays = loop.Dir, b.path("overlays")
	must(t, os.Mkdir(b.overlays, 0o755))
	b.policy("2", "0%", "")
	b.boot(guest.Spec{
		Name: "g1", Disks: []guest.DiskSpec{{Path: filepath.Join(b.small, "base.qcow2"), Size: 16 << 20}},
		Params: guest.Params{Slots: 4000, Batch: 4, Pause: 4}, // each block takes a cluster: no haste
	})
	b.rotateNow("g1")
	b.waitWrites("g1", 80)
	b.rotateNow("g1")
	b.waitWrites("g1", 20)
	return b
}

func (b *tightBed) policy(last, minFree, more string) {
	b.t.Helper()
	text := strings.Replace(keep(last, more), `min_free = "0%"`, `min_free = "`+minFree+`"`, 1)
	b.writePolicy(text + "\noverlay_dir = \"" + b.overlays + "\"")
}

// noOverlayGone fails the test if an overlay was deleted, or one lies about.
func (b *tightBed) noOverlayGone(before []string) {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.overlays, "*"))
	must(b.t, err)
	slices.Sort(before)
	if !slices.Equal(files, before) {
		b.t.Errorf("overlays are %q, were %q", files, before)
	}
}

// The base's file system runs full in a merge: the run says so and deletes
// nothing, the next one refuses with figures, and once there is room one finishes.
func TestFullStorageInAMerge(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"1", "0"} {
		t.Run("keep "+last, func(t *testing.T) {
			t.Parallel()
			b := newTightBed(t)
			b.policy(last, "0%", slow)
			kept := b.survivors("g1", "--no-snapshot")
			overlays := b.overlaysNow("g1")
			r := b.beginRotate("run", "--no-snapshot", "--output=json")
			b.jobRuns(r, "g1", "vda")
			ballast := fillUp(t, b.small)
			if !b.job("g1", "vda") {
				t.Fatal("the merge was over before the storage was full")
			}
			b.hurry("g1")
			var out report
			r.wait().wantExit(t, 1).decode(t, &out)
			if d := out.Domains[0]; d.Result != "failed" || !strings.Contains(d.Error, "space") {
				t.Errorf("result %q: %q", d.Result, d.Error)
			}
			b.t.Log(out.Domains[0].Error)
			b.noOverlayGone(overlays)
			b.wantSurvivors("g1", kept)
			base := sum(t, filepath.Join(b.small, "base.qcow2"))
			b.mendsMetadata("--no-snapshot")
			b.refusedForSpace("--no-snapshot")
			if sum(t, filepath.Join(b.small, "base.qcow2")) != base {
				t.Error("a run that refused has changed the base")
			}
			b.noOverlayGone(overlays)
			must(t, os.Remove(ballast))
			b.policy(last, "0%", "")
			if state := b.domState("g1"); state != "running" {
				t.Logf("the guest is %s", state)
				b.virsh("resume", "g1")
			}
			b.recover("g1", int(last[0]-'0')+1, "--no-snapshot")
			b.wantSurvivors("g1", kept)
			b.restart("g1")
		})
	}
}

// overlaysNow is overlays of the only disk.
func (b *tightBed) overlaysNow(dom string) []string { return slices.Clone(b.bed.overlays(dom, "vda")) }

// mendsMetadata runs virt-rotate where merges are refused: it may bring metadata
// in order first, since libvirt expects a merge when a snapshot's is dropped.
func (b *bed) mendsMetadata(args ...string) {
	b.t.Helper()
	r := b.rotate(append([]string{"run", "--output=json"}, args...)...)
	var out report
	r.decode(b.t, &out)
	if r.Exit != 3 && r.Exit != 4 {
		b.t.Errorf("want exit status 3 or 4, got %v", r)
	}
	for _, s := range out.Domains[0].Steps {
		if s.Op != "redefine" {
			b.t.Errorf("step on full storage: %v", s)
		}
	}
}

// refusedForSpace runs virt-rotate, which must refuse with figures.
func (b *bed) refusedForSpace(args ...string) {
	b.t.Helper()
	var out report
	b.rotate(append([]string{"run", "--output=json"}, args...)...).wantExit(b.t, 4).decode(b.t, &out)
	d := out.Domains[0]
	if d.Result != "refused" || len(d.Refused) == 0 || len(d.Steps) > 0 {
		b.t.Fatalf("want a refusal, got %+v", d)
	}
	for _, refused := range d.Refused {
		if refused.Code != "no-space" || !strings.Contains(refused.Detail, "B free on its file system") || !strings.Contains(refused.Detail, "min_free") {
			b.t.Errorf("refused for %s, %s: %s", refused.Code, refused.Path, refused.Detail)
		}
	}
	b.t.Log(d.Refused)
}

// A merge for which there may be no room is refused beforehand.
func TestTooLittleSpaceIsRefusedBeforehand(t *testing.T) {
	t.Parallel()
	b := newTightBed(t)
	b.policy("1", "95%", "")
	before := b.still("g1", b.small, b.overlays)
	b.refusedForSpace("--no-snapshot")
	before.unchanged(b.bed)
	b.policy("1", "0%", "")
	b.recover("g1", 2, "--no-snapshot")
	b.restart("g1")
}
