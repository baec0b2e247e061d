package integration_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// grafts is more of a policy.
const grafts = "method = \"graft\""

// graftPlaces are the boundaries of a graft between which most changes.
var graftPlaces = []string{"clones built", "copy ready", "ready to move", "moved"}

// wantGrafts fails the test unless every merge of a run would be a graft.
func (b *bed) wantGrafts(args ...string) {
	b.t.Helper()
	var plan report
	b.rotate(append([]string{"plan", "--output=json"}, args...)...).wantExit(b.t, 0).decode(b.t, &plan)
	methods := plan.methods()
	if n := methods["graft"]; n == 0 || len(methods) != 1 {
		b.t.Fatalf("merges %v: %+v", methods, plan)
	}
}

// A graftScene is guest g1 with two snapshots, and a run that has stopped in a graft.
type graftScene struct {
	*bed
	kept promise
	old  map[string][]string // overlays of each disk before the graft, lowest first
	run  *rotation
}

// inGraft has a run stop at a boundary of its graft. A snapshot less is to be kept than
// there are, so that no new one is taken.
func inGraft(b *bed, spec guest.Spec, place, more string) *graftScene {
	b.t.Helper()
	spec.Name = "g1"
	b.logsOnFailure("g1")
	b.writePolicy(keep("2", grafts))
	b.boot(spec)
	b.rotations("g1", 2)
	b.writePolicy(keep("1", grafts+"\n"+more))
	b.waitWrites("g1", 60)
	b.wantGrafts("--no-snapshot")
	s := &graftScene{bed: b, kept: b.survivors("g1", "--no-snapshot"), old: b.allOverlays("g1")}
	s.run = b.beginUntil("boundary", place, "run", "--no-snapshot", "--output=json")
	return s
}

func (b *bed) allOverlays(dom string) map[string][]string {
	b.t.Helper()
	all := map[string][]string{}
	for _, d := range b.disks(dom) {
		all[d.Target] = b.overlaysOf(d)
	}
	return all
}

// goOn lets the run go on, which must fail and say why.
func (s *graftScene) goOn(status int, why string) {
	s.t.Helper()
	res, place := s.run.goOn()
	if place == "" {
		s.t.Fatalf("it has not stopped: %v", res)
	}
	var out report
	res.wantExit(s.t, status).decode(s.t, &out)
	if d := out.Domains[0]; !strings.Contains(d.Error+fmt.Sprint(d.Refused), why) {
		s.t.Errorf("result %q: %q, %v; want %q", d.Result, d.Error, d.Refused, why)
	}
	s.t.Log(out.Domains[0].Result, out.Domains[0].Error, out.Domains[0].Refused)
}

// wantOld fails the test unless the guest is on the chains that it had before, and
// nothing is left of what was to take their place.
func (s *graftScene) wantOld() {
	s.t.Helper()
	if now := s.allOverlays("g1"); !equalLists(now, s.old) {
		s.t.Errorf("overlays are %q, were %q", now, s.old)
	}
	s.noOtherImages("g1")
	s.wantSurvivors("g1", s.kept)
}

func equalLists(a, b map[string][]string) bool {
	return maps.EqualFunc(a, b, slices.Equal[[]string])
}

// finish has the next run do the graft.
func (s *graftScene) finish() {
	s.t.Helper()
	s.writePolicy(keep("1", grafts))
	s.recover("g1", 2, "--no-snapshot")
	s.noOtherImages("g1")
	s.restart("g1")
	s.rotations("g1", 1)
	s.noOtherImages("g1")
}

// libvirtd is killed in a graft: the run fails, the guest goes on, and the next run
// finishes the graft or does it anew.
func TestLibvirtdCrashInAGraft(t *testing.T) {
	t.Parallel()
	for _, place := range few(graftPlaces, 2) {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			b := onXFSDaemon(t)
			s := inGraft(b, guest.Spec{Disks: []guest.DiskSpec{{}, {Format: "raw"}}}, place, "")
			must(t, b.daemon.Kill())
			s.goOn(1, "socket is closed")
			b.waitWrites("g1", 30)
			must(t, b.daemon.StartDaemon())
			b.wantSurvivors("g1", s.kept)
			s.finish()
		})
	}
}

