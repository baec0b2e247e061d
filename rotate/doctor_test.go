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
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A complaint is something wrong with a host whose domain "web" has two
// snapshots of ours on one disk, and what doctor has to say of it.
type complaint struct {
	code   string
	name   string
	spoil  func(t *testing.T, h *hosttest.Host, web *hosttest.Domain)
	detail string // part of detail or path
	remedy string // part of it
	note   bool
}

func complaints() []complaint {
	overlay := "web." + hosttest.Name(11) + ".qcow2"
	return []complaint{
		{code: decide.FindMode, spoil: func(t *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
			hosttest.Must(os.Chmod(h.Img(overlay), 0o640))
		}, detail: "mode 0640", remedy: "chmod 0600"},
		{code: decide.FindStale, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots[1].Disks[0].State[0] = "/gone"
		}, detail: hosttest.Name(11), remedy: "doctor --fix web"},
		{code: decide.FindStale, name: "state pulled away", spoil: func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			h.Create("old.qcow2", nil)
			web.Snapshots[1].Disks[0].State = []string{h.Img("old.qcow2")}
		}, detail: "pulled or rebased it by hand", remedy: "qemu-img compare"},
		{code: decide.FindUnlisted, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots = web.Snapshots[:1]
		}, detail: "list of snapshots may have been lost", remedy: "virt-rotate doctor --forget " + hosttest.Name(11) + " web"},
		{code: decide.FindMissing, spoil: func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots[0].Disks[0].Overlay, web.Snapshots[0].Disks[0].State = h.Img("x"), []string{h.Img("lost")}
		}, detail: "lost", remedy: "doctor --forget " + hosttest.Name(10) + " web"},
		{code: decide.FindMismatch, spoil: func(_ *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
			h.Create("stray.qcow2", nil)
			h.Change(h.Img(overlay), func(i *hosttest.Image) { i.Backing = h.Img("stray.qcow2") })
		}, detail: "stray.qcow2", remedy: "recovery.md"},
		{code: decide.FindConfig, spoil: func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			web.Disks[0].Inactive = []string{h.Img("web.qcow2")}
		}, detail: "persistent configuration names", remedy: "virsh edit"},
		{code: decide.FindOrphan, spoil: func(_ *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
			h.Create("web."+hosttest.Name(3)+".qcow2", nil)
		}, detail: hosttest.Name(3), remedy: "here or on another host"},
		{code: decide.FindJob, name: "foreign", spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.Disks[0].Job = &host.Job{Type: "copy", Ready: true}
		}, detail: "ready to pivot", remedy: "blockjob web vda --pivot"},
		{code: decide.FindFuture, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots[1].Time = hosttest.Hour(20)
		}, detail: "in the future", remedy: "doctor --forget " + hosttest.Name(11)},
		{code: decide.FindAppArmor, note: true, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.AppArmor = true
		}, detail: "AppArmor", remedy: "/**\" rwk,"},
		{code: decide.FindUEFI, note: true, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.UEFI = true
		}, detail: "UEFI variables", remedy: "back them up"},
		{code: decide.FindTPM, note: true, spoil: func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
			web.HasTPM = true
		}, detail: "TPM", remedy: "back it up"},
		{code: decide.FindStrange, spoil: func(_ *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
			hosttest.Must(os.WriteFile(h.Img("odd.qcow2"), []byte("{"), 0o600))
		}, detail: "odd.qcow2", remedy: "nothing is merged"},
		{code: decide.FindIntent, spoil: func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			hosttest.Must(journal.In(observer(h).StateDir).Write(journal.Intent{Domain: "web", UUID: web.UUID}))
		}, detail: "interrupted", remedy: "virt-rotate run web"},
		{code: decide.FindIntent, name: "of a domain that is gone", spoil: func(_ *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
			hosttest.Must(journal.In(observer(h).StateDir).Write(journal.Intent{Domain: "gone", UUID: "u"}))
		}, detail: "not on this host", remedy: "intents"},
	}
}

func spoiled(t *testing.T, spoil func(*testing.T, *hosttest.Host, *hosttest.Domain)) (*hosttest.Host, *observe.World) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{10, 11})
	for _, n := range []int{10, 11} {
		hosttest.Must(os.Chmod(h.Img("web."+hosttest.Name(n)+".qcow2"), 0o600))
	}
	spoil(t, h, web)
	return h, see(h, t)
}

func see(h *hosttest.Host, t *testing.T) *observe.World {
	t.Helper()
	w, err := observer(h).Observe(context.Background())
	hosttest.Must(err)
	return w
}

