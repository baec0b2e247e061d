package rotate

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A complaint is something wrong with a host whose domain "web" has two
// snapshots of ours on one disk, and what doctor has to say of it.
type complaint struct {
	code   string
	name   string
	spoil  func(t *testing.T, h *simHost, web *simDomain)
	detail string // part of detail or path
	remedy string // part of it
	note   bool
}

func complaints() []complaint {
	overlay := "web." + name(11) + ".qcow2"
	return []complaint{
		{code: decide.FindMode, spoil: func(t *testing.T, h *simHost, _ *simDomain) {
			must(os.Chmod(h.img(overlay), 0o640))
		}, detail: "mode 0640", remedy: "chmod 0600"},
		{code: decide.FindStale, spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.Snapshots[1].Disks[0].State[0] = "/gone"
		}, detail: name(11), remedy: "doctor --fix web"},
		{code: decide.FindStale, name: "state pulled away", spoil: func(_ *testing.T, h *simHost, web *simDomain) {
			h.create("old.qcow2", nil)
			web.Snapshots[1].Disks[0].State = []string{h.img("old.qcow2")}
		}, detail: "pulled or rebased it by hand", remedy: "qemu-img compare"},
		{code: decide.FindUnlisted, spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.Snapshots = web.Snapshots[:1]
		}, detail: "list of snapshots may have been lost", remedy: "virt-rotate doctor --forget " + name(11) + " web"},
		{code: decide.FindMissing, spoil: func(_ *testing.T, h *simHost, web *simDomain) {
			web.Snapshots[0].Disks[0].Overlay, web.Snapshots[0].Disks[0].State = h.img("x"), []string{h.img("lost")}
		}, detail: "lost", remedy: "doctor --forget " + name(10) + " web"},
		{code: decide.FindMismatch, spoil: func(_ *testing.T, h *simHost, _ *simDomain) {
			h.create("stray.qcow2", nil)
			h.change(h.img(overlay), func(i *simImage) { i.Backing = h.img("stray.qcow2") })
		}, detail: "stray.qcow2", remedy: "recovery.md"},
		{code: decide.FindConfig, spoil: func(_ *testing.T, h *simHost, web *simDomain) {
			web.Disks[0].Inactive = []string{h.img("web.qcow2")}
		}, detail: "persistent configuration names", remedy: "virsh edit"},
		{code: decide.FindOrphan, spoil: func(_ *testing.T, h *simHost, _ *simDomain) {
			h.create("web."+name(3)+".qcow2", nil)
		}, detail: name(3), remedy: "here or on another host"},
		{code: decide.FindJob, name: "foreign", spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.Disks[0].Job = &host.Job{Type: "copy", Ready: true}
		}, detail: "ready to pivot", remedy: "blockjob web vda --pivot"},
		{code: decide.FindFuture, spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.Snapshots[1].Time = hour(20)
		}, detail: "in the future", remedy: "doctor --forget " + name(11)},
		{code: decide.FindAppArmor, note: true, spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.AppArmor = true
		}, detail: "AppArmor", remedy: "/**\" rwk,"},
		{code: decide.FindUEFI, note: true, spoil: func(_ *testing.T, _ *simHost, web *simDomain) {
			web.UEFI = true
		}, detail: "NVRAM", remedy: "back the NVRAM file up"},
		{code: decide.FindStrange, spoil: func(_ *testing.T, h *simHost, _ *simDomain) {
			must(os.WriteFile(h.img("odd.qcow2"), []byte("{"), 0o600))
		}, detail: "odd.qcow2", remedy: "nothing is merged"},
		{code: decide.FindIntent, spoil: func(_ *testing.T, h *simHost, web *simDomain) {
			must(journal.In(observer(h).StateDir).Write(journal.Intent{Domain: "web", UUID: web.UUID}))
		}, detail: "interrupted", remedy: "virt-rotate run web"},
		{code: decide.FindIntent, name: "of a domain that is gone", spoil: func(_ *testing.T, h *simHost, _ *simDomain) {
			must(journal.In(observer(h).StateDir).Write(journal.Intent{Domain: "gone", UUID: "u"}))
		}, detail: "not on this host", remedy: "intents"},
	}
}

