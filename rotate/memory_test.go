package rotate

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// ram is how much memory the guests of these tests have.
const ram = 256 << 20

// withMemory is a guest that runs, with two disks and snapshots of these hours.
func withMemory(t *testing.T, hours ...int) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.raw")
	web.Memory, web.Obeys = ram, true
	h.Take(web, hours)
	return h, web
}

// keepsMemory is what a person asks for.
func keepsMemory() decide.ByHand {
	return decide.ByHand{Take: &decide.Taking{Name: "mine", Pinned: true, Memory: true}}
}

// takeMemory takes the snapshot "mine" with memory.
func takeMemory(t *testing.T, h *hosttest.Host) decide.Plan {
	t.Helper()
	p := runAll(h, t, byHand(h, rule(2), keepsMemory()))["web"]
	checkMemories(h, t)
	return p
}

// memories are the files with memory.
func memories(h *hosttest.Host) []string {
	found, err := filepath.Glob(filepath.Join(h.Dir, "img", "*"+host.MemorySuffix))
	hosttest.Must(err)
	return found
}

// checkMemories sees that each snapshot that has memory has that of the moment of its disks, and that no
// other lies about.
func checkMemories(h *hosttest.Host, t *testing.T) {
	t.Helper()
	var named []string
	web := h.Find("web")
	for i := range web.Snapshots {
		s := &web.Snapshots[i]
		if s.Memory == "" {
			continue
		}
		if err := h.HasMemory(web, s); err != nil {
			t.Error(err)
		}
		named = append(named, s.Memory)
	}
	slices.Sort(named)
	if there := memories(h); !slices.Equal(there, named) {
		t.Errorf("there are %v, named are %v", h.Short(there), h.Short(named))
	}
}

func TestMemoryIsKeptAndTheGuestGoesOnFromIt(t *testing.T) {
	h, web := withMemory(t, 9, 10)
	p := takeMemory(t, h)
	mine := web.Snapshot("mine")
	if p.Error != "" || mine == nil || !host.IsMemory(mine.Memory) || len(p.Steps) != 3 || p.Steps[2].Op != decide.OpMemory {
		t.Fatalf("%+v %s", p.Steps, p.Error)
	}
	if r := p.Steps[2].Reason; !strings.Contains(r, "while it runs; it stood still for 20ms") {
		t.Errorf("told: %s", r)
	}
	if info, err := os.Stat(mine.Memory); err != nil || info.Mode().Perm() != 0o600 || web.State != host.Running {
		t.Errorf("%v %v, %s", info, err, web.State)
	}
	for n := range 10 { // merges above and below
		h.Write(web, "vda", n)
		h.Now = hosttest.Hour(13 + n)
		runAll(h, t, rotator(h, rule(3)))
		checkMemories(h, t)
	}
	for range 2 {
		o := decide.RestoreOptions{Stop: &decide.StopOptions{Patience: time.Hour}}
		p := back(t, h, rotator(h, rule(3)), web, "mine", o)
		if p.Result != decide.ResultDone || web.State != host.Running || web.WentOn != mine.Memory {
			t.Fatalf("%+v\n%s", p, web.State)
		}
		web.WentOn = ""
		checkMemories(h, t)
		h.Write(web, "vdb", 3)
	}
	runAll(h, t, byHand(h, rule(3), decide.ByHand{Drop: []string{"mine"}, Foreign: true}))
	if _, err := rotator(h, rule(3)).Describe(t.Context(), "web", []string{"mine"}, func(m *host.Mark) { m.Pinned = false }); err != nil {
		t.Fatal(err)
	}
	p = runAll(h, t, byHand(h, rule(3), decide.ByHand{Drop: []string{"mine"}}))["web"]
	if p.Error != "" || web.Snapshot("mine") != nil || len(memories(h)) > 0 {
		t.Errorf("%+v %s: %v", p.Steps, p.Error, memories(h))
	}
	checkDone(h, t)
}

