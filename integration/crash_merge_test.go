package integration_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// adopted is the reason of a merge that the run before started.
const adopted = "an interrupted run started it, and it still runs"

// keep is a policy for guests whose snapshots are due at every run.
func keep(last, more string) string {
	return strings.Replace(keepThree, "last = 3", "last = "+last, 1) + "\n" + more
}

// slow makes a merge last longer than any test: QEMU copies something at once, at least
// a cluster, and then waits for hours. So what is done amid the merge is, however busy
// the machine. hurry, or a run that takes the job over, has QEMU go on.
const slow = "bandwidth = \"1B/s\""

// fillOverlay lets the guest write until its overlays have most of its ring.
func (b *bed) fillOverlay(dom string) { b.waitWrites(dom, 120) }

// mergeBegins waits until a run has written down which merge comes next.
func (b *bed) mergeBegins(r *rotation) {
	b.t.Helper()
	b.awaitIn(r, "an intent of a merge", b.intendsMerge)
}

// intendsMerge tells whether an intent of a merge is in the journal.
func (b *bed) intendsMerge() bool {
	b.t.Helper()
	files, err := filepath.Glob(b.path("state", "intents", "*.json"))
	must(b.t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(b.t, err)
		var intent struct{ Merges []any }
		must(b.t, json.Unmarshal(text, &intent))
		if len(intent.Merges) > 0 {
			return true
		}
	}
	return false
}

// jobRuns waits until QEMU has copied something. Only a host with a daemon can be asked.
func (b *bed) jobRuns(r *rotation, dom, target string) {
	b.t.Helper()
	b.mergeBegins(r)
	b.awaitIn(r, "a job that copies on "+dom+" "+target, func() bool { return b.copied(dom, target) > 0 })
}

var copiedSo = regexp.MustCompile(`(?m)^\s*cur=(\d+)$`)

// copied is how far the job on a disk has come, in bytes; 0 if there is none.
func (b *bed) copied(dom, target string) int64 {
	b.t.Helper()
	m := copiedSo.FindStringSubmatch(b.jobInfo(dom, target))
	if m == nil {
		return 0
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	must(b.t, err)
	return n
}

func (b *bed) job(dom, target string) bool {
	b.t.Helper()
	return strings.Contains(b.jobInfo(dom, target), "type=")
}

// jobInfo is "" if there is no job.
func (b *bed) jobInfo(dom, target string) string {
	b.t.Helper()
	return b.virsh("blockjob", dom, target, "--info", "--raw")
}

// jobReady waits until an active commit has copied everything.
func (b *bed) jobReady(dom, target string) {
	b.t.Helper()
	b.await("the job on "+dom+" "+target+" to get ready", func() bool {
		return strings.Contains(b.virsh("dumpxml", dom), "ready='yes'")
	})
}

// jobEnds waits until no job is left.
func (b *bed) jobEnds(dom, target string) {
	b.t.Helper()
	b.await("the end of the job on "+dom+" "+target, func() bool { return !b.job(dom, target) })
}

func adoptions(r report) int {
	n := 0
	for _, s := range r.Domains[0].Steps {
		if s.Op == "merge" && s.Reason == adopted {
			n++
		}
	}
	return n
}

// Whenever virt-rotate is killed in a merge, QEMU goes on with it, and the next run
// takes it over.
func TestKillInMerges(t *testing.T) {
	t.Parallel()
	for name, newHost := range map[string]func(*testing.T) *bed{"daemon": newDaemonBed, "embedded": newBed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHost(t)
			b.logsOnFailure("g1")
			b.writePolicy(keep("2", ""))
			b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}})
			b.rotations("g1", 2)
			random := rand.New(rand.NewPCG(uint64(len(name)), 1))
			taken := 0
			for n := 0; n < kills(t) && !t.Failed(); n++ {
				taken += b.killInMerge("g1", n%2 == 0, time.Duration(random.Int64N(int64(time.Second))))
			}
			t.Logf("%d kills, %d merges taken over", kills(t), taken)
			if taken < kills(t)/2 {
				t.Errorf("of %d merges only %d were taken over", kills(t), taken)
			}
			b.restart("g1")
		})
	}
}

// killInMerge kills a run so long after it was about to merge, or after QEMU had begun to
// copy, and returns how many jobs the next one took over.
func (b *bed) killInMerge(dom string, copying bool, after time.Duration) int {
	b.t.Helper()
	b.writePolicy(keep("2", slow))
	b.fillOverlay(dom)
	kept := b.survivors(dom, "--now")
	bases := b.basesWritten(dom)
	r := b.beginRotate("run", "--now")
	b.mergeBegins(r)
	if copying { // this can be seen without a libvirt, too
		b.awaitIn(r, "a write to a base", func() bool { return b.basesWritten(dom) != bases })
	}
	time.Sleep(after)
	r.kill()
	jobs := 0
	for _, d := range b.disks(dom) {
		if b.job(dom, d.Target) {
			jobs++
		}
	}
	b.wantSurvivors(dom, kept)
	b.writePolicy(keep("2", ""))
	taken := adoptions(b.recover(dom, 3, "--no-snapshot"))
	b.t.Logf("killed %v after the merge began: %d jobs ran, %d taken over", after.Round(time.Millisecond), jobs, taken)
	if taken != jobs {
		b.t.Errorf("%d jobs ran, but %d were taken over", jobs, taken)
	}
	return taken
}

