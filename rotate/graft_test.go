package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

func grafts(r *policy.Rule) { r.Method = policy.MethodGraft }

// sharing is a host whose files can share extents.
func sharing(t *testing.T) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	h.CannotClone = nil
	return h, h.Add("web")
}

func TestAGraftReplacesTheLayersOfTheDomain(t *testing.T) {
	h, web := sharing(t)
	one(9, 10, 11)(h, web)
	r := rotator(h, with(rule(2), grafts))
	planned := lines(h, t, planOf(h, t, r, "web").Steps)
	done := runAll(h, t, r)["web"]
	if have := lines(h, t, done.Steps); !slices.Equal(have, planned) {
		t.Errorf("planned:\n%s\ndone:\n%s", strings.Join(planned, "\n"), strings.Join(have, "\n"))
	}
	wantSteps(h, t, done, `
		snapshot S12 vda: web.S12 on web.S11
		drop-metadata S9
		drop-metadata S10
		graft vda: web.S10 into web
		redefine S11
		redefine S12
		delete web
		delete web.S9
		delete web.S10
		delete web.S11
		delete web.S12`)
	checkDone(h, t)
	if have, want := h.Short(host.Paths(web.Disks[0].Chain)), []string{"web.gen1", "web.S11_1", "web.S12_1"}; !slices.Equal(have, want) {
		t.Errorf("the chain is %q, want %q", have, want)
	}
	h.Now = hosttest.Hour(14)
	runAll(h, t, r)
	checkDone(h, t)
	if have, want := h.Short(host.Paths(web.Disks[0].Chain)), []string{"web.gen2", "web.S12_2", "web.S14_1"}; !slices.Equal(have, want) {
		t.Errorf("the chain is %q, want %q", have, want)
	}
}

// What others use stays as it is: only layers that are the domain's alone are replaced.
func TestAGraftLeavesAGoldenImageAlone(t *testing.T) {
	h, web := sharing(t)
	h.Disk(web, "vda", "golden.raw", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	h.Disk(h.Add("other"), "vda", "golden.raw", "clone.qcow2")
	r := rotator(h, with(rule(1), grafts))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultDone {
		t.Fatalf("%+v", p)
	}
	checkDone(h, t)
	if have, want := h.Short(host.Paths(web.Disks[0].Chain)), []string{"golden.raw", "web.gen1", "web.S11_1"}; !slices.Equal(have, want) {
		t.Errorf("the chain is %q, want %q", have, want)
	}
}

// The plan of several merges on one chain is one that can be carried out.
func TestEveryGraftOfAPlanHasNamesOfItsOwn(t *testing.T) {
	h, _ := middle(t, host.Running)
	h.CannotClone = nil
	r := rotator(h, with(rule(1), func(r *policy.Rule) { hourly(r); grafts(r) }))
	r.Options = coalesce()
	planned := planOf(h, t, r, "web")
	seen := map[string]bool{}
	for _, s := range planned.Steps {
		if s.Op == decide.OpDeleteFile && seen[s.Path] {
			t.Errorf("%s goes twice", s.Path)
		}
		seen[s.Path] = seen[s.Path] || s.Op == decide.OpDeleteFile
	}
	wantSteps(h, t, runAll(h, t, r)["web"], strings.Join(lines(h, t, planned.Steps), "\n"))
	checkDone(h, t)
}

func TestWhatSpeaksAgainstAGraft(t *testing.T) {
	for name, c := range map[string]struct {
		build func(h *hosttest.Host, web *hosttest.Domain)
		rule  func(*policy.Rule)
		why   string
	}{
		"a checkpoint": {build: func(_ *hosttest.Host, web *hosttest.Domain) { web.Checkpoints = 2 }, why: "2 checkpoints"},
		"a foreign snapshot": {build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Foreign(web, "mine", 12)
			h.Write(web, "vda", 3)
		}, why: "snapshot web/mine"},
		"an image on a layer above": {build: func(h *hosttest.Host, _ *hosttest.Domain) {
			h.Picture("backup.qcow2", "web."+hosttest.Name(11)+".qcow2")
		}, why: "backup.qcow2"},
		"a hard link": {build: func(h *hosttest.Host, web *hosttest.Domain) {
			hosttest.Must(os.Link(web.Disks[0].Chain[3].Path, h.Img("far/link")))
		}, why: "2 names (hard links)"},
		"the active layer": {rule: func(r *policy.Rule) { r.Keep = policy.Keep{} }, why: "the active layer is merged"},
		"a symbolic link": {build: func(h *hosttest.Host, web *hosttest.Domain) {
			hosttest.Must(os.Rename(h.Img("web.qcow2"), h.Img("far/real.qcow2")))
			hosttest.Must(os.Symlink(h.Img("far/real.qcow2"), h.Img("web.qcow2")))
		}, why: "is a symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			h, web := sharing(t)
			one(9, 10, 11)(h, web)
			if c.build != nil {
				c.build(h, web)
			}
			rule := with(rule(2), grafts)
			if c.rule != nil {
				c.rule(rule)
			}
			r := rotator(h, rule)
			r.Options = coalesce()
			p := planOf(h, t, r, "web")
			i := slices.IndexFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge })
			if i < 0 || p.Steps[i].Method == "graft" || !strings.Contains(p.Steps[i].Reason, "by a commit: ") || !strings.Contains(p.Steps[i].Reason, c.why) {
				t.Errorf("want a commit because of %q:\n%v\n%+v", c.why, p.Steps, p.Refused)
			}
			runAll(h, t, r)
			checkData(h, t)
		})
	}
}