// The memory that another program has kept is gone back to likewise, and stays when its snapshot goes.
func TestMemoryThatAnotherProgramHasKept(t *testing.T) {
	h, web := withMemory(t)
	takeMemory(t, h)
	theirs := h.Img("theirs.save")
	hosttest.Must(os.Rename(web.Snapshots[0].Memory, theirs))
	web.Snapshots[0].Memory, web.Snapshots[0].Description = theirs, "before the upgrade"
	h.Write(web, "vda", 3)
	web.State = host.ShutOff
	back(t, h, rotator(h, rule(3)), web, "mine", decide.RestoreOptions{})
	if web.WentOn != theirs {
		t.Errorf("it went on from %q", web.WentOn)
	}
	p := runAll(h, t, byHand(h, rule(3), decide.ByHand{Drop: []string{"mine"}, Foreign: true}))["web"]
	if p.Error != "" || web.Snapshot("mine") != nil || !strings.Contains(p.Steps[0].Reason, "its memory stays in "+theirs) {
		t.Errorf("%+v %s", p.Steps, p.Error)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

// doctor names memory that no snapshot has any more, and memory that a snapshot lacks.
func TestDoctorTellsOfMemory(t *testing.T) {
	h, web := withMemory(t)
	takeMemory(t, h)
	file := web.Snapshots[0].Memory
	found := func(code string) bool {
		return slices.ContainsFunc(decide.Diagnose(see(h, t), nil, noPolicies, h.Now), func(f decide.Finding) bool { return f.Code == code && f.Path == file })
	}
	if found(decide.FindOrphan) || found(decide.FindMissing) {
		t.Error("all is well, and doctor complains")
	}
	web.Snapshots[0].Memory = ""
	if !found(decide.FindOrphan) {
		t.Error("nobody has it, and doctor says nothing")
	}
	web.Snapshots[0].Memory = file
	hosttest.Must(os.Remove(file))
	if !found(decide.FindMissing) {
		t.Error("it is gone, and doctor says nothing")
	}
	if s := Status(see(h, t), &see(h, t).Domains[0], rule(3), nil, h.Now); s.Snapshots[0].Memory == nil || !s.Snapshots[0].Memory.Missing {
		t.Errorf("%+v", s.Snapshots[0])
	}
}

// What the memory takes is counted.
func TestMemoryIsCounted(t *testing.T) {
	h, web := withMemory(t)
	takeMemory(t, h)
	w := see(h, t)
	d := w.Domain("web")
	_, with := footprint(w, d)
	file := d.Snapshots[0].Memory
	d.Snapshots[0].Memory = ""
	if _, without := footprint(w, d); with-without != w.Left[file].Allocated || with == without {
		t.Errorf("%d bytes with, %d without: the file has %d", with, without, w.Left[file].Allocated)
	}
	if s := Status(see(h, t), &see(h, t).Domains[0], rule(3), nil, h.Now); s.Snapshots[0].Memory.Path != web.Snapshots[0].Memory || s.Snapshots[0].Memory.Allocated == 0 {
		t.Errorf("%+v", s.Snapshots[0].Memory)
	}
}

// The guest may boot from the disks all the same.
func TestMemoryThatIsNotWanted(t *testing.T) {
	for name, o := range map[string]decide.RestoreOptions{
		"not started":    {NoStart: true},
		"without memory": {WithoutMemory: true, Start: true},
		"one disk":       {Disks: []string{"vda"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, web := withMemory(t)
			takeMemory(t, h)
			h.Write(web, "vda", 3)
			web.State = host.ShutOff
			p := back(t, h, rotator(h, rule(3)), web, "mine", o)
			if p.Result != decide.ResultDone || web.WentOn != "" || web.State.Live() != o.Start {
				t.Errorf("%+v\n%s, %q", p, web.State, web.WentOn)
			}
			if told := slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "is not used") }); told == o.WithoutMemory {
				t.Errorf("told: %q", p.Warnings)
			}
			checkMemories(h, t)
		})
	}
}

