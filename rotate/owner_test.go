package rotate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// leftAlone runs on a host and wants it to change nothing of the domain.
func (p *pair) leftAlone(t *testing.T, i int, because string) {
	t.Helper()
	p.h[i].Now = p.h[i].Now.Add(2 * 60 * 60 * 1e9)
	planned := planOf(p.h[i], t, p.r[i], "web")
	before := everything(p.h[i], t)
	p.r[i].Options.NoSnapshot = false
	ran := p.run(t, i)["web"]
	p.r[i].Options = coalesce()
	if !refusedWith(ran, host.CodeElsewhere) || !refusedWith(planned, host.CodeElsewhere) || !strings.Contains(fmt.Sprint(ran.Refused), because) {
		t.Errorf("host%d: planned %+v, ran %+v", i+1, planned.Refused, ran)
	}
	if everything(p.h[i], t) != before {
		t.Errorf("host%d changed something", i+1)
	}
}

func (p *pair) worksOn(t *testing.T, i int) {
	t.Helper()
	ran := p.run(t, i)["web"]
	if len(ran.Refused) > 0 || ran.Error != "" {
		t.Errorf("host%d: %+v", i+1, ran)
	}
	p.check(t)
}

// A guest is defined on two hosts. Who had it first keeps it, until somebody says otherwise.
func TestAGuestThatIsDefinedTwiceHasOneOwner(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	p.run(t, 0)
	p.as(web)
	p.leftAlone(t, 1, "host host1")
	p.worksOn(t, 0)
	tookOver(t, p, 1, "")
	p.leftAlone(t, 0, "host2")
	p.worksOn(t, 1)
	tookOver(t, p, 0, "")
	p.leftAlone(t, 1, "host1")
	p.worksOn(t, 0)
}

func tookOver(t *testing.T, p *pair, i int, down string) {
	t.Helper()
	plan, err := p.r[i].TakeOver(context.Background(), "web", down, false)
	if err != nil || plan.Result != decide.ResultDone || len(plan.Steps) != 1 {
		t.Fatalf("%+v %v", plan, err)
	}
}

// virsh migrate without --undefinesource leaves a definition behind: the guest runs elsewhere.
func TestADefinitionThatAMigrationLeftIsRecognised(t *testing.T) {
	p, web := newPair(t, 9, 10)
	p.run(t, 0)
	moved := p.as(web)
	web.State = host.ShutOff
	p.leftAlone(t, 1, "runs there") // host 1 has told last that it runs there
	p.leftAlone(t, 0, "left behind")
	p.worksOn(t, 1)
	if moved.State != host.Running {
		t.Error(moved.State)
	}
	p.leftAlone(t, 0, "host2")
}

// With --undefinesource nobody has to say anything.
func TestAGuestThatMovedWhollyIsFollowed(t *testing.T) {
	p, web := newPair(t, 9, 10, 11)
	p.run(t, 0)
	p.as(web)
	p.h[0].Guests = nil
	p.run(t, 0)
	p.worksOn(t, 1)
}

// The newer owner has given the guest up: the definition that was left behind long before, with
// an older claim, is not the one that counts.
func TestAnOldClaimDoesNotComeBackToLife(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	p.run(t, 0)
	p.as(web)
	tookOver(t, p, 1, "")
	p.worksOn(t, 1)
	p.leftAlone(t, 0, "host2")
	p.h[1].Guests = nil
	p.run(t, 1)
	p.leftAlone(t, 0, "may be an old one")
	tookOver(t, p, 0, "")
	p.worksOn(t, 0)
}

