package rotate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// twoDisks is a guest that is off, with snapshots of two disks.
func twoDisks(t *testing.T, hours ...int) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.raw")
	h.Take(web, hours)
	web.State = host.ShutOff
	return h, web
}

// One disk goes back, the other stays, and the present of both is kept.
func TestOneDiskGoesBack(t *testing.T) {
	h, web := twoDisks(t, 9, 10, 11)
	only := decide.RestoreOptions{Disks: []string{"vda"}}
	r := rotator(h, rule(7))
	present := map[string]hosttest.Blocks{"vda": maps.Clone(web.Want["vda"]), "vdb": maps.Clone(web.Want["vdb"])}
	p := back(t, h, r, web, hosttest.Name(9), only)
	if p.Result != decide.ResultDone || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "vdb, which is not named, stays: as it is now") || !strings.Contains(p.Warnings[0], "of different moments") {
		t.Fatalf("%+v", p)
	}
	newest := web.Snapshots[3]
	for target, blocks := range present {
		if !maps.Equal(web.States[newest.Name][target], blocks) {
			t.Errorf("%s: the present is kept as %v, it was %v", target, web.States[newest.Name][target], blocks)
		}
	}
	// libvirt deletes what a leaf that is not current has on record, and merges the overlay that
	// is on record into what it builds on: neither must be in use.
	if !newest.Current || newest.Parent != hosttest.Name(11) {
		t.Errorf("current is not the newest: %+v", web.Snapshots)
	}
	if first := web.Snapshots[0]; first.OverlayOf("vda") == web.Disks[0].Active().Path {
		t.Errorf("%s names the new overlay, and others build on what is below it", first.Name)
	}
	rotatesOn(t, h, r, web, 10)
}

// rotatesOn lets the guest run, write and be rotated n times.
func rotatesOn(t *testing.T, h *hosttest.Host, r *Rotator, web *hosttest.Domain, n int) {
	t.Helper()
	for i := range n {
		web.State, web.Cut = host.Running, false
		h.Write(web, "vda", i%5)
		h.Write(web, "vdb", i%7)
		if i%3 == 2 {
			web.State, web.Cut = host.ShutOff, i%2 == 0
		}
		h.Now = h.Now.Add(2 * time.Hour)
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
		w := see(h, t)
		Status(w, w.Domain("web"), r.rule(), nil, h.Now)
		if found := decide.Diagnose(w, []string{"web"}, r.Match(guests("web")), h.Now); len(found) > 0 {
			t.Fatalf("doctor tells %+v", found)
		}
	}
}

// Back to the newest, where nothing has been written since: no branch is left, and libvirt's
// metadata names the new overlay.
func TestOneDiskGoesBackToTheNewest(t *testing.T) {
	h, web := twoDisks(t, 9, 10, 11)
	for i := range web.Disks {
		h.Change(web.Disks[i].Active().Path, func(i *hosttest.Image) { i.Blocks = hosttest.Blocks{} })
		web.Want[web.Disks[i].Target] = maps.Clone(web.States[hosttest.Name(11)][web.Disks[i].Target])
	}
	r := rotator(h, rule(7))
	p := back(t, h, r, web, hosttest.Name(11), decide.RestoreOptions{Disks: []string{"vda"}})
	if p.Result != decide.ResultDone || len(web.Snapshots) != 3 || web.Snapshots[2].OverlayOf("vda") != web.Disks[0].Active().Path || !web.Snapshots[2].Current {
		t.Errorf("%+v, %+v", p, web.Snapshots)
	}
	rotatesOn(t, h, r, web, 10)
}

func TestOneDiskGoesBackAndWhatIsNewerIsGivenUp(t *testing.T) {
	h, web := twoDisks(t, 9, 10, 11)
	r := rotator(h, rule(7))
	p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Disks: []string{"vdb"}, DiscardNewer: true})
	if p.Result != decide.ResultDone || len(web.Snapshots) != 1 || !web.Snapshots[0].Current {
		t.Fatalf("%+v, %+v", p, web.Snapshots)
	}
	r.Options = coalesce()
	for range 5 {
		runAll(h, t, r)
		checkData(h, t)
	}
	if n := len(filesOf(h, t)); n != 4 {
		t.Errorf("%d files are left: %q", n, filesOf(h, t))
	}
}