func TestMemoryThatCannotBeKeptIsRefused(t *testing.T) {
	room := func(free int64) func(*hosttest.Host, *hosttest.Domain, *policy.Rule) {
		return func(h *hosttest.Host, _ *hosttest.Domain, _ *policy.Rule) {
			h.Space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 1 << 40, Free: free}, nil }
		}
	}
	for name, c := range map[string]struct {
		change func(*hosttest.Host, *hosttest.Domain, *policy.Rule)
		code   string
		says   string
	}{
		"off":        {func(_ *hosttest.Host, d *hosttest.Domain, _ *policy.Rule) { d.State = host.ShutOff }, host.CodeMemory, "the guest is off"},
		"left out":   {func(_ *hosttest.Host, _ *hosttest.Domain, r *policy.Rule) { r.ExcludeDisks = []string{"vdb"} }, host.CodeMemory, "without vdb"},
		"not told":   {func(_ *hosttest.Host, d *hosttest.Domain, _ *policy.Rule) { d.Memory = 0 }, host.CodeMemory, "how much memory"},
		"no room":    {room(ram + 16<<20), host.CodeNoSpace, "the guest's memory there can need"},
		"in the way": {func(h *hosttest.Host, _ *hosttest.Domain, _ *policy.Rule) { occupyMemory(h) }, host.CodeMemory, "is there already"},
	} {
		t.Run(name, func(t *testing.T) {
			h, web := withMemory(t, 10)
			r := with(rule(3), func(r *policy.Rule) { r.MinFree = policy.MinFree{} })
			c.change(h, web, r)
			before := filesOf(h, t)
			p := runAll(h, t, byHand(h, r, keepsMemory()))["web"]
			if len(p.Refused) != 1 || p.Refused[0].Code != c.code || !strings.Contains(p.Refused[0].Detail, c.says) || len(p.Steps) > 0 {
				t.Errorf("%+v %s", p, p.Error)
			}
			if now := filesOf(h, t); !slices.Equal(before, now) {
				t.Errorf("files: %v, before %v", h.Short(now), h.Short(before))
			}
		})
	}
}

// occupyMemory puts a file where the memory is to go, at any second of the hour.
func occupyMemory(h *hosttest.Host) {
	h.Now = hosttest.Hour(12)
	hosttest.Must(os.WriteFile(h.Img("web.mine-"+hosttest.Hour(12).Format(host.Stamp)+host.MemorySuffix), nil, 0o600))
}

// Where there is room for the memory once, the guest stands still.
func TestMemoryOfAGuestThatStandsStill(t *testing.T) {
	h, web := withMemory(t)
	h.Space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 1 << 40, Free: ram + ram/2}, nil }
	r := with(rule(3), func(r *policy.Rule) { r.MinFree = policy.MinFree{} })
	p := runAll(h, t, byHand(h, r, keepsMemory()))["web"]
	if p.Error != "" || len(p.Steps) != 3 || !strings.Contains(p.Steps[2].Reason, "it stands still until it is written") || web.State != host.Running {
		t.Errorf("%+v %s", p, p.Error)
	}
	checkMemories(h, t)
}

// What QEMU does not save leaves nothing behind.
func TestAMachineThatCannotBeSavedGoesOn(t *testing.T) {
	h, web := withMemory(t, 10)
	web.Immovable = errors.New("Requested operation is not valid: domain has assigned non-USB host devices")
	before := filesOf(h, t)
	p := runAll(h, t, byHand(h, rule(3), keepsMemory()))["web"]
	if !strings.Contains(p.Error, "non-USB host devices") || web.State != host.Running || len(web.Snapshots) != 1 {
		t.Errorf("%+v %s", p, web.State)
	}
	if now := filesOf(h, t); !slices.Equal(before, now) {
		t.Errorf("files: %v, before %v", h.Short(now), h.Short(before))
	}
	checkNoIntent(h, t)
}

func TestMemoryThatCannotBeGoneBackToIsRefused(t *testing.T) {
	for name, change := range map[string]func(h *hosttest.Host, web *hosttest.Domain, file string){
		"gone":        func(_ *hosttest.Host, _ *hosttest.Domain, file string) { hosttest.Must(os.Remove(file)) },
		"cut off":     func(_ *hosttest.Host, _ *hosttest.Domain, file string) { hosttest.Must(os.Truncate(file, 5)) },
		"a disk gone": func(_ *hosttest.Host, web *hosttest.Domain, _ string) { web.Disks = web.Disks[:1] },
		"a disk left out": func(_ *hosttest.Host, web *hosttest.Domain, _ string) {
			web.Snapshots[0].Disks[1].Overlay = "" // by whoever took it
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, web := withMemory(t)
			takeMemory(t, h)
			h.Write(web, "vda", 3)
			web.State = host.ShutOff
			change(h, web, web.Snapshots[0].Memory)
			before := filesOf(h, t)
			p, err := rotator(h, rule(3)).Restore(t.Context(), "web", "mine", decide.RestoreOptions{})
			if err != nil || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeMemory || !strings.Contains(p.Refused[0].Detail, "--without-memory") || web.State.Live() {
				t.Errorf("%+v %v", p, err)
			}
			if now := filesOf(h, t); !slices.Equal(before, now) {
				t.Errorf("files: %v, before %v", h.Short(now), h.Short(before))
			}
		})
	}
}