func TestAGraftThatCannotBeIsRefused(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		h, web := sharing(t)
		h.CannotClone = errors.New("this file system cannot")
		one(9, 10, 11)(h, web)
		web.State = state
		r := rotator(h, with(rule(2), grafts))
		r.Options = coalesce()
		p := runAll(h, t, r)["web"]
		if p.Result != decide.ResultRefused || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeMethod ||
			!strings.Contains(p.Refused[0].Detail, "this file system cannot") || len(p.Steps) > 0 {
			t.Errorf("%s: %+v", state, p)
		}
		checkDone(h, t)
	}
}

// Left to itself, virt-rotate takes a graft for what is large, against what would be
// copied of the active layer.
func TestAGraftHasToPay(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		gone, active int64
		graft        bool
	}{
		{decide.GraftThreshold, 0, true},
		{decide.GraftThreshold - 1, 0, false},
		{decide.GraftThreshold, decide.GraftThreshold, false},
		{1024 * mb, 512 * mb, true},
		{1023 * mb, 512 * mb, false},
	} {
		h, web := sharing(t)
		one(9, 10, 11)(h, web)
		w := see(h, t)
		chain := w.Domain("web").Disks[0].Chain
		for i := range chain {
			chain[i].Allocated = 0
		}
		chain[1].Allocated, chain[3].Allocated = c.gone, c.active
		for fs, s := range w.Spaces {
			s.Free = 1 << 50
			w.Spaces[fs] = s
		}
		p := decide.Decide(w, w.Domain("web"), rule(2), h.Now, coalesce())
		i := slices.IndexFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge })
		if i < 0 || (p.Steps[i].Method == "graft") != c.graft {
			t.Errorf("%+v: %+v", c, p)
		}
		if i >= 0 && c.graft && !strings.Contains(p.Steps[i].Reason, "are shared and not copied") {
			t.Errorf("reason %q", p.Steps[i].Reason)
		}
	}
}

// What a graft can need is refused beforehand, with figures.
func TestAGraftNeedsRoomForTheActiveLayer(t *testing.T) {
	h, web := sharing(t)
	one(9, 10, 11)(h, web)
	w := see(h, t)
	w.Domain("web").Disks[0].Chain[3].Allocated = 10 << 30
	for fs, s := range w.Spaces {
		s.Free = 10 << 30
		w.Spaces[fs] = s
	}
	p := decide.Decide(w, w.Domain("web"), with(rule(2), grafts), h.Now, coalesce())
	if len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeNoSpace || !strings.Contains(p.Refused[0].Detail, "10.0 GiB free") {
		t.Errorf("%+v", p)
	}
}

