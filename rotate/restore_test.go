package rotate

import (
	"maps"
	"os"
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

// back restores a snapshot of web and lets the simulation know what its disks must
// read from now on.
func back(t *testing.T, h *hosttest.Host, r *Rotator, web *hosttest.Domain, snapshot string, o decide.RestoreOptions) decide.Plan {
	t.Helper()
	p, err := r.Restore(t.Context(), "web", snapshot, o)
	if err != nil {
		t.Fatal(err)
	}
	if p.Result == decide.ResultDone && !o.Plan {
		for target, state := range web.States[snapshot] {
			if host.DiskOf(&web.Domain, target) != nil && (len(o.Disks) == 0 || slices.Contains(o.Disks, target)) {
				web.Want[target] = maps.Clone(state)
			}
		}
	}
	checkData(h, t)
	return p
}

// Which snapshot is meant is settled before the guest is stopped, and not again afterwards.
func TestRestoreToASnapshotThatIsNotWrittenOut(t *testing.T) {
	for text, want := range map[string]int{"latest": 11, "-2": 10, "oldest": 9, hosttest.Name(10)[:len(hosttest.Name(10))-3]: 10} {
		h, web := off(t, 9, 10, 11)
		r := rotator(h, rule(7))
		p, err := r.Restore(t.Context(), "web", text, decide.RestoreOptions{})
		if err != nil || p.Result != decide.ResultDone {
			t.Fatalf("%s: %+v, %v", text, p, err)
		}
		state := web.States[hosttest.Name(want)]["vda"]
		web.Want["vda"] = maps.Clone(state)
		checkData(h, t)
		if p.Restores != hosttest.Name(want) {
			t.Errorf("%s is told to be %q", text, p.Restores)
		}
	}
	h, web := off(t, 9, 10)
	web.State, web.Cut, web.Obeys = host.Running, false, true
	h.Event = func(call string) error {
		if call == "call shutdown" { // yesterday is another day by then
			h.Now = h.Now.Add(48 * time.Hour)
		}
		return nil
	}
	h.Now = web.Snapshots[1].Time.Add(24 * time.Hour)
	p, err := rotator(h, rule(7)).Restore(t.Context(), "web", "yesterday", decide.RestoreOptions{Stop: &decide.StopOptions{Patience: time.Hour}})
	if err != nil || p.Restores != hosttest.Name(10) {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = rotator(h, rule(7)).Restore(t.Context(), "web", "p-", decide.RestoreOptions{})
	if err == nil || !strings.Contains(err.Error(), "several begin like this: "+hosttest.Name(9)+", "+hosttest.Name(10)) {
		t.Errorf("several: %v", err)
	}
}

func TestRestoreKeepsThePresentAndAllSnapshots(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	r := rotator(h, rule(7))
	dry := back(t, h, r, web, hosttest.Name(10), decide.RestoreOptions{Plan: true})
	present := maps.Clone(web.Want["vda"])
	p := back(t, h, r, web, hosttest.Name(10), decide.RestoreOptions{})
	if p.Result != decide.ResultDone || len(p.Steps) != len(dry.Steps) || p.Steps[0].Op != decide.OpSnapshot || p.Steps[1].Op != decide.OpSwitch {
		t.Fatalf("%+v\nplanned %+v", p, dry)
	}
	if len(web.Snapshots) != 4 || len(web.States) != 4 {
		t.Errorf("snapshots: %+v", web.Snapshots)
	}
	newest := web.Snapshots[3].Name
	if got := web.States[newest]["vda"]; !slices.Equal(blockLines(h, got), blockLines(h, present)) {
		t.Errorf("the present state is kept as %v, it was %v", got, present)
	}
	// Rotation goes on: on the new branch, and with the old one.
	web.State, web.Cut = host.Running, false
	h.Write(web, "vda", 5)
	for n := range 6 {
		h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
		h.Write(web, "vda", n)
	}
	for _, s := range web.Snapshots { // libvirt's own operations need them
		if !slices.Contains(filesOf(h, t), s.OverlayOf("vda")) {
			t.Errorf("the overlay of %s is gone", s.Name)
		}
	}
}

func TestAStartThatIsUnderWayIsNotRestored(t *testing.T) {
	h, web := off(t, 9, 10)
	web.Cut = false
	before, files := slices.Clone(web.Disks[0].Inactive), filesOf(h, t)
	h.Starting = true
	p := back(t, h, rotator(h, rule(7)), web, hosttest.Name(9), decide.RestoreOptions{DiscardNewer: true})
	if p.Result != decide.ResultFailed || !strings.Contains(p.Error, "started meanwhile") || !slices.Equal(web.Disks[0].Inactive, before) || !slices.Equal(filesOf(h, t), files) {
		t.Errorf("%+v, starts from %v", p, web.Disks[0].Inactive)
	}
}

// Once nobody keeps the snapshots of a branch, its files go.
func TestABranchThatNobodyKeepsIsCollected(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	r := rotator(h, rule(7))
	back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{})
	if n := len(filesOf(h, t)); n != 6 { // base, three overlays, that of the present, the new one
		t.Fatalf("%d files: %q", n, filesOf(h, t))
	}
	web.State, web.Cut = host.Running, false
	h.Write(web, "vda", 5)
	two := with(rule(1), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1} })
	r = rotator(h, two)
	for range 6 {
		h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
		runAll(h, t, r)
		checkData(h, t)
		h.Write(web, "vda", 6)
	}
	if n := len(filesOf(h, t)); n > 3 {
		t.Errorf("%d files are left: %q", n, filesOf(h, t))
	}
}