func spoiled(t *testing.T, spoil func(*testing.T, *simHost, *simDomain)) (*simHost, *observe.World) {
	t.Helper()
	h := newSim(t)
	web := h.add("web")
	h.disk(web, "vda", "web.qcow2")
	h.take(web, []int{10, 11})
	for _, n := range []int{10, 11} {
		must(os.Chmod(h.img("web."+name(n)+".qcow2"), 0o600))
	}
	spoil(t, h, web)
	return h, see(h, t)
}

func see(h *simHost, t *testing.T) *observe.World {
	t.Helper()
	w, err := observer(h).Observe(context.Background())
	must(err)
	return w
}

func TestDoctorTellsWhatIsWrongAndTheRemedy(t *testing.T) {
	for _, c := range complaints() {
		t.Run(c.code+" "+c.name, func(t *testing.T) {
			_, w := spoiled(t, c.spoil)
			found := decide.Diagnose(w, nil, noPolicies, hour(12))
			i := slices.IndexFunc(found, func(f decide.Finding) bool { return f.Code == c.code })
			if i < 0 {
				t.Fatalf("no %s in %+v", c.code, found)
			}
			f := found[i]
			if !strings.Contains(f.Detail+f.Path, c.detail) || !strings.Contains(f.Remedy, c.remedy) || f.Note != c.note {
				t.Errorf("%+v; want %q, %q, note %v", f, c.detail, c.remedy, c.note)
			}
		})
	}
}