// A guest that does not go on is off, on the disks of the snapshot; what it had before is kept.
func TestAGuestThatDoesNotGoOnIsOff(t *testing.T) {
	h, web := withMemory(t)
	takeMemory(t, h)
	h.Write(web, "vda", 3)
	present := maps.Clone(web.Want["vda"])
	web.State, web.Forgets = host.ShutOff, true
	p, err := rotator(h, rule(3)).Restore(t.Context(), "web", "mine", decide.RestoreOptions{})
	if err != nil || p.Result != decide.ResultFailed || !strings.Contains(p.Error, "the guest is off") || web.State.Live() {
		t.Fatalf("%+v %v", p, err)
	}
	web.Want = map[string]hosttest.Blocks{"vda": maps.Clone(web.States["mine"]["vda"]), "vdb": maps.Clone(web.States["mine"]["vdb"])}
	checkData(h, t)
	checkMemories(h, t)
	newest := web.Snapshots[len(web.Snapshots)-1].Name
	if got := web.States[newest]["vda"]; !maps.Equal(got, present) {
		t.Errorf("the present is kept as %v, it was %v", got, present)
	}
	checkNoIntent(h, t)
}

// Wherever a run dies, the snapshot is there with its memory, or neither is; and the guest goes on.
func TestASnapshotWithMemoryThatDiesAnywhere(t *testing.T) {
	n := 1
	for ; ; n++ {
		h, web := withMemory(t, 9)
		hand, count := keepsMemory(), 0
		if !die(h, byHand(h, rule(3), hand), func(string) bool { count++; return count == n }) {
			break
		}
		finishes(h, t, rule(3), decide.Options{NoSnapshot: true})
		checkDone(h, t)
		checkMemories(h, t)
		if web.State != host.Running {
			t.Errorf("the guest is %s", web.State)
		}
		checkNoIntent(h, t)
		if t.Failed() {
			t.Fatalf("place %d", n)
		}
	}
	if n < 20 {
		t.Errorf("only %d places to die at", n-1)
	}
}

// The same of a run that drops it, and of one that goes back.
func TestARunThatDropsMemoryDiesAnywhere(t *testing.T) {
	n := 1
	for ; ; n++ {
		h, web := withMemory(t, 9)
		takeMemory(t, h)
		h.Write(web, "vda", 3)
		hand := decide.ByHand{Drop: []string{"mine"}, Foreign: true}
		unpin := func(m *host.Mark) { m.Pinned = false }
		if _, err := rotator(h, rule(3)).Describe(t.Context(), "web", []string{"mine"}, unpin); err != nil {
			t.Fatal(err)
		}
		count := 0
		if !die(h, byHand(h, rule(3), hand), func(string) bool { count++; return count == n }) {
			break
		}
		h.AfterCrash(hosttest.JobsGoOn)
		if s := web.Snapshot("mine"); s != nil && h.HasMemory(web, s) != nil {
			t.Fatalf("place %d: the snapshot is listed, and its memory is gone", n)
		}
		finishes(h, t, rule(3), decide.Options{NoSnapshot: true})
		checkDone(h, t)
		checkMemories(h, t)
		if t.Failed() {
			t.Fatalf("place %d", n)
		}
	}
	if n < 30 {
		t.Errorf("only %d places to die at", n-1)
	}
}

func TestAGoingOnThatDiesAnywhere(t *testing.T) {
	n := 1
	for ; ; n++ {
		h, web := withMemory(t, 9)
		takeMemory(t, h)
		h.Write(web, "vda", 3)
		web.State = host.ShutOff
		r, count := rotator(h, rule(5)), 0
		restore := func() { _, _ = r.Restore(context.Background(), "web", "mine", decide.RestoreOptions{}) }
		died := dieWith(h, r, restore, func(string) bool { count++; return count == n })
		if web.WentOn != "" || !maps.Equal(h.Read(web.Disks[0].Active().Path), web.Want["vda"]) {
			web.Want = map[string]hosttest.Blocks{"vda": maps.Clone(web.States["mine"]["vda"]), "vdb": maps.Clone(web.States["mine"]["vdb"])}
		}
		if !died {
			break
		}
		checkData(h, t)
		checkMemories(h, t)
		finishes(h, t, rule(5), decide.Options{NoSnapshot: true})
		checkMemories(h, t)
		if t.Failed() {
			t.Fatalf("place %d", n)
		}
	}
	if n < 20 {
		t.Errorf("only %d places to die at", n-1)
	}
}

