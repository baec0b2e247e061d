package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// inside is a guest that is off: two disks with internal snapshots, a branch by a revert, and
// a disk that is no part of them.
func inside(t *testing.T) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
	h.Disk(web, "vdb", "data.qcow2")
	h.Disk(web, "vdc", "left.raw")
	h.Inside(web, "first", 7, "vda", "vdb")
	h.Inside(web, "second", 8, "vda", "vdb")
	web.State = host.ShutOff
	h.Inside(web, "third", 9, "vda")
	h.BackInside(web, "first")
	h.Inside(web, "branch/1", 10, "vda", "vdb")
	return h, web
}

func adopts(h *hosttest.Host, t *testing.T, o decide.AdoptOptions) decide.Plan {
	t.Helper()
	p, err := rotator(h, rule(7)).Adopt(t.Context(), "web", o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// treeOf tells of each snapshot its parent, and where its states are.
func treeOf(h *hosttest.Host, d *hosttest.Domain) string {
	var lines []string
	for i := range d.Snapshots {
		s := &d.Snapshots[i]
		line := s.Name + " < " + s.Parent
		if s.Current {
			line += " (current)"
		}
		for _, state := range d.Domain.States(s) {
			line += " " + state.Target + ":" + filepath.Base(state.Path)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.ReplaceAll(strings.Join(lines, "\n"), ".qcow2", "")
}

const insideAdopted = `branch/1 < first (current) vda:web.branch_1 vdb:data.branch_1
first <  vda:web.first vdb:data.first
second < first vda:web.second vdb:data.second
third < second vda:web.third`

func TestInternalSnapshotsBecomeLayers(t *testing.T) {
	h, web := inside(t)
	before := map[string]hosttest.Image{}
	for _, name := range []string{"web.qcow2", "data.qcow2", "left.raw"} {
		before[name] = h.Load(h.Img(name))
	}
	dry := adopts(h, t, decide.AdoptOptions{Plan: true})
	if treeOf(h, web) == insideAdopted || len(filesOf(h, t)) != 4 || dry.Result != decide.ResultPlanned {
		t.Fatalf("a plan changed something: %+v", dry)
	}
	p := adopts(h, t, decide.AdoptOptions{})
	if p.Result != decide.ResultDone || !slices.Equal(p.Steps, dry.Steps) {
		t.Fatalf("%s\nplanned:\n%+v\ndone:\n%+v", p.Error, dry.Steps, p.Steps)
	}
	checkData(h, t)
	if got := treeOf(h, web); got != insideAdopted {
		t.Errorf("libvirt has\n%s", got)
	}
	for name, was := range before {
		if now := h.Load(h.Img(name)); len(now.States) != len(was.States) || len(now.Blocks) != len(was.Blocks) {
			t.Errorf("%s was changed", name)
		}
	}
	if got := h.Short(host.Paths(web.Disks[0].Chain)); !slices.Equal(got, []string{"golden", "web.first", "web.branch_1", "web.gen1"}) {
		t.Errorf("the guest is on %v", got)
	}
	if got := h.Short(host.Paths(web.Disks[2].Chain)); !slices.Equal(got, []string{"left.raw"}) {
		t.Errorf("the disk without snapshots is on %v", got)
	}
	if len(p.Kept) != 2 || p.Kept[0].Path != h.Img("web.qcow2") || p.Kept[0].UsedBy != "" || len(p.Warnings) != 2 || !strings.Contains(p.Warnings[0], "web.first.memory") {
		t.Errorf("told: %+v %q", p.Kept, p.Warnings)
	}
	if p := adopts(h, t, decide.AdoptOptions{}); p.Result != decide.ResultNothing {
		t.Errorf("again: %+v", p)
	}
}

// Rotation takes over, and goes back to what was adopted.
func TestRotationGoesOnAfterAnAdoption(t *testing.T) {
	h, web := inside(t)
	if p := runAll(h, t, rotator(h, rule(2)))["web"]; len(p.Refused) == 0 || p.Refused[0].Code != host.CodeInternal || !strings.Contains(p.Refused[0].Detail, "virt-rotate adopt --internal web") {
		t.Fatalf("before: %+v", p)
	}
	adopts(h, t, decide.AdoptOptions{DropMemory: true})
	web.State = host.Running
	for n := range 6 {
		h.Write(web, "vda", n)
		h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
		if p := runAll(h, t, rotator(h, rule(2)))["web"]; p.Result != decide.ResultDone || len(p.Refused) > 0 {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
	}
	if n := len(web.Snapshots); n != 6 {
		t.Errorf("%d snapshots: %s", n, treeOf(h, web))
	}
	web.State = host.ShutOff
	for _, name := range []string{"first", "third", "branch/1", "second"} {
		if p := back(t, h, rotator(h, rule(9)), web, name, decide.RestoreOptions{}); p.Result != decide.ResultDone {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if _, err := os.Stat(h.Img("web.first.memory")); err == nil {
		t.Error("memory was kept that was not wanted")
	}
}

// What only the image knows becomes a snapshot, too, where it shares most.
func TestInternalSnapshotsThatLibvirtDoesNotList(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.qcow2")
	web.State = host.ShutOff
	for i, name := range []string{"one", "two", "../two"} {
		for _, d := range []string{"vda", "vdb"} {
			h.Hold(host.DiskOf(&web.Domain, d).Active().Path, name, hosttest.Hour(5+i), 0)
			h.Write(web, d, 10+i)
		}
		web.States[name] = map[string]hosttest.Blocks{}
	}
	if p := runAll(h, t, rotator(h, rule(2)))["web"]; len(p.Refused) == 0 || p.Refused[0].Code != host.CodeInternal {
		t.Fatalf("before: %+v", p)
	}
	p := adopts(h, t, decide.AdoptOptions{})
	want := `_two < two (current) vda:web._two vdb:data._two
one <  vda:web.one vdb:data.one
two < one vda:web.two vdb:data.two`
	if got := treeOf(h, web); p.Error != "" || got != want {
		t.Errorf("%s\n%s", p.Error, got)
	}
	if d := web.Snapshot("_two").Description; d != `Internal snapshot "../two" that libvirt did not list` {
		t.Error(d)
	}
	for _, d := range web.Disks {
		reads(h, t, d.Target, d.Active().Path, web.Want[d.Target])
	}
}

// What cannot be matched, or read, or must not be touched, is refused before anything is made.
func TestWhatIsNotAdopted(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(h *hosttest.Host, web *hosttest.Domain)
		code  string
		text  string
	}{
		"a guest that runs": {func(_ *hosttest.Host, web *hosttest.Domain) { web.State = host.Running }, host.CodeState, "shut it down first"},
		"a saved guest":     {func(_ *hosttest.Host, web *hosttest.Domain) { web.ManagedSave = true }, host.CodeManagedSave, "managed save"},
		"checkpoints":       {func(_ *hosttest.Host, web *hosttest.Domain) { web.Checkpoints = 1 }, host.CodeCheckpoints, "checkpoints"},
		"an external one, too": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Foreign(web, "outside", 11)
		}, host.CodeInternal, "snapshot outside is an external one"},
		"a name that the image has not": {func(h *hosttest.Host, web *hosttest.Domain) { web.Snapshots[0].Name = "renamed" },
			host.CodeInternal, `has none of that name (it has "first")`},
		"a name that the image has twice": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Hold(h.Img("data.qcow2"), "second", hosttest.Hour(11), 0)
		},
			host.CodeInternal, `2 internal snapshots with the name "second"`},
		"another image": {func(h *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots[0].Disks[1].State = []string{h.Img("left.raw")}
		}, host.CodeInternal, "inside another image"},
		"a disk that is gone": {func(h *hosttest.Host, web *hosttest.Domain) { web.Disks = slices.Delete(web.Disks, 1, 2) }, host.CodeNoDisk, "attach it again"},
		"an image that is corrupt": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Change(h.Img("data.qcow2"), func(i *hosttest.Image) { i.Corrupt = true })
		}, host.CodeCorrupt, "corrupt"},
		"an image that is not there": {func(h *hosttest.Host, _ *hosttest.Domain) { hosttest.Must(os.Remove(h.Img("data.qcow2"))) }, host.CodeUnreadable, "data.qcow2"},
		"an image without them": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Change(h.Img("data.qcow2"), func(i *hosttest.Image) { i.States = nil })
		}, host.CodeInternal, "the image has no internal snapshots"},
		"internal ones below": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Change(h.Img("golden.qcow2"), func(i *hosttest.Image) { i.Internal = 1 })
		}, host.CodeInternal, "golden"},
		"an image of two guests": {func(h *hosttest.Host, web *hosttest.Domain) { h.Disk(h.Add("other"), "vda", "data.qcow2") }, host.CodeShared, "other"},
		"metadata beyond us":     {func(h *hosttest.Host, web *hosttest.Domain) { web.BeyondUs = true }, host.CodeMetadata, "does not know"},
		"a configuration beyond us": {func(h *hosttest.Host, web *hosttest.Domain) { web.Oddities = "configuration" },
			host.CodeMetadata, "does not know"},
		"no space": {func(h *hosttest.Host, web *hosttest.Domain) {
			h.Space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 100 << 30}, nil }
		}, host.CodeNoSpace, "all layers are made before"},
	} {
		t.Run(name, func(t *testing.T) {
			h, web := inside(t)
			c.spoil(h, web)
			before := everything(h, t)
			for _, plan := range []bool{true, false} {
				p := adopts(h, t, decide.AdoptOptions{Plan: plan})
				i := slices.IndexFunc(p.Refused, func(r decide.Refusal) bool {
					return r.Code == c.code && strings.Contains(r.Path+": "+r.Detail, c.text)
				})
				if i < 0 || len(p.Steps) > 0 || p.Result != decide.ResultRefused {
					t.Errorf("%+v", p)
				}
			}
			if everything(h, t) != before {
				t.Error("something was changed")
			}
		})
	}
}

