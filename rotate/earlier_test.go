package rotate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// interrupted returns a host on which a run died at a place.
func interrupted(t *testing.T, place, fate string) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	if !dieAt(h, r, place) {
		t.Fatalf("no place %q", place)
	}
	h.AfterCrash(fate)
	return h, web
}

func TestTheNextRunFinishesWhatAnInterruptedOneBegan(t *testing.T) {
	afterDrop := `
		commit vda: web.S9 into web
		redefine S10
		redefine S11
		delete web.S9`
	cases := []struct{ name, place, fate, steps string }{
		{"the job still runs", "block of merge", hosttest.JobsGoOn, `
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S9`},
		{"the job has ended in between", "block of merge", hosttest.JobsFinish, `
			redefine S10
			redefine S11
			delete web.S9`},
		{"the job was lost half way", "block of merge", hosttest.JobsDie, afterDrop},
		{"only the metadata was dropped", "after drop-metadata", hosttest.JobsDie, afterDrop},
		{"one snapshot is redefined", "after redefine", hosttest.JobsDie, `
			redefine S11
			delete web.S9`},
		{"the file is left", "before delete-file", hosttest.JobsDie, `delete web.S9`},
		{"only the intent is left", "after delete-file", hosttest.JobsDie, ``},
		{"only the intent was written", "after the intent", hosttest.JobsDie, "drop-metadata S9" + afterDrop},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h, _ := interrupted(t, c.place, c.fate)
			r := rotator(h, rule(2))
			r.Options = coalesce()
			wantSteps(h, t, planOf(h, t, r, "web"), c.steps)
			wantSteps(h, t, runAll(h, t, r)["web"], c.steps)
			checkDone(h, t)
		})
	}
}

func TestAnAdoptedJobIsToldApart(t *testing.T) {
	h, _ := interrupted(t, "block of merge", hosttest.JobsGoOn)
	p := planOf(h, t, rotator(h, rule(2)), "web")
	if len(p.Steps) == 0 || p.Steps[0].Reason != "an interrupted run started it, and it still runs" {
		t.Errorf("%+v", p.Steps)
	}
}

// The job that is taken over ends by itself just before it is waited for.
func TestAnAdoptedJobThatEndsMeanwhileIsNoError(t *testing.T) {
	h, _ := interrupted(t, "block of merge", hosttest.JobsGoOn)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	r.crash = func(place string) {
		if place == "before merge" {
			h.Mu.Lock()
			h.FinishJob("web/vda")
			h.Mu.Unlock()
		}
	}
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("%s: %s", p.Result, p.Error)
	}
	checkDone(h, t)
}

func TestAJobOfSomebodyElseIsNotAdopted(t *testing.T) {
	h, _ := interrupted(t, "after the intent", hosttest.JobsDie)
	r := rule(2)
	_, w, err := rotator(h, r).Plan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pull", "copy", "backup", "unknown"} {
		w.Domain("web").Disks[0].Job = &host.Job{Type: kind}
		p := decide.Decide(w, w.Domain("web"), r, hosttest.Hour(12), decide.Options{})
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeBlockJob || !strings.Contains(p.Refused[0].Detail, kind) {
			t.Errorf("%s: %+v", kind, p)
		}
	}
}

// Where the merged file was, somebody put another one.
func TestAReplacedFileIsNotALeftover(t *testing.T) {
	h, _ := interrupted(t, "before delete-file", hosttest.JobsDie)
	path := h.Img("web." + hosttest.Name(9) + ".qcow2")
	hosttest.Must(os.Rename(path, h.Img("state/old")))
	hosttest.Must(os.WriteFile(path, nil, 0o600))
	r := rotator(h, rule(2))
	r.Options = coalesce()
	wantSteps(h, t, runAll(h, t, r)["web"], "")
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	checkNoIntent(h, t)
}