func TestDoctorFindsNothingOnASoundHost(t *testing.T) {
	_, w := spoiled(t, func(*testing.T, *simHost, *simDomain) {})
	if found := decide.Diagnose(w, nil, noPolicies, hour(12)); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDoctorDoesNotJudgeDomainsThatAreNotOurs(t *testing.T) {
	_, w := spoiled(t, func(_ *testing.T, h *simHost, _ *simDomain) {
		other := h.add("other")
		h.disk(other, "vda", "other.qcow2")
		other.Disks[0].Inactive = []string{"/elsewhere"}
		other.AppArmor, other.UEFI = true, true
	})
	if found := decide.Diagnose(w, nil, noPolicies, hour(12)); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDoctorFixMendsModesAndMetadataAndNothingElse(t *testing.T) {
	h, w := spoiled(t, func(t *testing.T, h *simHost, web *simDomain) {
		for _, c := range complaints() {
			if c.name == "" && slices.Contains([]string{decide.FindMode, decide.FindStale, decide.FindOrphan}, c.code) {
				c.spoil(t, h, web)
			}
		}
	})
	before := filesOf(h, t)
	found := decide.Diagnose(w, nil, noPolicies, hour(12))
	must(Fix(context.Background(), h, w, found))
	for _, f := range found {
		if want := f.Code != decide.FindOrphan; f.Fixed != want {
			t.Errorf("%s: fixed is %v", f.Code, f.Fixed)
		}
	}
	left := decide.Diagnose(see(h, t), nil, noPolicies, hour(12))
	if len(left) != 1 || left[0].Code != decide.FindOrphan {
		t.Errorf("left: %+v", left)
	}
	if after := filesOf(h, t); !slices.Equal(before, after) {
		t.Errorf("files %q, before %q", after, before)
	}
	checkData(h, t)
}

func TestStatusTellsWhichLayerHoldsWhichSnapshotAndWhatIsDue(t *testing.T) {
	h, w := spoiled(t, func(_ *testing.T, h *simHost, web *simDomain) { h.foreign(web, "F", 11) })
	last := &LastRun{Time: hour(11), Result: decide.ResultDone}
	s := Status(w, w.Domain("web"), rule(1), last, hour(12))
	var layers []string
	for _, l := range s.Disks[0].Chain {
		layers = append(layers, filepath.Base(l.Path)+" "+l.Snapshot+" "+l.Reason)
	}
	want := []string{
		"web.qcow2 " + name(10) + " snapshot web/" + name(10),
		"web." + name(10) + ".qcow2 " + name(11) + " snapshot web/" + name(11),
		"web." + name(11) + ".qcow2 F snapshot web/F",
		"web.F.qcow2  disk web/vda",
	}
	if !slices.Equal(layers, want) {
		t.Errorf("%q, want %q", layers, want)
	}
	var keeps []bool
	for _, snap := range s.Snapshots {
		keeps = append(keeps, snap.Keep)
	}
	if !slices.Equal(keeps, []bool{false, true, true}) || s.Snapshots[2].Ours {
		t.Errorf("%+v", s.Snapshots)
	}
	if s.Due == nil || !s.Due.Equal(hour(12)) || s.LastRun != last {
		t.Errorf("due %v, last run %v", s.Due, s.LastRun)
	}
	checkData(h, t)
}

func TestLastRunsForgetDomainsThatAreGone(t *testing.T) {
	h, w := spoiled(t, func(*testing.T, *simHost, *simDomain) {})
	r := rotator(h, rule(3))
	must(os.WriteFile(lastRunsFile(r.Observer.StateDir), []byte(`{"gone":{"time":"2026-01-01T00:00:00Z","result":"done"}}`), 0o600))
	must(r.saveLastRuns(w, []decide.Plan{{Domain: "web", Result: decide.ResultFailed, Error: "why"}}))
	runs, err := LastRuns(r.Observer.StateDir)
	must(err)
	want := LastRun{Time: h.now.Truncate(time.Second), Result: decide.ResultFailed, Error: "why"}
	if len(runs) != 1 || !reflect.DeepEqual(runs["uuid-of-web"], want) {
		t.Errorf("%+v", runs)
	}
}

// What status says is due is what a plan takes at that very moment, whatever the clocks did.
func TestStatusAndPlanAgreeOnWhatIsDue(t *testing.T) {
	for what, c := range map[string]struct {
		now time.Time
		due time.Time
	}{
		"an hour later":                        {hour(12), hour(12)},
		"a little early":                       {hour(12).Add(-4 * time.Minute), hour(12).Add(-4 * time.Minute)},
		"not yet":                              {hour(12).Add(-6 * time.Minute), hour(12)},
		"long overdue":                         {hour(20), hour(12)},
		"the clock went ten years back":        {hour(12).AddDate(-10, 0, 0), hour(12).AddDate(-10, 0, 0)},
		"the clock went a little back":         {hour(11).Add(-30 * time.Second), hour(12)},
		"the clock went back by five minutes":  {hour(11).Add(-5 * time.Minute), hour(11).Add(-5 * time.Minute)},
		"the clock went back to before 1970":   {time.Unix(-5, 0), time.Unix(-5, 0)},
		"the clock went ten years ahead by it": {hour(11).AddDate(10, 0, 0), hour(12)},
	} {
		h := newSim(t)
		one(9, 11)(h, h.add("web"))
		w, err := observer(h).Observe(t.Context())
		must(err)
		s := Status(w, w.Domain("web"), rule(7), nil, c.now)
		if s.Due == nil || !s.Due.Equal(c.due) {
			t.Errorf("%s: due %v, want %v", what, s.Due, c.due)
		}
		p := decide.Decide(w, w.Domain("web"), rule(7), c.now, decide.Options{})
		if takes := len(p.Steps) > 0; takes == s.Due.After(c.now) {
			t.Errorf("%s: planned %t, due %v", what, takes, s.Due)
		}
	}
}

func TestTheLastRunTellsWhatWasRefused(t *testing.T) {
	h := newSim(t)
	one(9, 10)(h, h.add("web"))
	h.find("web").ManagedSave = true
	r := rotator(h, rule(7))
	runAll(h, t, r)
	runs, err := LastRuns(r.Observer.StateDir)
	must(err)
	last := runs["uuid-of-web"]
	if last.Result != decide.ResultRefused || len(last.Refused) != 1 || last.Refused[0].Code != host.CodeManagedSave || last.Refused[0].Detail == "" {
		t.Errorf("%+v", last)
	}
	h.find("web").ManagedSave = false
	runAll(h, t, r)
	data, err := os.ReadFile(lastRunsFile(r.Observer.StateDir))
	must(err)
	if strings.Contains(string(data), "refused") {
		t.Errorf("after a run that was not refused: %s", data)
	}
}

// noPolicies is what a host without a policy file has.
var noPolicies policy.Assignment