// QEMU is killed in a graft. Unless it was about to move, nothing is left of the graft,
// and it is done once the guest runs again.
func TestGuestCrashInAGraft(t *testing.T) {
	t.Parallel()
	for _, place := range few(graftPlaces, 2) {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			b := onXFSDaemon(t)
			spec := synced
			spec.Disks = make([]guest.DiskSpec, 2)
			s := inGraft(b, spec, place, "")
			last := b.checkGuest("g1")["vda"].Blocks
			b.crash("g1")
			if place == "ready to move" || place == "moved" {
				s.goOn(3, "docs/recovery.md")
				s.stoppedInPivot()
			} else {
				s.goOn(1, "not running")
				s.wantOld()
			}
			s.noWriteLost(last)
			b.start("g1")
			s.finish()
		})
	}
}

// noWriteLost fails the test unless the guest, which is off, has so many blocks at least.
func (s *graftScene) noWriteLost(last uint64) {
	s.t.Helper()
	s.wantSurvivors("g1", s.kept)
	if now := s.checkGuest("g1")["vda"].Blocks; now < last {
		s.t.Errorf("the guest has %d blocks, had %d", now, last)
	}
}

// stoppedInPivot has the next run refuse and delete nothing, and does for each disk
// what docs/recovery.md tells.
func (s *graftScene) stoppedInPivot() {
	s.t.Helper()
	before := s.images()
	var out report
	s.rotate("run", "--no-snapshot", "--output=json").wantExit(s.t, 4).decode(s.t, &out)
	if now := s.images(); !slices.Equal(now, before) {
		s.t.Errorf("images are %q, were %q", now, before)
	}
	for _, r := range out.Domains[0].Refused {
		if r.Code != "stopped-in-pivot" || !strings.Contains(r.Detail, "docs/recovery.md") {
			s.t.Errorf("refused for %s, %s: %s", r.Code, r.Path, r.Detail)
		}
		former := s.formerOf(r.Path, r.Detail)
		if s.isNewer(r.Path, former) {
			s.t.Logf("%s is newer", r.Path)
			s.redefine("g1", former, r.Path)
		}
	}
}

// images lists what lies in the images directory.
func (b *bed) images() []string {
	b.t.Helper()
	files, err := filepath.Glob(b.path("images", "*"))
	must(b.t, err)
	return files
}

// formerOf returns the image of the two that the guest would start from.
func (s *graftScene) formerOf(path, detail string) string {
	s.t.Helper()
	for _, d := range s.disks("g1") {
		if d.Path != path && strings.Contains(detail, d.Path) {
			return d.Path
		}
	}
	s.t.Fatalf("the refusal does not name the image that the guest starts from: %s", detail)
	return ""
}

// isNewer tells what docs/recovery.md does of two images, of which the guest may have
// been moved to the first.
func (s *graftScene) isNewer(next, former string) bool {
	s.t.Helper()
	if _, err := guest.QemuImg(s.t.Context(), "compare", "-q", next, former); err == nil {
		return false // they are the same
	}
	a, err := os.Stat(next)
	must(s.t, err)
	b, err := os.Stat(former)
	must(s.t, err)
	return a.ModTime().Sub(b.ModTime()) > time.Second
}

// QEMU has moved the guest, and libvirt has missed it. While the guest runs, the next
// run mends what it starts from; if it has stopped, the docs tell how to.
func TestAGraftWhoseEndLibvirtMissedLosesNoWrite(t *testing.T) {
	t.Parallel()
	for _, stopped := range few([]bool{true, false}, 1) {
		t.Run(fmt.Sprintf("stopped=%v", stopped), func(t *testing.T) {
			t.Parallel()
			b := onXFSDaemon(t)
			s := inGraft(b, synced, "ready to move", "")
			s.run.kill()
			jobs := b.qmp("g1", "query-jobs", map[string]any{})
			id := regexp.MustCompile(`copy-vda-[a-z0-9-]+`).FindString(jobs)
			b.qmp("g1", "job-complete", map[string]any{"id": id})
			b.jobEnds("g1", "vda")
			if now := b.allOverlays("g1"); !equalLists(now, s.old) {
				t.Fatalf("libvirt has not missed it: %q, were %q", now, s.old)
			}
			b.waitWrites("g1", 400) // more than a second
			if stopped {
				b.crash("g1")
				s.stoppedInPivot()
				b.start("g1")
			} else {
				r := b.rotate("run", "--no-snapshot").wantExit(t, 3)
				if !strings.Contains(r.String(), "shut the guest down and start it") {
					t.Errorf("the refusal says not what to do: %v", r)
				}
				b.destroy("g1")
				b.start("g1")
			}
			if now := b.allOverlays("g1"); equalLists(now, s.old) {
				t.Fatalf("the guest has started from %q", now)
			}
			b.checkGuest("g1")
			s.finish()
		})
	}
}

