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
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// interrupted returns a host on which a run died at a place.
func interrupted(t *testing.T, place, fate string) (*simHost, *simDomain) {
	t.Helper()
	h := newSim(t)
	web := h.add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	if !dieAt(h, r, place) {
		t.Fatalf("no place %q", place)
	}
	h.afterCrash(fate)
	return h, web
}

func TestTheNextRunFinishesWhatAnInterruptedOneBegan(t *testing.T) {
	afterDrop := `
		commit vda: web.S9 into web
		redefine S10
		redefine S11
		delete web.S9`
	cases := []struct{ name, place, fate, steps string }{
		{"the job still runs", "block of merge", jobsGoOn, `
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S9`},
		{"the job has ended in between", "block of merge", jobsFinish, `
			redefine S10
			redefine S11
			delete web.S9`},
		{"the job was lost half way", "block of merge", jobsDie, afterDrop},
		{"only the metadata was dropped", "after drop-metadata", jobsDie, afterDrop},
		{"one snapshot is redefined", "after redefine", jobsDie, `
			redefine S11
			delete web.S9`},
		{"the file is left", "before delete-file", jobsDie, `delete web.S9`},
		{"only the intent is left", "after delete-file", jobsDie, ``},
		{"only the intent was written", "after the intent", jobsDie, "drop-metadata S9" + afterDrop},
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
	h, _ := interrupted(t, "block of merge", jobsGoOn)
	p := planOf(h, t, rotator(h, rule(2)), "web")
	if len(p.Steps) == 0 || p.Steps[0].Reason != "an interrupted run started it, and it still runs" {
		t.Errorf("%+v", p.Steps)
	}
}

// The job that is taken over ends by itself just before it is waited for.
func TestAnAdoptedJobThatEndsMeanwhileIsNoError(t *testing.T) {
	h, _ := interrupted(t, "block of merge", jobsGoOn)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	r.crash = func(place string) {
		if place == "before merge" {
			h.mu.Lock()
			h.finishJob("web/vda")
			h.mu.Unlock()
		}
	}
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("%s: %s", p.Result, p.Error)
	}
	checkDone(h, t)
}

func TestAJobOfSomebodyElseIsNotAdopted(t *testing.T) {
	h, _ := interrupted(t, "after the intent", jobsDie)
	r := rule(2)
	_, w, err := rotator(h, r).Plan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pull", "copy", "backup", "unknown"} {
		w.Domain("web").Disks[0].Job = &host.Job{Type: kind}
		p := decide.Decide(w, w.Domain("web"), r, hour(12), decide.Options{})
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeBlockJob || !strings.Contains(p.Refused[0].Detail, kind) {
			t.Errorf("%s: %+v", kind, p)
		}
	}
}

// Where the merged file was, somebody put another one.
func TestAReplacedFileIsNotALeftover(t *testing.T) {
	h, _ := interrupted(t, "before delete-file", jobsDie)
	path := h.img("web." + name(9) + ".qcow2")
	must(os.Rename(path, h.img("state/old")))
	must(os.WriteFile(path, nil, 0o600))
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
		h, _ := interrupted(t, place, jobsDie)
		path := h.img("web." + name(9) + ".qcow2")
		h.store(h.img("clone.qcow2"), simImage{Format: "qcow2", Size: simSize, Backing: path, BackingFormat: "qcow2"})
		r := rotator(h, rule(2))
		r.Options = coalesce()
		for n := range 3 {
			p := runAll(h, t, r)["web"]
			if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLeftover || p.Refused[0].Path != path ||
				!strings.Contains(p.Refused[0].Detail, h.img("clone.qcow2")) {
				t.Errorf("%s, run %d: %s %+v", place, n, p.Result, p.Refused)
			}
		}
		must(os.Remove(h.img("clone.qcow2")))
		runAll(h, t, r)
		checkDone(h, t)
	}
}

func TestOverlaysOfASnapshotThatWasInterrupted(t *testing.T) {
	cases := []struct {
		name  string
		place string
		do    func(t *testing.T, h *simHost, path string)
		steps string // of the next run
		stays string // part of the refusal
	}{
		{"empty, its inode not yet noted", "an overlay made", nil, "delete web.S12", ""},
		{"empty", "overlays made", nil, "delete web.S12", ""},
		{"never made", "first intent of the snapshot", nil, "", ""},
		{"with a header, without data", "overlays made", func(_ *testing.T, h *simHost, path string) {
			h.store(path, simImage{Format: "qcow2", Size: simSize, Backing: h.img("web.qcow2"), BackingFormat: "qcow2"})
		}, "delete web.S12", ""},
		{"with data", "overlays made", func(_ *testing.T, h *simHost, path string) {
			h.store(path, simImage{Format: "qcow2", Size: simSize, Blocks: blocks{1: 1}})
		}, "", "of guest data: see docs/recovery.md"},
		{"not readable", "overlays made", func(_ *testing.T, _ *simHost, path string) {
			must(os.WriteFile(path, []byte("?"), 0o600))
		}, "", "of guest data"},
		{"in use", "overlays made", func(t *testing.T, _ *simHost, path string) { hold(t, path) }, "", "a process has it open"},
		{"taken after all", "snapshot taken", nil, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newSim(t)
			web := h.add("web")
			one()(h, web)
			path := h.img("web." + name(12) + ".qcow2")
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
	h := newSim(t)
	web := h.add("web")
	one()(h, web)
	web.Agent = true
	dieAt(h, rotator(h, rule(2)), "call quiesced snapshot")
	runAll(h, t, rotator(h, rule(2)))
	if h.thawed != 1 {
		t.Errorf("thawed %d times", h.thawed)
	}
	checkDone(h, t)
}

// Intents of other versions of the file, of files that are gone, of domains that are gone.
func TestAnIntentOfADomainThatIsGoneChangesNothing(t *testing.T) {
	h := newSim(t)
	one(9, 10, 11)(h, h.add("web"))
	must(os.WriteFile(h.img("lost.qcow2"), nil, 0o600))
	info, err := vfs.Lstat(h.img("lost.qcow2"))
	must(err)
	in := journal.Intent{Domain: "gone", UUID: "uuid-of-gone", Merges: []journal.Merge{{Disk: "vda", Base: "/base", Gone: []journal.File{{Path: h.img("lost.qcow2"), ID: info.ID}}}}}
	must(journal.In(filepath.Join(h.dir, "state")).Write(in))
	r := rotator(h, rule(2))
	runAll(h, t, r)
	if _, err := os.Stat(h.img("lost.qcow2")); err != nil {
		t.Error(err)
	}
	w, err := r.Observer.Observe(t.Context())
	if err != nil || len(decide.Diagnose(w, nil, noPolicies, hour(12))) != 1 || decide.Diagnose(w, nil, policy.Assignment{}, hour(12))[0].Code != decide.FindIntent {
		t.Errorf("doctor: %+v, %v", decide.Diagnose(w, nil, noPolicies, hour(12)), err)
	}
}