// A host dies with the guest on it, and another starts it from a definition that is one
// snapshot old: that is not taken over, and neither host changes anything.
func TestAnOldDefinitionIsNotTakenOver(t *testing.T) {
	p, web := newPair(t, 9)
	old := p.as(web)
	p.h[0].Take(web, []int{10})
	p.run(t, 0)
	p.leftAlone(t, 1, "host1")
	for _, down := range []string{"", "host1"} {
		plan, err := p.r[1].TakeOver(context.Background(), "web", down, false)
		if err != nil || plan.Result != decide.ResultRefused {
			t.Errorf("down %q: %+v %v", down, plan, err)
		}
	}
	old.Disks, old.Snapshots = web.Observed(nil).Disks, web.Observed(nil).Snapshots // the definition as it was
	plan, _ := p.r[1].TakeOver(context.Background(), "web", "", false)
	if plan.Result != decide.ResultRefused || !strings.Contains(fmt.Sprint(plan.Refused), "--down host1") {
		t.Errorf("%+v", plan)
	}
	tookOver(t, p, 1, "host1")
	p.worksOn(t, 1)
	p.leftAlone(t, 0, "host2") // it comes back, and runs the guest: both are told
	p.leftAlone(t, 1, "host1")
}

// A host dies after a snapshot that it has told nobody of. Its definition of before is an old one,
// on another host, and on itself.
func TestADefinitionOnWhoseLayerAnotherBuildsIsNotTakenOver(t *testing.T) {
	p, web := newPair(t, 9)
	p.run(t, 0)
	old := p.as(web)
	old.State = host.ShutOff
	before := web.Observed(nil).Disks
	p.h[0].Take(web, []int{10})
	for i := range p.r {
		p.h[0].Guests[0].State = host.ShutOff
		p.h[i].Guests[0].Disks = before
		plan, err := p.r[i].TakeOver(context.Background(), "web", "host1", false)
		if err != nil || plan.Result != decide.ResultRefused || !strings.Contains(fmt.Sprint(plan.Refused), "old one") {
			t.Errorf("host%d: %+v %v", i+1, plan, err)
		}
	}
}

// The layer that the guest writes to is on its host's own disk, and the host dies: what it wrote is there alone, and a definition that ends
// with the layer below would go on from an older state.
func TestALayerOnTheDiskOfADeadHostIsMissed(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	share := t.TempDir() // on another file system than the hosts' own directories
	p.r[0].Observer.Fleet.Shared, p.r[1].Observer.Fleet.Shared = []string{share}, []string{share}
	rel, err := filepath.Rel(p.h[0].Dir, share)
	hosttest.Must(err)
	db := p.h[0].Add("db")
	p.h[0].Disk(db, "vda", rel+"/db.qcow2")
	p.h[0].Disk(db, "vdb", rel+"/more.qcow2", "own-overlay.qcow2")
	p.run(t, 0)
	there := p.as(db)
	there.State = host.ShutOff
	disk := &there.Disks[1]
	disk.Chain = disk.Chain[:1]
	disk.Inactive = disk.Inactive[:1]
	hosttest.Must(os.Remove(p.h[0].Img("own-overlay.qcow2"))) // the second host does not have it
	plan, err := p.r[1].TakeOver(context.Background(), "db", "host1", true)
	hosttest.Must(err)
	if !strings.Contains(fmt.Sprint(plan.Refused), "own-overlay.qcow2") {
		t.Errorf("%+v", plan)
	}
}

// Somebody has merged the layer that a guest writes to, and kept it; then the host dies, and an old definition still names that layer.
func TestALayerThatAMergeHasLeftIsNotGoneOnWith(t *testing.T) {
	for name, c := range map[string]struct {
		later   time.Duration // the base was written to after the layer
		state   host.State
		refused bool
	}{
		"the guest ran on the base":     {time.Minute, host.ShutOff, true},
		"the layer was written to last": {-time.Minute, host.ShutOff, false},
		"both at the same time":         {time.Second, host.ShutOff, false},
		"it runs here, so it is known":  {time.Minute, host.Running, false},
	} {
		p, web := newPair(t, 9, 10)
		web.State = host.ShutOff
		p.run(t, 0)
		there := p.as(web)
		there.State = c.state
		top := web.Disks[0].Active().Path
		info, err := os.Stat(top)
		hosttest.Must(err)
		at := info.ModTime().Add(c.later)
		hosttest.Must(os.Chtimes(p.h[0].Img("web.qcow2"), at, at))
		plan, err := p.r[1].TakeOver(context.Background(), "web", "", true)
		hosttest.Must(err)
		if refused := strings.Contains(fmt.Sprint(plan.Refused), "touch "); refused != c.refused {
			t.Errorf("%s: %+v", name, plan)
		}
		at = info.ModTime().Add(time.Hour)
		hosttest.Must(os.Chtimes(top, at, at)) // the person knows that it is right
		if plan, err = p.r[1].TakeOver(context.Background(), "web", "", true); err != nil || len(plan.Refused) > 0 {
			t.Errorf("%s, then: %+v %v", name, plan, err)
		}
	}
}