// While libvirt is still at a snapshot whose run was killed, nothing is touched; it is finished or taken
// back afterwards.
func TestASnapshotThatLibvirtFinishesAlone(t *testing.T) {
	for place, finishes := range map[string]bool{"end of memory": true, "end of pause": false} {
		h, web := withMemory(t, 9)
		if !dieAt(h, byHand(h, rule(3), keepsMemory()), place) {
			t.Fatal("not reached")
		}
		web.Busy = "a snapshot"
		files, state := filesOf(h, t), web.State
		r := rotator(h, rule(3))
		r.Options.NoSnapshot = true
		if p := runAll(h, t, r)["web"]; !hasCode(&p, host.CodeState) || !slices.Equal(files, filesOf(h, t)) || web.State != state {
			t.Errorf("%+v: %v, the guest is %s and was %s", p, h.Short(filesOf(h, t)), web.State, state)
		}
		web.Busy = ""
		if finishes {
			spec := host.SnapshotSpec{Name: "mine", Description: host.Mark{Policy: "p"}.String(), Overlays: map[string]string{}, Memory: &host.MemorySpec{Path: memories(h)[0], Live: true, Runs: true}}
			for i := range web.Disks {
				disk := &web.Disks[i]
				spec.Overlays[disk.Target] = filepath.Join(h.Dir, "img", host.Stem(disk)+".mine-"+hosttest.Hour(12).Format(host.Stamp)+".qcow2")
			}
			hosttest.Must(os.Truncate(spec.Memory.Path, 0))
			hosttest.Must(h.SnapshotWithMemory(t.Context(), "web", spec, host.MemoryEvents{}))
		}
		runAll(h, t, r)
		if web.State != host.Running || (web.Snapshot("mine") != nil) != finishes {
			t.Errorf("the guest is %s: %+v", web.State, web.Snapshots)
		}
		checkDone(h, t)
		checkMemories(h, t)
		checkNoIntent(h, t)
	}
}

// The memory of a snapshot names the chain of then, and is gone on from on that of its snapshot: in a directory
// of [storage] scan it keeps nothing from being merged, as the state of a guest that was saved does.
func TestTheMemoryOfASnapshotIsNoUserOfLayers(t *testing.T) {
	for _, listed := range []bool{false, true} {
		h, web := off(t, 9, 10, 11)
		r := besideSaved(h, "<domain><devices><disk><source file='"+h.Img("web.qcow2")+"'/></disk></devices></domain>")
		if listed {
			web.Snapshots[2].Memory = h.Img("far/web.save")
		}
		p := runAll(h, t, r)["web"]
		if merged := slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge && s.Base == h.Img("web.qcow2") }); merged != listed {
			t.Errorf("listed: %v: %+v %+v", listed, p.Steps, p.Refused)
		}
	}
}

// Whatever call fails amid a snapshot with memory: it is there, whole, or nothing is left of it after the next run,
// and the guest goes on.
func TestACallThatFailsAmidMemory(t *testing.T) {
	n := 1
	for ; ; n++ {
		h, web := withMemory(t, 9)
		count, failed := 0, ""
		h.Event = func(what string) error {
			if count++; count == n {
				failed = what
				return errors.New("the connection is broken")
			}
			return nil
		}
		_, _ = byHand(h, rule(3), keepsMemory()).Run(t.Context(), nil)
		h.Event = func(string) error { return nil }
		if failed == "" {
			break
		}
		finishes(h, t, rule(3), decide.Options{NoSnapshot: true})
		checkDone(h, t)
		checkMemories(h, t)
		if t.Failed() || web.State != host.Running {
			t.Fatalf("%s failed, the %dth: the guest is %s", failed, n, web.State)
		}
	}
	if n < 10 {
		t.Errorf("only %d calls", n-1)
	}
}
