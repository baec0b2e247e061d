package rotate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// off is a host with one domain that is shut off and has snapshots of these hours.
func off(t *testing.T, hours ...int) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	one(hours...)(h, web)
	web.State, web.Cut = host.ShutOff, true
	return h, web
}

func TestAGuestThatIsShutOffIsRotated(t *testing.T) {
	h, _ := off(t, 9, 10, 11)
	wantSteps(h, t, runAll(h, t, rotator(h, rule(2)))["web"], `
		snapshot S12 vda: web.S12 on web.S11
		drop-metadata S9
		drop-metadata S10
		offline-commit vda: web.S10 into web
		redefine S11
		redefine S12
		delete web.S9
		delete web.S10`)
	checkDone(h, t)
}

func TestAGuestThatWroteNothingGetsNoSnapshot(t *testing.T) {
	h, web := off(t, 9, 10)
	h.Change(web.Disks[0].Active().Path, func(i *hosttest.Image) { i.Blocks = hosttest.Blocks{} })
	web.Want["vda"] = h.Read(web.Disks[0].Active().Path)
	r := rotator(h, rule(7))
	p := runAll(h, t, r)["web"]
	if len(p.Steps) > 0 || !strings.Contains(p.Waiting, "nothing was written since "+hosttest.Name(10)) {
		t.Errorf("%+v", p)
	}
	r.Options = decide.Options{IgnoreEvery: true}
	if p := runAll(h, t, r)["web"]; len(p.Steps) != 1 || p.Steps[0].Op != decide.OpSnapshot {
		t.Errorf("asked for: %+v", p)
	}
}

func TestAMergeThatIsCutOffWhileTheGuestIsOffIsDoneAgain(t *testing.T) {
	h, web, r := missed(t)
	web.State = host.ShutOff
	runAll(h, t, r)
	checkDone(h, t)
	if slices.ContainsFunc(filesOf(h, t), func(f string) bool { return strings.Contains(f, hosttest.Name(9)) }) {
		t.Error("the merged layer is still there")
	}
}

// A guest that stops while it is moved to the base may have written to either.
func TestAGuestThatStoppedInAPivotIsLeftAlone(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9)(h, web)
	nothing := with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} })
	if !dieAt(h, rotator(h, nothing), "block of merge") {
		t.Fatal("no merge")
	}
	h.AfterCrash(hosttest.JobsDie)
	web.State = host.ShutOff
	p := runAll(h, t, rotator(h, nothing))["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeStopped || len(p.Steps) > 0 {
		t.Errorf("%+v", p)
	}
	web.State = host.Running
	runAll(h, t, rotator(h, nothing))
	checkDone(h, t)
}

func TestWhatTheEngineWouldRefuseIsRefusedBeforeAnythingIsDone(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	h.EngineRefuses = errors.New("web.qcow2: refcounts are dirty")
	r := rotator(h, rule(2))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultFailed || !strings.Contains(p.Error, "nothing was changed: web.qcow2: refcounts are dirty") || len(web.Snapshots) != 3 {
		t.Errorf("%+v", p)
	}
}

// Guests start and stop at any moment of a run: it plans anew.
func TestAGuestThatStartsOrStopsMeanwhileIsPlannedAnew(t *testing.T) {
	for _, c := range []struct {
		from, to host.State
		at       string
	}{
		{host.ShutOff, host.Running, "call check"}, {host.ShutOff, host.Running, "call drop-metadata"}, {host.ShutOff, host.Running, "call engine"}, {host.ShutOff, host.Running, "call redefine"},
		{host.Running, host.ShutOff, "call rehearse"}, {host.Running, host.ShutOff, "call drop-metadata"}, {host.Running, host.ShutOff, "call merge"}, {host.Running, host.ShutOff, "call redefine"},
	} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		web.State = c.from
		turned := false
		h.Event = func(what string) error {
			if what == c.at && !turned {
				turned, web.State = true, c.to
			}
			return nil
		}
		r := rotator(h, rule(2))
		r.Options = coalesce()
		p := runAll(h, t, r)["web"]
		if !turned || p.Result != decide.ResultDone || len(web.Disks[0].Chain) != 3 {
			t.Errorf("%s at %s: %+v", c.to, c.at, p)
		}
		checkDone(h, t)
	}
}

// A start that has begun before the domain was told of the merge is from the old chain.
func TestAStartThatOvertakesTheMergeTakesTheDomainBack(t *testing.T) {
	for _, last := range []int{0, 2} {
		h, web := off(t, 9, 10, 11)
		web.Cut = false
		policy := with(rule(last), func(r *policy.Rule) { r.Keep = policy.Keep{Last: last} })
		r := rotator(h, policy)
		r.Options = coalesce()
		old := slices.Clone(web.Disks[0].Chain)
		if !dieAt(h, r, "on record") {
			t.Fatal("the merge was not put on record")
		}
		web.State, web.Disks[0].Chain = host.Running, old // it was started on the old chain in that moment
		h.Qemu = map[string][]string{"vda": host.Paths(old)}
		h.Write(web, "vda", 3)
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Errorf("keep %d: %+v", last, p)
		}
		checkDone(h, t)
	}
}

// The same, but the guest has stopped again before the next run: nobody may
// delete what it wrote.
func TestALayerThatWasWrittenToAfterItsMergeIsKept(t *testing.T) {
	h, web := off(t, 9)
	web.Cut = false
	r := rotator(h, with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }))
	r.Options = coalesce()
	top := web.Disks[0].Active().Path
	if !dieAt(h, r, "on record") {
		t.Fatal("the merge was not put on record")
	}
	time.Sleep(20 * time.Millisecond) // more than a tick of the clock of files
	h.Change(top, func(i *hosttest.Image) { i.Blocks[3] = 999 })
	p := runAll(h, t, r)["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLeftover || !slices.Contains(filesOf(h, t), top) {
		t.Errorf("%+v", p)
	}
}

func TestAStartThatIsUnderWayKeepsTheOldChain(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	web.Cut = false
	r := rotator(h, rule(2))
	r.Options = coalesce()
	old := host.Paths(web.Disks[0].Chain)
	h.Starting = true
	r.StartPatience = 50 * time.Millisecond
	p := runAll(h, t, r)["web"]
	if p.Result == decide.ResultDone || !slices.Equal(web.Disks[0].Inactive, old) {
		t.Errorf("starts from %v: %+v", web.Disks[0].Inactive, p)
	}
	h.Starting = false
	runAll(h, t, r)
	checkDone(h, t)
}