// Whatever happens to the host amid it, nothing is switched that has changed.
func TestWhatChangesAmidAnAdoption(t *testing.T) {
	for name, change := range map[string]func(h *hosttest.Host, web *hosttest.Domain){
		"the guest is started":  func(_ *hosttest.Host, web *hosttest.Domain) { web.State = host.Running },
		"a start is under way":  func(h *hosttest.Host, _ *hosttest.Domain) { h.Starting = true },
		"a snapshot is deleted": func(_ *hosttest.Host, web *hosttest.Domain) { web.Snapshots = web.Snapshots[:3] },
		"a snapshot is taken": func(h *hosttest.Host, web *hosttest.Domain) {
			web.Snapshots = append(web.Snapshots, host.Snapshot{Name: "new"})
		},
		"a description is changed":   func(_ *hosttest.Host, web *hosttest.Domain) { web.Snapshots[0].Description = "other" },
		"the disk is another image":  func(h *hosttest.Host, web *hosttest.Domain) { other(h, web) },
		"the engine finds something": func(h *hosttest.Host, _ *hosttest.Domain) { h.EngineRefuses = os.ErrInvalid },
	} {
		t.Run(name, func(t *testing.T) {
			h, web := inside(t)
			files := filesOf(h, t)
			n := 0
			h.Event = func(what string) error {
				if n++; what == "call unfold" && n > 0 {
					change(h, web)
					h.Event = func(string) error { return nil }
				}
				return nil
			}
			p := adopts(h, t, decide.AdoptOptions{})
			if p.Result != decide.ResultFailed || len(web.Snapshots) < 3 || !web.Snapshots[0].Internal {
				t.Errorf("%+v", p)
			}
			if got := filesOf(h, t); len(got) > len(files)+1 || len(see(h, t).Intents) > 0 {
				t.Errorf("left: %v", h.Short(got))
			}
		})
	}
}