func TestRestoreThatDiscardsTheNewer(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	r := rotator(h, rule(7))
	p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{DiscardNewer: true})
	if p.Result != decide.ResultDone || len(web.Snapshots) != 1 {
		t.Fatalf("%+v, %+v", p, web.Snapshots)
	}
	r.Options = coalesce()
	for range 5 {
		runAll(h, t, r)
		checkData(h, t)
	}
	if n := len(filesOf(h, t)); n != 2 {
		t.Errorf("%d files are left: %q", n, filesOf(h, t))
	}
}

// What is given up can be on branches that earlier restores have left.
func TestRestoreThatDiscardsBranches(t *testing.T) {
	for first := 9; first <= 11; first++ {
		for second := 9; second <= first; second++ {
			h, web := off(t, 9, 10, 11)
			r := rotator(h, rule(7))
			back(t, h, r, web, hosttest.Name(first), decide.RestoreOptions{})
			web.Cut = false
			h.Write(web, "vda", 5)
			h.Now = h.Now.Add(2 * time.Hour)
			p := back(t, h, r, web, hosttest.Name(second), decide.RestoreOptions{DiscardNewer: true})
			if p.Result != decide.ResultDone {
				t.Errorf("to %d, then to %d: %+v", first, second, p)
			}
			if n := len(web.Snapshots); n != second-8 {
				t.Errorf("to %d, then to %d: %d snapshots", first, second, n)
			}
			r.Options = coalesce()
			for range 5 {
				runAll(h, t, r)
				checkData(h, t)
			}
			if n := len(filesOf(h, t)); n != second-7 {
				t.Errorf("to %d, then to %d: %d files are left: %q", first, second, n, filesOf(h, t))
			}
		}
	}
}

// A disk that was taken out since the snapshot stays out; the others go back.
func TestTheDisksThatAreLeftGoBack(t *testing.T) {
	for _, o := range []decide.RestoreOptions{{}, {DiscardNewer: true}, {Plan: true}} {
		h := hosttest.New(t)
		web := h.Add("web")
		h.Disk(web, "vda", "web.qcow2")
		h.Disk(web, "vdb", "data.qcow2")
		h.Take(web, []int{9, 10})
		web.State = host.ShutOff
		web.Disks = web.Disks[:1]
		delete(web.Want, "vdb")
		before := filesOf(h, t)
		p := back(t, h, rotator(h, rule(7)), web, hosttest.Name(9), o)
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "has the disk vdb, the domain has not") || !strings.Contains(p.Warnings[0], "data.qcow2") {
			t.Errorf("%+v: warnings %q", o, p.Warnings)
		}
		if want := map[bool]string{false: decide.ResultDone, true: decide.ResultPlanned}[o.Plan]; p.Result != want || p.Steps[len(p.Steps)-1].Disk == "vdb" {
			t.Errorf("%+v: %+v", o, p)
		}
		if missing := slices.DeleteFunc(before, func(f string) bool { return slices.Contains(filesOf(h, t), f) }); len(missing) > 0 {
			t.Errorf("%+v: %q are gone", o, missing)
		}
	}
}