func TestDisksThatAreNotThereAreRefused(t *testing.T) {
	h, web := twoDisks(t, 9, 10)
	r := rotator(h, rule(7))
	files := filesOf(h, t)
	for target, want := range map[string]string{"vdx": "it has vda, vdb", "": "it has vda, vdb"} {
		p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Disks: []string{"vda", target}})
		if p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeNoDisk || !strings.Contains(p.Refused[0].Detail, want) {
			t.Errorf("%q: %+v", target, p)
		}
	}
	web.Disks = web.Disks[:1]
	delete(web.Want, "vdb")
	if p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Disks: []string{"vdb"}}); p.Result != decide.ResultRefused || !strings.Contains(p.Refused[0].Detail, "the domain has not") {
		t.Errorf("%+v", p)
	}
	if !slices.Equal(files, filesOf(h, t)) {
		t.Errorf("files: %q", filesOf(h, t))
	}
}

// A disk that has become unsuitable since is in the way of its own way back, not of the others'.
func TestADiskThatBecameUnsuitableStays(t *testing.T) {
	h, web := twoDisks(t, 9, 10)
	web.Disks[1].Shareable = true
	r := rotator(h, rule(7))
	if p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{}); p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeShareable || !strings.Contains(p.Refused[0].Detail, "--disk") {
		t.Errorf("%+v", p)
	}
	if p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Disks: []string{"vda"}}); p.Result != decide.ResultDone {
		t.Errorf("%+v", p)
	}
}

// What goes back is kept as it is now, also where the policy leaves the disk out.
func TestThePresentOfAnExcludedDiskIsKept(t *testing.T) {
	h, web := twoDisks(t, 9, 10)
	h.Write(web, "vdb", 5)
	present := maps.Clone(web.Want["vdb"])
	r := rotator(h, with(rule(7), func(r *policy.Rule) { r.ExcludeDisks = []string{"vdb"} }))
	p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{})
	if newest := web.Snapshots[len(web.Snapshots)-1]; p.Result != decide.ResultDone || !maps.Equal(web.States[newest.Name]["vdb"], present) {
		t.Errorf("%+v, kept as %v", p, web.States[newest.Name])
	}
}

// A disk that came later stays on the overlays of newer snapshots: these are no leaves that
// libvirt may delete with their files.
func TestSnapshotsOfADiskThatCameLaterStayInTheChain(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9})
	h.Disk(web, "vdb", "data.qcow2")
	h.Take(web, []int{10, 11})
	web.State = host.ShutOff
	r := rotator(h, rule(7))
	p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{})
	if p.Result != decide.ResultDone || !web.Snapshots[3].Current || !strings.Contains(p.Warnings[0], "vdb, which came after the snapshot, stays") {
		t.Errorf("%+v, %+v", p, web.Snapshots)
	}
	rotatesOn(t, h, r, web, 10)
}

