package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// libvirtd is killed in a merge: the run fails at once, QEMU goes on.
func TestLibvirtdCrashInAMerge(t *testing.T) {
	t.Parallel()
	for _, c := range few([]struct {
		name, last string
		meanwhile  string // what the job comes to before libvirtd returns, in QEMU's words
		adopted    int
	}{
		{"inner commit goes on", "2", "running", 1},
		{"inner commit ends without libvirtd", "2", "concluded", 0},
		{"active commit goes on", "0", "running", 1},
		{"active commit gets ready without libvirtd", "0", "ready", 1},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inSlowMerge(c.last)
			must(t, b.daemon.Kill())
			var out report
			r.wait().wantExit(t, 1).decode(t, &out)
			if d := out.Domains[0]; d.Result != "failed" || d.Error == "" {
				t.Errorf("result %q: %q", d.Result, d.Error)
			}
			t.Log(out.Domains[0].Error)
			b.jobComesTo("g1", c.meanwhile)
			must(t, b.daemon.StartDaemon())
			b.wantSurvivors("g1", kept)
			b.writePolicy(keep(c.last, ""))
			if n := adoptions(b.recover("g1", int(c.last[0]-'0')+1, "--no-snapshot")); n != c.adopted {
				t.Errorf("%d jobs were taken over, want %d", n, c.adopted)
			}
			b.restart("g1")
		})
	}
}

// jobComesTo takes the limit off the job of a guest while there is no libvirtd, unless it
// is to be running, and waits until QEMU says that it is what it is to be.
func (b *bed) jobComesTo(dom, status string) {
	b.t.Helper()
	m, err := b.host.Monitor(dom)
	must(b.t, err)
	defer func() { must(b.t, m.Close()) }()
	job := b.onlyJob(m)
	if status != "running" {
		_, err = m.Execute("block-job-set-speed", map[string]any{"device": job.ID, "speed": 0})
		must(b.t, err)
	}
	b.await("the job to be "+status, func() bool { return b.onlyJob(m).Status == status })
}

// A qemuJob is one as QEMU's query-jobs tells of it.
type qemuJob struct{ ID, Status string }

func (b *bed) onlyJob(m *guest.Monitor) qemuJob {
	b.t.Helper()
	answer, err := m.Execute("query-jobs", nil)
	must(b.t, err)
	var jobs []qemuJob
	must(b.t, json.Unmarshal(answer, &jobs))
	if len(jobs) != 1 {
		b.t.Fatalf("want one job, there are %s", answer)
	}
	return jobs[0]
}

// synced is a guest of whose writes none is lost with its QEMU.
var synced = guest.Spec{Cache: "writethrough"}

// left is more of a policy: guests that are off are left alone.
const left = "offline = \"skip\""

// QEMU is killed in a merge: the chain is as it was, and the merge is repeated
// once the guest runs again, or while it is off.
func TestGuestCrashInAMerge(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"2", "0"} {
		t.Run("keep "+last, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inMerge(synced, last, slow+"\n"+left)
			before := b.overlays("g1", "vda")
			b.pause(r, "g1")
			b.crash("g1")
			must(t, r.cmd.Process.Signal(syscall.SIGCONT))
			var out report
			r.wait().wantExit(t, 1).decode(t, &out)
			if d := out.Domains[0]; d.Result != "failed" || !strings.Contains(d.Error, "not running") && !strings.Contains(d.Error, "has stopped") {
				t.Errorf("result %q: %q", d.Result, d.Error)
			}
			t.Log(out.Domains[0].Error)
			b.runWhileOff("g1", last, before, kept)
			b.start("g1")
			b.writePolicy(keep(last, ""))
			b.recover("g1", int(last[0]-'0')+1, "--no-snapshot")
			b.restart("g1")
		})
	}
}

// pause stops a run while it asks libvirt nothing about a guest: such a question, amid
// which QEMU dies, is answered in many ways.
func (b *bed) pause(r *rotation, dom string) {
	b.t.Helper()
	must(b.t, r.cmd.Process.Signal(syscall.SIGSTOP))
	b.awaitIn(r, "its stop", func() bool { return b.processState(r) == "T" })
	b.jobInfo(dom, "vda") // comes after what was asked before
}