// A restore dies at any moment: each disk is where it was or where it was to go,
// all of them, and the next run tidies up.
func TestARestoreThatDiesAnywhereIsAllOrNothing(t *testing.T) {
	for n := 1; ; n++ {
		h, web := off(t, 9, 10)
		h.Disk(web, "vdb", "data.raw")
		h.Take(web, []int{11})
		web.Cut = false
		r := rotator(h, rule(7))
		count := 0
		first, states := map[string]string{}, map[string]string{}
		for _, d := range web.Disks {
			first[d.Target], states[d.Target] = d.Active().Path, d.Chain[len(d.Chain)-2].Path
		}
		died := dieWith(h, r, func() { _, _ = r.Restore(t.Context(), "web", hosttest.Name(11), decide.RestoreOptions{}) }, func(string) bool { count++; return count == n })
		if !died {
			if n < 20 {
				t.Errorf("only %d places to die at", n-1)
			}
			return
		}
		switched := 0
		for _, d := range web.Disks {
			if d.Active().Path != first[d.Target] && h.Load(d.Active().Path).Backing == states[d.Target] {
				web.Want[d.Target] = maps.Clone(web.States[hosttest.Name(11)][d.Target])
				switched++
			}
		}
		if switched != 0 && switched != 2 {
			t.Fatalf("place %d: %d of 2 disks went back", n, switched)
		}
		checkData(h, t)
		r.Options = coalesce()
		runAll(h, t, r)
		checkData(h, t)
		if left, _ := journal.In(r.Observer.StateDir).Load(); len(left) > 0 {
			t.Fatalf("place %d: intents left: %+v", n, left)
		}
	}
}

// libvirt 9 changes the children of a snapshot whose metadata goes, as if its layer
// had been merged. On a branch nothing in the chains tells what they were.
func TestABranchKeepsItsStatesWhileOthersGo(t *testing.T) {
	for _, to := range []int{9, 10, 11} {
		h, web := off(t, 9, 10, 11)
		r := rotator(h, rule(3))
		r.Options = decide.Options{IgnoreEvery: true}
		back(t, h, rotator(h, rule(7)), web, hosttest.Name(to), decide.RestoreOptions{})
		web.State, web.Cut = host.Running, false
		for range 8 {
			h.Write(web, "vda", h.Written%16)
			h.Now = h.Now.Add(hosttest.Hour(1).Sub(hosttest.Hour(0)))
			if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
				t.Errorf("back to %d: %+v", to, p)
			}
			checkData(h, t)
		}
		checkDone(h, t)
		if n := len(filesOf(h, t)); n > 5 {
			t.Errorf("%d files are left: %q", n, filesOf(h, t))
		}
	}
}

// The configuration goes back with the disks, and comes back when they do.
func TestRestoreWithTheConfiguration(t *testing.T) {
	h, web := off(t, 9, 10)
	web.Cut = false
	r := rotator(h, rule(7))
	h.Starting = true
	if p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{WithConfig: true}); p.Result != decide.ResultFailed || web.Config != "" {
		t.Errorf("started meanwhile: %+v, configuration of %q", p, web.Config)
	}
	h.Starting = false
	h.Disk(web, "vdb", "new.qcow2")
	p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{WithConfig: true})
	last := p.Steps[len(p.Steps)-1]
	if p.Result != decide.ResultDone || web.Config != hosttest.Name(9) || last.Op != decide.OpConfigure || !strings.Contains(last.Reason, "has no vdb") {
		t.Errorf("%+v, configuration of %q", p, web.Config)
	}
	web.Disks = web.Disks[1:]
	p, err := r.Restore(t.Context(), "web", hosttest.Name(10), decide.RestoreOptions{WithConfig: true})
	if err != nil || len(p.Refused) == 0 || p.Refused[0].Code != host.CodeNoDisk {
		t.Errorf("without the disk: %+v, %v", p, err)
	}
}