// Whatever fails before the guest is moved leaves it where it was, and nothing behind.
func TestAGraftThatFailsLeavesTheOldChain(t *testing.T) {
	broken := errors.New("it is broken")
	for name, fail := range map[string]func(h *hosttest.Host){
		"build": func(h *hosttest.Host) { h.EngineRefuses = broken },
		"copy":  func(h *hosttest.Host) { h.CopyFails = broken },
		"pivot": func(h *hosttest.Host) { h.PivotFails = broken },
	} {
		t.Run(name, func(t *testing.T) {
			h, web := sharing(t)
			h.Disk(web, "vda", "web.qcow2")
			h.Disk(web, "vdb", "data.qcow2")
			h.Take(web, []int{9, 10, 11})
			before := host.Paths(web.Disks[0].Chain)
			files := filesOf(h, t)
			fail(h)
			r := rotator(h, with(rule(2), grafts))
			r.Options = coalesce()
			if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || !strings.Contains(p.Error, broken.Error()) {
				t.Fatalf("%+v", p)
			}
			checkData(h, t)
			if have := host.Paths(web.Disks[0].Chain); !slices.Equal(have, before) || len(h.Jobs) > 0 {
				t.Errorf("the chain is %v, jobs %v", h.Short(have), h.Jobs)
			}
			if left := filesOf(h, t); !slices.Equal(left, files) {
				t.Errorf("files %v, were %v", h.Short(left), h.Short(files))
			}
			h.EngineRefuses, h.CopyFails, h.PivotFails = nil, nil, nil
			finishes(h, t, with(rule(2), grafts), coalesce())
			checkDone(h, t)
			if len(web.Disks[0].Chain) != 3 {
				t.Errorf("%v", h.Short(host.Paths(web.Disks[0].Chain)))
			}
		})
	}
}

// A guest that writes faster than it can be copied is left alone, or, where the policy
// leaves the way to us, its layers are committed.
func TestAGuestThatOutrunsItsCopy(t *testing.T) {
	h, web := sharing(t)
	one(9, 10, 11)(h, web)
	h.CopyFails = fmt.Errorf("copying: %w", host.ErrOutrun)
	r := rotator(h, with(rule(2), grafts))
	r.Options = coalesce()
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || !strings.Contains(p.Error, host.ErrOutrun.Error()) {
		t.Errorf("%+v", p)
	}
	checkData(h, t)

	h, web = sharing(t)
	one(9, 10, 11)(h, web)
	h.CopyFails = host.ErrOutrun
	r = rotator(h, rule(1))
	r.Options = coalesce()
	r.Options.GraftThreshold = 1
	outrun := false
	r.Report = func(e Event) {
		outrun = outrun || e.Kind == EventWarning && strings.Contains(e.Text, host.ErrOutrun.Error())
	}
	p := runAll(h, t, r)["web"]
	if !outrun || p.Result != decide.ResultDone || !slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Method == "commit" }) ||
		slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Method == "graft" }) {
		t.Errorf("%+v", p)
	}
	checkDone(h, t)
}

// cutOff lets a run die when the guest may have been moved, which libvirt misses. It
// returns the layers on which the guest is.
func cutOff(t *testing.T) (*hosttest.Host, *hosttest.Domain, *Rotator, []host.Layer) {
	t.Helper()
	h, web := sharing(t)
	one(9, 10, 11)(h, web)
	old := slices.Clone(web.Disks[0].Chain)
	r := rotator(h, with(rule(2), grafts))
	r.Options = coalesce()
	if !dieAt(h, r, "ready to move") {
		t.Fatal("no graft")
	}
	hosttest.Must(h.Pivot(context.Background(), "web", "vda"))
	next := slices.Clone(web.Disks[0].Chain)
	web.Disks[0].Chain, web.Disks[0].Inactive = slices.Clone(old), host.Paths(old)
	return h, web, r, next
}

// libvirtd has missed that the guest was moved: the guest starts from where it is, and
// nothing is deleted before it has.
func TestAGuestWhoseGraftLibvirtMissedStartsFromTheNewLayers(t *testing.T) {
	h, web, r, next := cutOff(t)
	h.Qemu = map[string][]string{"vda": host.Paths(next)}
	holdBytes(t, next[len(next)-1].Path, 100, 2)
	files := filesOf(h, t)
	p := runAll(h, t, r)["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeRestart || p.Refused[0].Path != next[len(next)-1].Path {
		t.Fatalf("%+v", p)
	}
	if !slices.Equal(web.Disks[0].Inactive, host.Paths(next)) || !slices.Equal(filesOf(h, t), files) {
		t.Errorf("it would start from %v; files %v", h.Short(web.Disks[0].Inactive), h.Short(filesOf(h, t)))
	}
	if found := decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(12)); !slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == decide.FindRestart }) {
		t.Errorf("doctor: %+v", found)
	}
	web.Disks[0].Chain = slices.Clone(next) // the restart
	finishes(h, t, with(rule(2), grafts), coalesce())
	checkDone(h, t)
}