// other lets the guest have another image as its disk.
func other(h *hosttest.Host, web *hosttest.Domain) {
	h.Create("else.qcow2", nil)
	web.Disks[1].Chain = []host.Layer{{Path: h.Img("else.qcow2"), Format: "qcow2", Kind: "file"}}
	web.Disks[1].Inactive = []string{h.Img("else.qcow2")}
}

// The central property: wherever an adoption dies, libvirt has the internal snapshots and
// nothing else, or the next adoption finishes; what a guest reads is the same.
func TestAnAdoptionThatDiesAnywhereIsFinished(t *testing.T) {
	n, halves := 1, map[bool]int{}
	for ; ; n++ {
		h, web := inside(t)
		r := rotator(h, rule(2))
		count, at := 0, ""
		if !dieWith(h, r, func() { _, _ = r.Adopt(t.Context(), "web", decide.AdoptOptions{}) }, func(place string) bool { count++; at = place; return count == n }) {
			break
		}
		switched := strings.Contains(web.Disks[0].Active().Path, "gen1")
		halves[switched]++
		checkData(h, t)
		if !switched {
			oldStateIsWhole(h, t, web)
		}
		if in := see(h, t).Intents[web.UUID]; in != nil {
			ran := runAll(h, t, rotator(h, rule(2)))["web"]
			if len(ran.Refused) == 0 || ran.Refused[0].Code != host.CodeAdoption || len(ran.Steps) > 0 {
				t.Fatalf("place %d, %q: a run: %+v", n, at, ran)
			}
		}
		p := adopts(h, t, decide.AdoptOptions{})
		if p.Error != "" || len(p.Refused) > 0 || treeOf(h, web) != insideAdopted {
			t.Fatalf("place %d, %q: %s %+v\n%s", n, at, p.Error, p.Refused, treeOf(h, web))
		}
		checkData(h, t)
		if left := len(filesOf(h, t)); left != 15 || len(see(h, t).Intents) > 0 {
			t.Fatalf("place %d, %q: %d files: %v", n, at, left, h.Short(filesOf(h, t)))
		}
		web.State = host.Running
		if ran := runAll(h, t, rotator(h, rule(2)))["web"]; ran.Error != "" || len(ran.Refused) > 0 {
			t.Fatalf("place %d, %q: a run afterwards: %s %+v", n, at, ran.Error, ran.Refused)
		}
	}
	if halves[false] < 40 || halves[true] < 15 {
		t.Errorf("places to die at: %v: is a hook broken?", halves)
	}
}