// A leftover that must stay is told of in every run, whatever else is mended.
func TestALeftoverThatIsNeededIsRefusedEachTime(t *testing.T) {
	for _, place := range []string{"after merge", "before delete-file"} {
		h, _ := interrupted(t, place, hosttest.JobsDie)
		path := h.Img("web." + hosttest.Name(9) + ".qcow2")
		h.Store(h.Img("clone.qcow2"), hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: path, BackingFormat: "qcow2"})
		r := rotator(h, rule(2))
		r.Options = coalesce()
		for n := range 3 {
			p := runAll(h, t, r)["web"]
			if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLeftover || p.Refused[0].Path != path ||
				!strings.Contains(p.Refused[0].Detail, h.Img("clone.qcow2")) {
				t.Errorf("%s, run %d: %s %+v", place, n, p.Result, p.Refused)
			}
		}
		hosttest.Must(os.Remove(h.Img("clone.qcow2")))
		runAll(h, t, r)
		checkDone(h, t)
	}
}

func TestOverlaysOfASnapshotThatWasInterrupted(t *testing.T) {
	cases := []struct {
		name  string
		place string
		do    func(t *testing.T, h *hosttest.Host, path string)
		steps string // of the next run
		stays string // part of the refusal
	}{
		{"empty, its inode not yet noted", "an overlay made", nil, "delete web.S12", ""},
		{"empty", "overlays made", nil, "delete web.S12", ""},
		{"never made", "first intent of the snapshot", nil, "", ""},
		{"with a header, without data", "overlays made", func(_ *testing.T, h *hosttest.Host, path string) {
			h.Store(path, hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: h.Img("web.qcow2"), BackingFormat: "qcow2"})
		}, "delete web.S12", ""},
		{"with data", "overlays made", func(_ *testing.T, h *hosttest.Host, path string) {
			h.Store(path, hosttest.Image{Format: "qcow2", Size: hosttest.Size, Blocks: hosttest.Blocks{1: 1}})
		}, "", "of guest data: see docs/recovery.md"},
		{"not readable", "overlays made", func(_ *testing.T, _ *hosttest.Host, path string) {
			hosttest.Must(os.WriteFile(path, []byte("?"), 0o600))
		}, "", "of guest data"},
		{"in use", "overlays made", func(t *testing.T, _ *hosttest.Host, path string) { hold(t, path) }, "", "a process has it open"},
		{"taken after all", "snapshot taken", nil, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one()(h, web)
			path := h.Img("web." + hosttest.Name(12) + ".qcow2")
			if !dieAt(h, rotator(h, rule(2)), c.place) {
				t.Fatal("did not die")
			}
			if c.do != nil {
				c.do(t, h, path)
			}
			r := rotator(h, rule(2))
			r.Options = coalesce()
			for range 2 {
				p := runAll(h, t, r)["web"]
				wantSteps(h, t, p, c.steps)
				if c.steps = ""; c.stays != "" && (len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLeftover ||
					p.Refused[0].Path != path || !strings.Contains(p.Refused[0].Detail, c.stays)) {
					t.Errorf("refused: %+v", p.Refused)
				}
			}
			if c.stays == "" {
				checkDone(h, t)
			} else if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAGuestThatMayBeFrozenIsThawed(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	web.Agent = true
	dieAt(h, rotator(h, rule(2)), "call quiesced snapshot")
	runAll(h, t, rotator(h, rule(2)))
	if h.Thawed != 1 {
		t.Errorf("thawed %d times", h.Thawed)
	}
	checkDone(h, t)
}

// Intents of other versions of the file, of files that are gone, of domains that are gone.
func TestAnIntentOfADomainThatIsGoneChangesNothing(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	hosttest.Must(os.WriteFile(h.Img("lost.qcow2"), nil, 0o600))
	info, err := vfs.Lstat(h.Img("lost.qcow2"))
	hosttest.Must(err)
	in := journal.Intent{Domain: "gone", UUID: "uuid-of-gone", Merges: []journal.Merge{{Disk: "vda", Base: "/base", Gone: []journal.File{{Path: h.Img("lost.qcow2"), ID: info.ID}}}}}
	hosttest.Must(journal.In(filepath.Join(h.Dir, "state")).Write(in))
	r := rotator(h, rule(2))
	runAll(h, t, r)
	if _, err := os.Stat(h.Img("lost.qcow2")); err != nil {
		t.Error(err)
	}
	w, err := r.Observer.Observe(t.Context())
	if err != nil || len(decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12))) != 1 || decide.Diagnose(w, nil, policy.Assignment{}, hosttest.Hour(12))[0].Code != decide.FindIntent {
		t.Errorf("doctor: %+v, %v", decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)), err)
	}
}
