package integration_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// With keep = 0 nothing is left but the base, and the guest starts from that.
func TestAGuestThatIsShutOffKeepsNothing(t *testing.T) {
	long(t)
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	base := b.disk("g1", "vda").Path
	b.rotations("g1", 2)
	b.destroy("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 0", 1))
	b.rotateNow("g1")
	if path := b.disk("g1", "vda").Path; path != base {
		t.Errorf("it starts from %s", path)
	}
	b.start("g1")
	b.waitWrites("g1", 30)
	b.wantInOrder("g1", 1)
}

func TestAGuestThatWroteNothingGetsNoSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 30)
	b.destroy("g1")
	b.rotateNow("g1")
	time.Sleep(1100 * time.Millisecond) // every = "1s": it is due
	var out report
	b.rotate("run", "--output=json").wantExit(t, 0).decode(t, &out)
	if d := out.Domains[0]; len(d.Steps) > 0 || !strings.Contains(d.Waiting, "nothing was written since") {
		t.Errorf("%+v", d)
	}
	b.start("g1")
	b.waitWrites("g1", 30)
	b.destroy("g1")
	b.rotate("run", "--output=json").wantExit(t, 0).decode(t, &out)
	if d := out.Domains[0]; len(d.Steps) != 1 || d.Steps[0].Op != "snapshot" {
		t.Errorf("%+v", d)
	}
}

// A run on a guest that is off dies at each of its boundaries.
func TestKillAtEveryBoundaryWhileOff(t *testing.T) {
	t.Parallel()
	for _, c := range []boundaryCase{
		{name: "two disks", bed: newBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 25, beds: 2, step: 3},
		{name: "keep nothing", bed: newBed, disks: make([]guest.DiskSpec, 1), taken: 2, places: 12, step: 2},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killOff) })
	}
}

// The same at each write of the engine, which then is in the middle of a merge.
func TestKillAtEveryWriteOfTheEngine(t *testing.T) {
	t.Parallel()
	for _, c := range []boundaryCase{
		{name: "two disks", bed: newBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 20, writes: true, step: 30},
		{name: "keep nothing", bed: newBed, disks: make([]guest.DiskSpec, 1), taken: 2, places: 10, writes: true, step: 11},
	} {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killOff) })
	}
}

// killOff kills a run at its n-th place. After every third kill the guest is started before
// the next run, which must recover all the same.
func (c *boundaryCase) killOff(b *bed, n int) string {
	b.t.Helper()
	if c.taken > 0 {
		b.writePolicy(c.policy(c.taken))
		b.rotations("g1", c.taken)
		b.writePolicy(c.policy(c.last))
	}
	b.waitWrites("g1", 30)
	b.destroy("g1")
	kept := b.survivors("g1", c.args...)
	place := b.dieAt(c.kind(), n, append([]string{"run"}, c.args...)...)
	b.wantSurvivors("g1", kept)
	turn := c.turn(n)
	// A live merge goes on: what the engine had reserved is lost until it merges again.
	if b.leaks = turn%3 == 0; b.leaks {
		b.start("g1")
		b.waitWrites("g1", 10)
	}
	next := "--no-snapshot"
	if turn%4 < 2 {
		next = "--now"
	}
	b.recover("g1", c.last+1, next)
	if !b.leaks {
		b.checkImages("g1")
		b.start("g1")
	}
	return place
}

// A guest that is started at any moment of a rotation is kept out, or finds a valid
// chain.
func TestAGuestThatIsStartedInAnOfflineRotation(t *testing.T) {
	t.Parallel()
	n := times(t, "VIRT_ROTATE_STARTS", often(12, 6))
	// With 0 the active layer is merged: who runs on it must not be forgotten.
	for last, starts := range map[string]int{"3": n / 2, "0": n - n/2} {
		t.Run("keep "+last, func(t *testing.T) {
			t.Parallel()
			startInRotations(t, last, starts)
		})
	}
}

// startInRotations starts a guest n times amid rotations that keep so many snapshots.
func startInRotations(t *testing.T, last string, n int) {
	t.Helper()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Size: 16 << 20}, {}}})
	b.rotations("g1", 3)
	b.destroy("g1")
	began := time.Now()
	b.rotateNow()
	whole := time.Since(began)
	b.start("g1")
	random := rand.New(rand.NewPCG(7, uint64(last[0])))
	results := map[string]int{}
	for i := 0; i < n && !t.Failed(); i++ {
		// QEMU locks the images a while after it was told to start.
		results[b.startAmid("g1", last, time.Duration(random.Int64N(2*int64(whole)))-whole)]++
	}
	b.writePolicy(keepThree)
	b.rotations("g1", 3)
	t.Logf("%d starts within %v before and after a rotation begins: %v", n, whole, results)
	b.wantInOrder("g1", 4)
}

// startAmid starts a guest so long after, or before, a rotation begins that keeps so
// many snapshots, and tells how both ended.
func (b *bed) startAmid(dom, last string, after time.Duration) string {
	b.t.Helper()
	if last == "0" {
		b.writePolicy(keepThree)
		b.rotations(dom, 1)
	}
	b.waitWrites(dom, 60)
	b.destroy(dom)
	b.writePolicy(keep(last, ""))
	kept, now := b.survivors(dom, "--now"), b.checkGuest(dom)
	var out []byte
	var err error
	started := make(chan struct{})
	time.AfterFunc(max(after, 0), func() {
		out, err = b.host.Command(b.t.Context(), "virsh", "-c", b.host.URI(), "start", dom).CombinedOutput()
		close(started)
	})
	time.Sleep(max(-after, 0))
	result := b.rotate("run", "--now", "--output=json")
	<-started
	how := "start refused"
	switch {
	case err == nil:
		how = "started"
		b.waitWrites(dom, 10)
	case !strings.Contains(string(out), "lock") && !strings.Contains(string(out), "job"):
		b.t.Errorf("start: %s", out)
	}
	if !slices.Contains([]int{0, 1, 3, 4}, result.Exit) {
		b.t.Errorf("%v", result)
	}
	b.wantSurvivors(dom, kept)
	if err == nil { // what it writes must be there when it is off, too
		now = b.checkGuest(dom)
		b.destroy(dom)
	}
	for target, state := range b.checkGuest(dom) {
		if err != nil && state != now[target] || state.Blocks < now[target].Blocks {
			b.t.Errorf("%s went from %v to %v: %s", target, now[target], state, how)
		}
	}
	b.recover(dom, min(len(b.snapshotNames(dom)), int(last[0]-'0'))+1, "--no-snapshot")
	b.bring(dom, "running")
	b.checkGuest(dom)
	return fmt.Sprintf("keep %s: %s, run %d", last, how, result.Exit)
}