// A guest was stopped on its host, which says so: another one need not be told that it is down.
func TestWhoHasAGuestTellsByAdoptHowItIs(t *testing.T) {
	p, web := newPair(t, 9, 10)
	p.run(t, 0)
	p.as(web).State = host.ShutOff
	web.State = host.ShutOff
	if plan, err := p.r[1].TakeOver(context.Background(), "web", "", false); err != nil || plan.Result != decide.ResultRefused {
		t.Errorf("%+v %v", plan, err)
	}
	plan, err := p.r[0].TakeOver(context.Background(), "web", "", false)
	if err != nil || len(plan.Steps)+len(plan.Refused) > 0 {
		t.Errorf("%+v %v", plan, err)
	}
	tookOver(t, p, 1, "")
}

// A takeover is cut off at any place: the guest has one owner at any time, and doing it again
// finishes it.
func TestATakeoverDiesAnywhere(t *testing.T) {
	for place := 1; ; place++ {
		p, web := newPair(t, 9, 10)
		web.State = host.ShutOff
		p.run(t, 0)
		p.as(web)
		p.run(t, 1)
		n, died := 0, false
		p.r[1].Observer.Fleet.Crash = func(string) {
			if n++; n == place {
				panic("dead")
			}
		}
		func() {
			defer func() { died = recover() != nil }()
			_, _ = p.r[1].TakeOver(context.Background(), "web", "", false)
		}()
		p.boot(1)
		owners := 0
		for i := range p.h {
			if plan := planOf(p.h[i], t, p.r[i], "web"); !refusedWith(plan, host.CodeElsewhere) {
				owners++
			}
		}
		if owners != 1 {
			t.Errorf("place %d: %d owners", place, owners)
		}
		_, err := p.r[1].TakeOver(context.Background(), "web", "", false)
		hosttest.Must(err)
		p.worksOn(t, 1)
		p.leftAlone(t, 0, "host2")
		if !died {
			return
		}
	}
}

// A guest is defined here as well, by an old definition: what the owner's uses is kept from other guests of this host.
func TestLayersOfAGuestThatIsAnotherHostsAreKept(t *testing.T) {
	p, web := newPair(t, 9, 10, 11)
	p.run(t, 0)
	old := p.as(web)
	old.State, old.Snapshots = host.ShutOff, nil
	old.Disks = host.CloneChains(old.Disks)
	old.Disks[0].Chain = old.Disks[0].Chain[:1]
	old.Disks[0].Inactive = host.Paths(old.Disks[0].Chain)
	active := filepath.Base(web.Disks[0].Active().Path)
	db := p.h[1].Add("db")
	p.h[1].Disk(db, "vda", p.shared(active))
	p.h[1].Take(db, []int{6, 7, 8})
	db.State = host.ShutOff
	before := pinned(p.h[0])
	ran := p.run(t, 1)
	if n := merges(ran["db"]); n > 0 {
		t.Errorf("%+v", ran["db"].Steps)
	}
	if !refusedWith(ran["web"], host.CodeElsewhere) {
		t.Errorf("%+v", ran["web"])
	}
	if pinned(p.h[0]) != before {
		t.Error("the owner's layers have changed")
	}
	checkData(p.h[0], t)
}