func TestDoctorTellsWhatIsWrongAndTheRemedy(t *testing.T) {
	for _, c := range complaints() {
		t.Run(c.code+" "+c.name, func(t *testing.T) {
			_, w := spoiled(t, c.spoil)
			found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12))
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
	_, w := spoiled(t, func(*testing.T, *hosttest.Host, *hosttest.Domain) {})
	if found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDoctorDoesNotJudgeDomainsThatAreNotOurs(t *testing.T) {
	_, w := spoiled(t, func(_ *testing.T, h *hosttest.Host, _ *hosttest.Domain) {
		other := h.Add("other")
		h.Disk(other, "vda", "other.qcow2")
		other.Disks[0].Inactive = []string{"/elsewhere"}
		other.AppArmor, other.UEFI = true, true
	})
	if found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDoctorFixMendsModesAndMetadataAndNothingElse(t *testing.T) {
	h, w := spoiled(t, func(t *testing.T, h *hosttest.Host, web *hosttest.Domain) {
		for _, c := range complaints() {
			if c.name == "" && slices.Contains([]string{decide.FindMode, decide.FindStale, decide.FindOrphan}, c.code) {
				c.spoil(t, h, web)
			}
		}
	})
	before := filesOf(h, t)
	found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12))
	hosttest.Must(Fix(context.Background(), h, w, found))
	for _, f := range found {
		if want := f.Code != decide.FindOrphan; f.Fixed != want {
			t.Errorf("%s: fixed is %v", f.Code, f.Fixed)
		}
	}
	left := decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(12))
	if len(left) != 1 || left[0].Code != decide.FindOrphan {
		t.Errorf("left: %+v", left)
	}
	if after := filesOf(h, t); !slices.Equal(before, after) {
		t.Errorf("files %q, before %q", after, before)
	}
	checkData(h, t)
}

func TestStatusTellsWhichLayerHoldsWhichSnapshotAndWhatIsDue(t *testing.T) {
	h, w := spoiled(t, func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) { h.Foreign(web, "F", 11) })
	last := &LastRun{Time: hosttest.Hour(11), Result: decide.ResultDone}
	s := Status(w, w.Domain("web"), rule(1), last, hosttest.Hour(12))
	var layers []string
	for _, l := range s.Disks[0].Chain {
		layers = append(layers, filepath.Base(l.Path)+" "+l.Snapshot+" "+l.Reason)
	}
	want := []string{
		"web.qcow2 " + hosttest.Name(10) + " snapshot web/" + hosttest.Name(10),
		"web." + hosttest.Name(10) + ".qcow2 " + hosttest.Name(11) + " snapshot web/" + hosttest.Name(11),
		"web." + hosttest.Name(11) + ".qcow2 F snapshot web/F",
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
	if s.Due == nil || !s.Due.Equal(hosttest.Hour(12)) || s.LastRun != last {
		t.Errorf("due %v, last run %v", s.Due, s.LastRun)
	}
	checkData(h, t)
}

func TestLastRunsForgetDomainsThatAreGone(t *testing.T) {
	h, w := spoiled(t, func(*testing.T, *hosttest.Host, *hosttest.Domain) {})
	r := rotator(h, rule(3))
	hosttest.Must(os.WriteFile(lastRunsFile(r.Observer.StateDir), []byte(`{"gone":{"time":"2026-01-01T00:00:00Z","result":"done"}}`), 0o600))
	hosttest.Must(r.saveLastRuns(w, []decide.Plan{{Domain: "web", Result: decide.ResultFailed, Error: "why"}}))
	runs, err := LastRuns(r.Observer.StateDir)
	hosttest.Must(err)
	want := LastRun{Time: h.Now.Truncate(time.Second), Result: decide.ResultFailed, Error: "why"}
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
		"an hour later":                        {hosttest.Hour(12), hosttest.Hour(12)},
		"a little early":                       {hosttest.Hour(12).Add(-4 * time.Minute), hosttest.Hour(12).Add(-4 * time.Minute)},
		"not yet":                              {hosttest.Hour(12).Add(-6 * time.Minute), hosttest.Hour(12)},
		"long overdue":                         {hosttest.Hour(20), hosttest.Hour(12)},
		"the clock went ten years back":        {hosttest.Hour(12).AddDate(-10, 0, 0), hosttest.Hour(12).AddDate(-10, 0, 0)},
		"the clock went a little back":         {hosttest.Hour(11).Add(-30 * time.Second), hosttest.Hour(12)},
		"the clock went back by five minutes":  {hosttest.Hour(11).Add(-5 * time.Minute), hosttest.Hour(11).Add(-5 * time.Minute)},
		"the clock went back to before 1970":   {time.Unix(-5, 0), time.Unix(-5, 0)},
		"the clock went ten years ahead by it": {hosttest.Hour(11).AddDate(10, 0, 0), hosttest.Hour(12)},
	} {
		h := hosttest.New(t)
		one(9, 11)(h, h.Add("web"))
		w, err := observer(h).Observe(t.Context())
		hosttest.Must(err)
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
	h := hosttest.New(t)
	one(9, 10)(h, h.Add("web"))
	h.Find("web").ManagedSave = true
	r := rotator(h, rule(7))
	runAll(h, t, r)
	runs, err := LastRuns(r.Observer.StateDir)
	hosttest.Must(err)
	last := runs["uuid-of-web"]
	if last.Result != decide.ResultRefused || len(last.Refused) != 1 || last.Refused[0].Code != host.CodeManagedSave || last.Refused[0].Detail == "" {
		t.Errorf("%+v", last)
	}
	h.Find("web").ManagedSave = false
	runAll(h, t, r)
	data, err := os.ReadFile(lastRunsFile(r.Observer.StateDir))
	hosttest.Must(err)
	if strings.Contains(string(data), "refused") {
		t.Errorf("after a run that was not refused: %s", data)
	}
}

// noPolicies is what a host without a policy file has.
var noPolicies policy.Assignment