// However disks go back, one or all, and whatever retention drops in between: every state
// that is listed stays what it was, and in the end nothing is left over.
func TestDisksGoBackAtRandom(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			goBackAtRandom(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

func goBackAtRandom(t *testing.T, x *rand.Rand) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.raw")
	if x.IntN(2) == 0 {
		h.CannotClone = nil
	}
	h.Take(web, []int{5, 6, 7, 8})
	keep := policy.Keep{Last: x.IntN(4), Hourly: 1 + x.IntN(4)}
	method := []policy.Method{policy.MethodAuto, policy.MethodCommit, policy.MethodPull, policy.MethodGraft}[x.IntN(4)]
	if method == policy.MethodGraft {
		h.CannotClone = nil
	}
	r := rotator(h, with(rule(0), func(r *policy.Rule) { r.Keep, r.Method = keep, method }))
	for n := range 14 {
		h.Now = h.Now.Add(time.Duration(20+x.IntN(90)) * time.Minute)
		web.State, web.Cut = host.ShutOff, x.IntN(2) == 0
		if x.IntN(2) == 0 {
			o := decide.RestoreOptions{DiscardNewer: x.IntN(6) == 0}
			if x.IntN(3) > 0 {
				o.Disks = []string{[]string{"vda", "vdb"}[x.IntN(2)]}
			}
			to := web.Snapshots[x.IntN(len(web.Snapshots))].Name
			if p := back(t, h, r, web, to, o); p.Result != decide.ResultDone {
				t.Fatalf("%d: back to %s, %+v: %+v", n, to, o, p)
			}
		}
		if x.IntN(3) > 0 {
			web.State, web.Cut = host.Running, false
		}
		for _, target := range []string{"vda", "vdb"} {
			if x.IntN(3) > 0 {
				h.Write(web, target, x.IntN(16))
			}
		}
		if p := runAll(h, t, r)["web"]; p.Error != "" || len(p.Refused) > 0 {
			t.Fatalf("%d: %+v", n, p)
		}
		checkData(h, t)
	}
	r = rotator(h, rule(1))
	for range 8 {
		web.State, web.Cut = host.Running, false
		h.Write(web, "vda", x.IntN(16))
		h.Write(web, "vdb", x.IntN(16))
		h.Now = h.Now.Add(2 * time.Hour)
		if p := runAll(h, t, r)["web"]; p.Error != "" {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
	}
	if n := len(filesOf(h, t)); n != 4 { // of each disk the base and one overlay
		t.Errorf("%d files are left: %q", n, filesOf(h, t))
	}
}

// A restore of one disk dies at any moment: the disk is where it was or where it was to go,
// the other stays, and the next runs tidy up.
func TestARestoreOfOneDiskThatDiesAnywhereIsFinished(t *testing.T) {
	for n := 1; ; n++ {
		h, web := twoDisks(t, 9, 10, 11)
		r := rotator(h, rule(7))
		count := 0
		was := web.Disks[0].Active().Path
		o := decide.RestoreOptions{Disks: []string{"vda"}}
		died := dieWith(h, r, func() { _, _ = r.Restore(t.Context(), "web", hosttest.Name(10), o) }, func(string) bool { count++; return count == n })
		if !died {
			if n < 20 {
				t.Errorf("only %d places to die at", n-1)
			}
			return
		}
		if active := web.Disks[0].Active().Path; active != was && h.Load(active).Backing == h.Img("web."+hosttest.Name(9)+".qcow2") {
			web.Want["vda"] = maps.Clone(web.States[hosttest.Name(10)]["vda"])
		}
		checkData(h, t)
		runAll(h, t, merging(h, rule(7)))
		checkData(h, t)
		if left, _ := journal.In(r.Observer.StateDir).Load(); len(left) > 0 {
			t.Fatalf("place %d: intents left: %+v", n, left)
		}
		rotatesOn(t, h, rotator(h, rule(2)), web, 6)
		if n := len(filesOf(h, t)); n != 6 { // of each disk the base and two overlays
			t.Fatalf("place %d: %d files are left: %q", n, n, filesOf(h, t))
		}
	}
}

// A disk goes back to a snapshot of a branch that was left, the other stays: what that snapshot
// names for the other one is the state of the snapshot above, and libvirt's own revert deletes what
// the current snapshot names. So that does not become current.
func TestWhatTheCurrentSnapshotNamesIsNobodysState(t *testing.T) {
	for _, to := range []int{9, 10, 11} {
		h, web := twoDisks(t, 8, 9, 10, 11)
		r := rotator(h, rule(9))
		back(t, h, r, web, hosttest.Name(8), decide.RestoreOptions{})
		back(t, h, r, web, hosttest.Name(to), decide.RestoreOptions{Disks: []string{"vda"}})
		for i := range web.Snapshots {
			if !web.Snapshots[i].Current {
				continue
			}
			for _, sd := range web.Snapshots[i].Disks {
				checkRevertible(h, t, web, &sd)
			}
		}
		rotatesOn(t, h, r, web, 10)
	}
}