// oldStateIsWhole sees that libvirt could go back to each internal snapshot.
func oldStateIsWhole(h *hosttest.Host, t *testing.T, web *hosttest.Domain) {
	t.Helper()
	if len(web.Snapshots) != 4 {
		t.Fatalf("libvirt has lost snapshots: %s", treeOf(h, web))
	}
	for i := range web.Snapshots {
		if s := &web.Snapshots[i]; !s.Internal {
			t.Fatalf("%s is no internal one any more", s.Name)
		}
	}
	for _, image := range []string{"web.qcow2", "data.qcow2"} {
		if n := len(h.Load(h.Img(image)).States); n < 3 {
			t.Fatalf("%s has %d internal snapshots", image, n)
		}
	}
}

// adoptionCutOff is a host on which one died before the guest was on the layers.
func adoptionCutOff(t *testing.T) (*hosttest.Host, *Rotator) {
	h, _ := inside(t)
	r := rotator(h, rule(2))
	if !dieWith(h, r, func() { _, _ = r.Adopt(t.Context(), "web", decide.AdoptOptions{}) }, func(place string) bool { return place == "layers made" }) {
		t.Fatal("nothing died")
	}
	return h, rotator(h, rule(2))
}

// What does not come along is told beforehand.
func TestWhatAnAdoptionLeavesBehindIsTold(t *testing.T) {
	h, web := inside(t)
	web.UEFI = true
	for drop, want := range map[bool]string{false: "is kept in ", true: "stays in "} {
		p := adopts(h, t, decide.AdoptOptions{Plan: true, DropMemory: drop})
		told := strings.Join(p.Warnings, "\n")
		if !strings.Contains(told, "UEFI variables") || strings.Count(told, "the saved memory of ") != 2 || strings.Count(told, want) != 2 {
			t.Errorf("%s", told)
		}
	}
}