// The file system runs full in a graft: the run says so, the guest stays where it is,
// and what was built is gone. The next run refuses with figures; once there is room,
// one does it.
func TestFullStorageInAGraft(t *testing.T) {
	t.Parallel()
	for place, why := range map[string]string{
		"clones named":          "no space left on device",
		"merged clones removed": "no space is left",
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			b := sharingBedOf(t, newDaemonBed, "xfs", 300<<20)
			s := inGraft(b, guest.Spec{}, place, "")
			b.virsh("suspend", "g1") // or it has an I/O error, too
			ballast := fillUp(t, b.path("images"))
			s.goOn(1, why)
			b.mendsMetadata("--no-snapshot")
			before := b.images()
			b.refusedForSpace("--no-snapshot")
			if now := b.images(); !slices.Equal(now, before) {
				t.Errorf("images are %q, were %q", now, before)
			}
			must(t, os.Remove(ballast))
			s.wantOld()
			b.virsh("resume", "g1")
			s.finish()
		})
	}
}

// A graft for which there may be no room is refused beforehand.
func TestTooLittleSpaceForAGraftIsRefusedBeforehand(t *testing.T) {
	t.Parallel()
	b := sharingBedOf(t, newDaemonBed, "xfs", 300<<20)
	b.writePolicy(keep("2", grafts))
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	b.writePolicy(strings.Replace(keep("1", grafts), `min_free = "0%"`, `min_free = "95%"`, 1))
	before := b.still("g1", b.path("images"))
	b.refusedForSpace("--no-snapshot")
	before.unchanged(b)
	b.writePolicy(keep("1", grafts))
	b.wantGrafts("--no-snapshot")
	b.recover("g1", 2, "--no-snapshot")
	b.noOtherImages("g1")
	b.restart("g1")
}

// A guest writes faster than the copy follows: with method "graft" the run gives up and
// leaves nothing, with "auto" it commits.
func TestAGuestThatOutrunsAGraft(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"graft", "auto"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b := onXFSDaemon(t)
			b.logsOnFailure("g1")
			b.writePolicy(keep("2", grafts))
			b.boot(guest.Spec{Name: "g1"})
			b.rotations("g1", 2)
			oldest := b.overlays("g1", "vda")[0]
			run(t, b.path("images"), "fallocate --keep-size --length 300M "+oldest) // worth a graft
			b.fillOverlay("g1")
			b.writePolicy(keep("1", fmt.Sprintf("method = %q\n%s", method, slow)))
			b.wantGrafts("--no-snapshot")
			s := &graftScene{bed: b, kept: b.survivors("g1", "--no-snapshot"), old: b.allOverlays("g1")}
			b.program, b.env = mortal, []string{"VIRT_ROTATE_COPY_PATIENCE=5s"}
			var out report
			r := b.beginRotate("run", "--no-snapshot", "--output=json")
			b.program, b.env = nil, nil
			if method == "auto" {
				b.awaitIn(r, "the commit after the copy", func() bool { return strings.Contains(b.jobInfo("g1", "vda"), "Commit") })
				b.hurry("g1")
			}
			res := r.wait()
			res.decode(t, &out)
			if method == "auto" {
				if have := out.methods(); res.Exit != 0 || !maps.Equal(have, map[string]int{"commit": 1}) || !strings.Contains(res.Stderr, "writes faster") {
					t.Errorf("merges %v: %v", have, res)
				}
				b.wantSurvivors("g1", s.kept)
				b.wantTidy("g1", 2)
				b.noOtherImages("g1")
				b.restart("g1")
				return
			}
			if d := out.Domains[0]; res.Exit != 1 || !strings.Contains(d.Error, "writes faster") {
				t.Errorf("%v", res)
			}
			if b.job("g1", "vda") {
				t.Error("the copy runs on")
			}
			s.wantOld()
			s.finish()
		})
	}
}

// Somebody aborts a copy just before the guest is moved onto it: it stays where it is,
// and what was built is gone.
func TestACopyThatIsAbortedBeforeTheMove(t *testing.T) {
	long(t)
	t.Parallel()
	b := onXFSDaemon(t)
	s := inGraft(b, guest.Spec{Disks: []guest.DiskSpec{{}, {Format: "raw"}}}, "ready to move", "")
	b.virsh("blockjob", "g1", "vda", "--abort")
	s.goOn(1, "moving vda onto its copy")
	for _, target := range []string{"vda", "vdb"} {
		if b.job("g1", target) {
			t.Errorf("the copy of %s runs on", target)
		}
	}
	s.wantOld()
	s.finish()
}