// basesWritten tells when the images that a guest was defined with were last written to.
func (b *bed) basesWritten(dom string) string {
	b.t.Helper()
	times := ""
	for _, d := range b.host.Spec(dom).Disks {
		info, err := os.Stat(d.Path)
		must(b.t, err)
		times += info.ModTime().String() + "\n"
	}
	return times
}

// An active commit that nobody watches waits for its pivot for ever; an inner
// commit ends by itself.
func TestKillLeavesAJobBehind(t *testing.T) {
	t.Parallel()
	for _, c := range few([]struct {
		name      string
		last      string // snapshots to keep
		meanwhile func(b *bed)
		adopted   int
	}{
		{"active commit, not ready", "0", func(*bed) {}, 1},
		{"active commit, ready", "0", func(b *bed) { b.hurry("g1"); b.jobReady("g1", "vda") }, 1},
		{"inner commit, over", "2", func(b *bed) { b.hurry("g1"); b.jobEnds("g1", "vda") }, 0},
		{"somebody pivoted", "0", func(b *bed) {
			b.hurry("g1")
			b.jobReady("g1", "vda")
			b.virsh("blockjob", "g1", "vda", "--pivot")
		}, 0},
		{"somebody aborted an active commit", "0", func(b *bed) { b.virsh("blockjob", "g1", "vda", "--abort") }, 0},
		{"somebody aborted an inner commit", "2", func(b *bed) { b.virsh("blockjob", "g1", "vda", "--abort") }, 0},
	}, 3) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inSlowMerge(c.last)
			r.kill()
			c.meanwhile(b)
			b.wantSurvivors("g1", kept)
			b.writePolicy(keep(c.last, ""))
			last := int(c.last[0] - '0')
			if n := adoptions(b.recover("g1", last+1, "--no-snapshot")); n != c.adopted {
				t.Errorf("%d jobs were taken over, want %d", n, c.adopted)
			}
			b.restart("g1")
		})
	}
}

// hurry takes the limit off a job.
func (b *bed) hurry(dom string) {
	b.t.Helper()
	b.virsh("blockjob", dom, "vda", "--bandwidth", "1000")
}

// inSlowMerge boots guest g1 with some snapshots and returns while a run is amid
// a slow merge of its disk, with the states that must survive.
func (b *bed) inSlowMerge(last string) (promise, *rotation) {
	b.t.Helper()
	return b.inMerge(guest.Spec{}, last, slow)
}

func (b *bed) inMerge(spec guest.Spec, last, more string) (promise, *rotation) {
	b.t.Helper()
	spec.Name = "g1"
	b.logsOnFailure("g1")
	b.writePolicy(keep("2", ""))
	b.boot(spec)
	b.rotations("g1", 2)
	b.writePolicy(keep(last, more))
	b.fillOverlay("g1")
	kept := b.survivors("g1", "--now")
	r := b.beginRotate("run", "--now", "--output=json")
	b.jobRuns(r, "g1", "vda")
	return kept, r
}

// SIGTERM and SIGINT end the merge and leave the chain as it was before it.
func TestSignalsInMerges(t *testing.T) {
	t.Parallel()
	for _, c := range few([]struct {
		signal syscall.Signal
		last   string
		layers int // of the chain after the signal
	}{
		{syscall.SIGTERM, "2", 4},
		{syscall.SIGINT, "2", 4},
		{syscall.SIGTERM, "0", 3},
	}, 1) {
		t.Run(c.signal.String()+", keep "+c.last, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inSlowMerge(c.last)
			before := b.overlays("g1", "vda")
			must(t, r.cmd.Process.Signal(c.signal))
			sent := time.Now()
			var out report
			r.wait().wantExit(t, 1).decode(t, &out)
			if took := time.Since(sent); took > 10*time.Second {
				t.Errorf("ended %v after the signal", took)
			}
			if d := out.Domains[0]; d.Result != "canceled" || !strings.Contains(d.Error, "the next run goes on") {
				t.Errorf("result %q: %s", d.Result, d.Error)
			}
			if b.job("g1", "vda") {
				t.Error("the job runs on")
			}
			if after := b.overlays("g1", "vda"); len(after) != c.layers-1 || !slices.Equal(after, before) {
				t.Errorf("overlays are %q, were %q, want %d", after, before, c.layers-1)
			}
			b.wantSurvivors("g1", kept)
			b.restart("g1")
			b.writePolicy(keep(c.last, ""))
			b.recover("g1", int(c.last[0]-'0')+1, "--no-snapshot")
			b.restart("g1")
		})
	}
}

// Somebody aborts the job that a run waits for: "no job" is not "merged".
func TestAMergeThatIsAbortedDeletesNothing(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"2", "0"} {
		t.Run("keep "+last, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			kept, r := b.inSlowMerge(last)
			before := b.overlays("g1", "vda")
			b.virsh("blockjob", "g1", "vda", "--abort")
			var out report
			r.wait().wantExit(t, 1).decode(t, &out)
			if d := out.Domains[0]; d.Result != "failed" || !strings.Contains(d.Error, "nothing was deleted") {
				t.Errorf("result %q: %s", d.Result, d.Error)
			}
			if after := b.overlays("g1", "vda"); !slices.Equal(after, before) {
				t.Errorf("overlays are %q, were %q", after, before)
			}
			b.wantSurvivors("g1", kept)
			b.writePolicy(keep(last, ""))
			b.recover("g1", int(last[0]-'0')+1, "--no-snapshot")
			b.restart("g1")
		})
	}
}