// No record lets an image go that an adoption has kept.
func TestAnImageThatIsOnRecordStaysAfterAnAdoption(t *testing.T) {
	h, web := inside(t)
	info, err := vfs.Stat(h.Img("data.qcow2"))
	hosttest.Must(err)
	hosttest.Must(journal.SaveReleased(filepath.Join(h.Dir, "state"), &web.Domain, []journal.File{{Path: h.Img("data.qcow2"), ID: info.ID, Asked: true}}))
	adopts(h, t, decide.AdoptOptions{})
	if left := journal.LoadReleased(filepath.Join(h.Dir, "state"), web.UUID); len(left) > 0 {
		t.Errorf("on record: %v", left)
	}
	web.State = host.Running
	runAll(h, t, rotator(h, rule(0)))
	if !slices.Contains(filesOf(h, t), h.Img("data.qcow2")) {
		t.Error("the image is gone")
	}
}

// A snapshot that somebody takes before an adoption is finished stays where it is in the tree.
func TestASnapshotAmidAnAdoption(t *testing.T) {
	h, web := inside(t)
	r := rotator(h, rule(2))
	if !dieWith(h, r, func() { _, _ = r.Adopt(t.Context(), "web", decide.AdoptOptions{}) }, func(place string) bool { return place == "on the layers" }) {
		t.Fatal("nothing died")
	}
	h.Foreign(web, "amid", 11)
	if p := adopts(h, t, decide.AdoptOptions{}); p.Error != "" {
		t.Fatal(p.Error)
	}
	checkData(h, t)
	if s := web.Snapshot("amid"); s == nil || s.Parent != "branch/1" || !s.Current {
		t.Errorf("the tree is\n%s", treeOf(h, web))
	}
}

// What doctor says keeps the states where it can be done, and names the command.
func TestDoctorNamesTheAdoption(t *testing.T) {
	remedy := func(h *hosttest.Host, code string) string {
		t.Helper()
		w := see(h, t)
		for _, f := range decide.Diagnose(w, []string{"web"}, rotator(h, rule(2)).Match(decide.Guests(w)), h.Now) {
			if f.Code == code {
				return f.Remedy
			}
		}
		t.Errorf("doctor does not tell %s", code)
		return ""
	}
	h, web := inside(t)
	if got := remedy(h, host.CodeInternal); !strings.HasSuffix(got, ": virt-rotate adopt --internal web") {
		t.Error(got)
	}
	h.Foreign(web, "outside", 11)
	if got := remedy(h, host.CodeInternal); strings.Contains(got, "adopt") || !strings.Contains(got, "if it is not needed: ") {
		t.Error(got)
	}
	h, _ = adoptionCutOff(t)
	if got := remedy(h, host.CodeAdoption); got != "virt-rotate adopt --internal web" {
		t.Error(got)
	}
}

// Nor does a call that fails cost anything, before or after its effect.
func TestACallThatFailsInAnAdoption(t *testing.T) {
	for n := 1; ; n++ {
		h, web := inside(t)
		count, at := 0, ""
		h.Event = func(what string) error {
			if count++; count == n {
				at = what
				return os.ErrDeadlineExceeded
			}
			return nil
		}
		p, err := rotator(h, rule(2)).Adopt(t.Context(), "web", decide.AdoptOptions{})
		h.Event = func(string) error { return nil }
		if count < n {
			if n < 50 {
				t.Errorf("only %d calls", n)
			}
			return
		}
		checkData(h, t)
		if !strings.Contains(web.Disks[0].Active().Path, "gen1") {
			oldStateIsWhole(h, t, web)
		}
		if p := adopts(h, t, decide.AdoptOptions{}); p.Error != "" || len(p.Refused) > 0 || treeOf(h, web) != insideAdopted {
			t.Fatalf("call %d, %q (%v, %s): %+v", n, at, err, p.Error, p)
		}
		checkData(h, t)
		if left := filesOf(h, t); len(left) != 15 || len(see(h, t).Intents) > 0 {
			t.Fatalf("call %d, %q (%s): %v", n, at, p.Error, h.Short(left))
		}
	}
}