// branched has a guest that went back, with snapshots in the middle of the branch that
// the policy drops.
func branched(t *testing.T) (*hosttest.Host, *hosttest.Domain, *Rotator) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.raw")
	h.Take(web, []int{6, 7, 8, 9, 10})
	web.State, web.Cut = host.ShutOff, true
	r := rotator(h, rule(20))
	back(t, h, r, web, hosttest.Name(6), decide.RestoreOptions{})
	for i := range web.Snapshots { // 6 and 7, 8 and 9, 10 and the present are of one hour each
		web.Snapshots[i].Time = hosttest.Hour(1).Add(time.Duration(i) * 30 * time.Minute)
	}
	r = rotator(h, with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1, Hourly: 10} }))
	r.Options = coalesce()
	return h, web, r
}

func TestLayersOfABranchAreMerged(t *testing.T) {
	for _, state := range []host.State{host.ShutOff, host.Running} {
		h, web, r := branched(t)
		web.State, web.Cut = state, state == host.ShutOff
		if state == host.Running {
			h.Write(web, "vda", 5)
		}
		p := runAll(h, t, r)["web"]
		merged := 0
		for _, s := range p.Steps {
			if s.Op == decide.OpMerge {
				merged++
				if s.Method != "offline-commit" || !strings.Contains(s.Reason, "on a branch") {
					t.Errorf("%s: %s, %s", state, s, s.Reason)
				}
			}
		}
		if p.Result != decide.ResultDone || merged == 0 {
			t.Errorf("%s: %d merges: %+v", state, merged, p)
		}
		checkData(h, t)
		checkDone(h, t)
		if again := runAll(h, t, r)["web"]; len(again.Steps) > 0 {
			t.Errorf("%s: once more: %+v", state, again.Steps)
		}
		web.State, web.Cut = host.Running, false
		r = rotator(h, rule(2))
		for range 8 { // until the branch is gone, snapshot by snapshot
			h.Now = h.Now.Add(2 * time.Hour)
			if p := runAll(h, t, r)["web"]; p.Error != "" {
				t.Errorf("%s: %s", state, p.Error)
			}
			checkData(h, t)
			h.Write(web, "vda", 3)
		}
		if n := len(filesOf(h, t)); n != 6 { // of each disk the base and two overlays
			t.Errorf("%s: %d files are left: %q", state, n, filesOf(h, t))
		}
	}
}

// Wherever a run dies that merges on a branch, every state stays, and the next finishes.
func TestAMergeOnABranchThatDiesAnywhereIsFinished(t *testing.T) {
	n := 1
	for ; ; n++ {
		h, web, r := branched(t)
		_ = web
		at, count := "", 0
		if !die(h, r, func(place string) bool { count++; at = place; return count == n }) {
			break
		}
		t.Logf("place %d, %q", n, at)
		checkData(h, t)
		finishes(h, t, r.rule(), coalesce())
		checkDone(h, t)
		if t.Failed() {
			t.FailNow()
		}
	}
	if n < 30 {
		t.Errorf("only %d places", n-1)
	}
}

// rule is the one rule of the simulation's rotator.
func (r *Rotator) rule() *policy.Rule {
	return r.Match(guests("web")).Rules["web"]
}

// A branch stands on the upper part of the chain only: merges below are done, and its
// snapshots' metadata follows.
func TestMergesBelowABranchGoOn(t *testing.T) {
	h, web := off(t, 5, 6, 7, 8, 9, 10, 11)
	back(t, h, rotator(h, rule(9)), web, hosttest.Name(11), decide.RestoreOptions{})
	web.State, web.Cut = host.Running, false
	r := rotator(h, rule(8))
	for n := range 4 {
		h.Write(web, "vda", n)
		h.Now = h.Now.Add(hosttest.Hour(1).Sub(hosttest.Hour(0)))
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Errorf("%+v", p)
		}
		checkData(h, t)
		if n := len(web.Disks[0].Chain); n != 8 { // the base, and one for each snapshot that is on it
			t.Errorf("%d layers: %q", n, h.Short(host.Paths(web.Disks[0].Chain)))
		}
	}
	for _, s := range web.Snapshots {
		for _, path := range s.Disks[0].State {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("snapshot %s names %s, which is gone", s.Name, path)
			}
		}
	}
}