// runWhileOff runs virt-rotate on a guest that was shut off amid a merge. Told to
// skip it, it must leave the chain alone. Else it does the merge again, unless the
// guest was about to be moved to the base.
func (b *bed) runWhileOff(dom, last string, chain []string, kept promise) {
	b.t.Helper()
	b.writePolicy(keep(last, left))
	status := 0
	if last == "0" {
		status = 4
	}
	var out report
	b.rotate("run", "--now", "--output=json").wantExit(b.t, status).decode(b.t, &out)
	for _, s := range out.Domains[0].Steps {
		if s.Op != "redefine" {
			b.t.Errorf("step on a guest that is off: %v", s)
		}
	}
	if now := b.overlays(dom, "vda"); !slices.Equal(now, chain) {
		b.t.Errorf("overlays are %q, were %q", now, chain)
	}
	b.wantSurvivors(dom, kept)
	b.checkImages(dom)
	b.writePolicy(keep(last, ""))
	if last != "0" {
		b.recover(dom, len(chain), "--no-snapshot")
	} else if r := b.rotate("run", "--no-snapshot").wantExit(b.t, 4); !strings.Contains(r.String(), "docs/recovery.md") {
		b.t.Errorf("%v", r)
	}
	b.checkImages(dom)
}

// The whole host dies at once in a merge: virt-rotate, libvirtd and the guest.
func TestHostCrashInAMerge(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"2", "0"} {
		t.Run("keep "+last, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inMerge(synced, last, slow)
			before := b.overlays("g1", "vda")
			r.kill()
			must(t, b.daemon.Kill())
			b.leaks = true
			must(t, b.host.Crash("g1"))
			must(t, b.daemon.StartDaemon())
			must(t, b.host.WaitOff(t.Context(), "g1"))
			b.runWhileOff("g1", last, before, kept)
			b.start("g1")
			b.writePolicy(keep(last, ""))
			b.recover("g1", int(last[0]-'0')+1, "--now")
			b.restart("g1")
		})
	}
}

// virt-rotate is killed at any moment of its run, amid calls to libvirt as well: so long
// after it began, or after it came to a merge. How long that takes depends on the
// machine, so two of the kills are at once: they meet the run at different stages.
func TestKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keep("2", ""))
	b.boot(guest.Spec{Name: "g1", Disks: make([]guest.DiskSpec, 2)})
	b.rotations("g1", 2)
	began := time.Now()
	b.rotateNow()
	whole := time.Since(began)
	random := rand.New(rand.NewPCG(3, 4))
	found := map[string]int{}
	for n := 0; n < 2*kills(t) && !t.Failed(); n++ {
		b.waitWrites("g1", 30)
		kept := b.survivors("g1", "--now")
		var r *rotation
		if n%2 == 0 {
			r = b.beginRotate("run", "--now")
		} else {
			r = b.beginUntil("boundary", "merge starts", "run", "--now")
		}
		if n > 1 {
			_ = r.cmd.Process.Signal(syscall.SIGCONT) // to those that have not stopped it means nothing
			time.Sleep(time.Duration(random.Int64N(int64(whole))) / time.Duration(1+n%2))
		}
		r.kill()
		found[b.stage("g1")]++
		b.wantSurvivors("g1", kept)
		b.recover("g1", 3, "--no-snapshot")
	}
	t.Logf("%d kills, within %v; layers and intents then: %v", 2*kills(t), whole, found)
	if len(found) < 2 {
		t.Errorf("all kills met the run at the same stage: %v", slices.Collect(maps.Keys(found)))
	}
	b.restart("g1")
}

// QEMU is killed at any moment of a run.
func TestGuestCrashAtAnyMoment(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keep("2", ""))
	spec := synced
	spec.Name = "g1"
	b.boot(spec)
	b.rotations("g1", 2)
	random := rand.New(rand.NewPCG(5, 6))
	results := map[string]int{}
	for n := 0; n < kills(t) && !t.Failed(); n++ {
		kept := b.survivors("g1", "--now")
		r := b.beginRotate("run", "--now", "--output=json")
		time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
		b.crash("g1")
		var out report
		r.wait().decode(t, &out)
		results[out.Domains[0].Result]++
		// Headers are not to be trusted now: the one above a merged layer may
		// name the base before QEMU has written the base's tables.
		b.rotate("run", "--no-snapshot").wantExit(t, 0)
		b.start("g1")
		b.rotate("run", "--no-snapshot").wantExit(t, 0)
		b.wantSurvivors("g1", kept)
		b.recover("g1", 3, "--no-snapshot")
	}
	t.Logf("%d crashes; results of the runs: %v", kills(t), results)
	b.restart("g1")
}

// stage tells roughly how far a run has come.
func (b *bed) stage(dom string) string {
	b.t.Helper()
	disks := b.disks(dom)
	stage := fmt.Sprintf("%d+%d layers", len(b.chainOf(disks[0])), len(b.chainOf(disks[1])))
	if b.intendsMerge() {
		stage += ", merging"
	}
	return stage
}