// A guest that has stopped, or was started again, may have written to either.
func TestAGuestThatStoppedWhileItWasMovedIsLeftToAPerson(t *testing.T) {
	for _, state := range []host.State{host.ShutOff, host.Running} {
		h, web, r, next := cutOff(t)
		web.State = state
		files := filesOf(h, t)
		p := runAll(h, t, r)["web"]
		if p.Result != decide.ResultRefused || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeStopped || p.Refused[0].Path != next[len(next)-1].Path {
			t.Errorf("%s: %+v", state, p)
		}
		if !slices.Equal(filesOf(h, t), files) {
			t.Errorf("%s: files %v, were %v", state, h.Short(filesOf(h, t)), h.Short(files))
		}
		web.State = host.ShutOff // what the manual says: the newer one is put in as the disk
		hosttest.Must(h.Reconfigure(context.Background(), "web", map[string][]host.Layer{"vda": next}))
		finishes(h, t, with(rule(2), grafts), coalesce())
		checkDone(h, t)
	}
}

// diedReady is a run that dies when the guest can be moved; then its copy is gone, too.
func diedReady(t *testing.T) (*hosttest.Host, *hosttest.Domain, *Rotator) {
	t.Helper()
	h := hosttest.New(t)
	h.CannotClone = nil
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, with(rule(2), grafts))
	r.Options = coalesce()
	if !dieAt(h, r, "ready to move") {
		t.Fatal("no graft")
	}
	clear(h.Jobs)
	return h, web, r
}

// Whether a guest was moved is not known before QEMU tells that it was not, or that it
// has been started from its former images since.
func TestAGuestThatIsNotOnItsNewImagesIsGraftedAgain(t *testing.T) {
	h, web, r := diedReady(t)
	files := filesOf(h, t)
	for _, state := range []host.State{host.Running, host.ShutOff} {
		web.State = state
		p := runAll(h, t, r)["web"]
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeStopped || !strings.Contains(p.Refused[0].Detail, "docs/recovery.md") {
			t.Errorf("%s: %+v", state, p)
		}
		if now := filesOf(h, t); !slices.Equal(now, files) {
			t.Errorf("%s: files are %q, were %q", state, now, files)
		}
	}
	web.State = host.Running
	next := h.Img("web." + hosttest.Name(11) + "_1.qcow2")
	late := time.Now().Add(time.Minute)
	hosttest.Must(os.Chtimes(next, late, late)) // who has written to it since?
	h.Qemu = map[string][]string{web.Disks[0].Target: host.Paths(web.Disks[0].Chain)}
	if p := runAll(h, t, r)["web"]; len(p.Refused) != 1 || p.Refused[0].Code != host.CodeStopped {
		t.Errorf("the new image was written to after the move: %+v", p)
	}
	now := time.Now()
	hosttest.Must(os.Chtimes(next, now, now))
	finishes(h, t, with(rule(2), grafts), r.Options)
	checkDone(h, t)
}

// Who moves the new image away has decided that the former one is right.
func TestAGuestWhoseNewImageWasMovedAwayIsGraftedAgain(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		h, web, r := diedReady(t)
		web.State = state
		hosttest.Must(os.Rename(h.Img("web."+hosttest.Name(11)+"_1.qcow2"), filepath.Join(h.Dir, "kept")))
		finishes(h, t, with(rule(2), grafts), r.Options)
		checkDone(h, t)
	}
}

// A file system without room for a trial is not one that cannot share extents.
func TestNoRoomForATrialCloneIsToldAsNoSpace(t *testing.T) {
	h := hosttest.New(t)
	h.CannotClone = fmt.Errorf("a trial: %w", &os.PathError{Op: "open", Path: "dir", Err: syscall.ENOSPC})
	one(9, 10, 11)(h, h.Add("web"))
	h.Space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 100 << 30}, nil }
	r := rotator(h, with(rule(2), grafts))
	r.Options = coalesce()
	if p := planOf(h, t, r, "web"); len(p.Refused) != 1 || p.Refused[0].Code != host.CodeNoSpace {
		t.Errorf("%+v", p)
	}
}
