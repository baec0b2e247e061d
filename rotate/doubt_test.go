package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// What is not known for certain costs a merge, never data.

func TestLostSnapshotListsCostNothing(t *testing.T) {
	for _, left := range []int{0, 1} { // of three
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		web.Snapshots = web.Snapshots[:left]
		before := filesOf(h, t)
		for range 2 {
			if p := runAll(h, t, withOptions(h, rotator(h, rule(7))))["web"]; slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op != decide.OpSnapshot }) {
				t.Errorf("%d left: %+v", left, p.Steps)
			}
		}
		for _, f := range before {
			if !slices.Contains(filesOf(h, t), f) {
				t.Errorf("%d left: %s is gone", left, f)
			}
		}
	}
}

func TestImagesThatWereMovedKeepTheirStates(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	for i := range web.Snapshots { // the list names the old place
		web.Snapshots[i].Disks[0].Overlay = "/old/" + filepath.Base(web.Snapshots[i].Disks[0].Overlay)
		web.Snapshots[i].Disks[0].State = []string{"/old/x"}
	}
	p := planOf(h, t, withOptions(h, rotator(h, rule(1))), "web")
	if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
		t.Errorf("%+v", p.Steps)
	}
}

func TestABaseThatGetsAUserAfterThePlanIsNotMergedInto(t *testing.T) {
	for _, how := range []string{"domain", "image", "hard link", "saved state"} {
		t.Run(how, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one(9, 10, 11)(h, web)
			h.Event = func(what string) error {
				if what != "end of drop-metadata" || len(h.Guests) > 1 {
					return nil
				}
				switch how {
				case "domain":
					h.Disk(h.Add("other"), "vda", "web.qcow2", "clone.qcow2")
				case "image":
					h.Picture("clone.qcow2", "web.qcow2")
				case "hard link":
					hosttest.Must(os.Link(h.Img("web.qcow2"), filepath.Join(h.Dir, "far", "copy.qcow2")))
				default:
					web.ManagedSave = true
				}
				return nil
			}
			before := h.Load(h.Img("web.qcow2"))
			r := rotator(h, rule(2))
			r.Options = coalesce()
			p := runAll(h, t, r)["web"]
			told := p.Error
			if how != "saved state" { // then all snapshots are back
				told = ""
				for _, r := range p.Refused {
					told += r.Detail
				}
			}
			if !strings.Contains(told, "no longer safe") && !strings.Contains(told, "refused meanwhile") {
				t.Errorf("%+v", p)
			}
			if now := h.Load(h.Img("web.qcow2")); len(now.Blocks) != len(before.Blocks) {
				t.Error("the base was written to")
			}
			checkData(h, t)
		})
	}
}

func TestAnOldViewIsNotTakenForAFreshOne(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	looks := 0
	h.Event = func(what string) error {
		if what == "end of domains" {
			if looks++; looks == 1 {
				h.Now = h.Now.Add(time.Hour) // the run waited for its turn
				other := h.Add("other")
				h.Disk(other, "vda", "web.qcow2", "far/clone.qcow2")
			}
		}
		return nil
	}
	r := rotator(h, rule(2))
	r.Options = coalesce()
	runAll(h, t, r)
	checkData(h, t)
}

func TestMetadataThatCannotBeRedefinedIsSeenBeforeTheDrop(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	web.BeyondUs = true
	r := rotator(h, rule(2))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultFailed || len(p.Steps) > 0 || !strings.Contains(p.Error, "nothing was changed") || len(web.Snapshots) != 3 {
		t.Errorf("%+v, %d snapshots", p, len(web.Snapshots))
	}
	checkNoIntent(h, t)
	checkData(h, t)
}

func TestAForeignJobIsNotTakenForOurs(t *testing.T) {
	in := &journal.Merge{Disk: "vda", Base: "/base", Gone: []journal.File{{Path: "/s1"}}}
	for _, c := range []struct {
		job    host.Job
		active bool
		want   bool
	}{
		{host.Job{Type: "commit"}, false, true},
		{host.Job{Type: "active-commit"}, false, false},
		{host.Job{Type: "active-commit", Target: "/base"}, true, true},
		{host.Job{Type: "active-commit", Target: "/else"}, true, false},
		{host.Job{Type: "copy", Target: "/base"}, true, false},
	} {
		if got := in.Runs(&c.job, c.active); got != c.want {
			t.Errorf("%+v, active %v: %v", c.job, c.active, got)
		}
	}
}

func TestHardLinkedLayersAreNotMerged(t *testing.T) {
	for _, layer := range []string{"web.qcow2", "web." + hosttest.Name(9) + ".qcow2"} {
		h := hosttest.New(t)
		one(9, 10, 11)(h, h.Add("web"))
		hosttest.Must(os.Link(h.Img(layer), filepath.Join(h.Dir, "far", "copy.qcow2")))
		r := rotator(h, rule(2))
		r.Options = coalesce()
		p := planOf(h, t, r, "web")
		if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
			t.Errorf("%s: %+v", layer, p.Steps)
		}
	}
}

func TestADirectoryToScanThatIsNotThereStopsMerges(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, rule(2))
	r.Observer.Scan = []string{filepath.Join(h.Dir, "not mounted")}
	p := planOf(h, t, r, "web")
	if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
		t.Errorf("%+v", p.Steps)
	}
}

func TestAnotherNameOfALayerIsNoUserOfIt(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	hosttest.Must(os.Symlink(h.Img("web."+hosttest.Name(9)+".qcow2"), h.Img("alias.qcow2")))
	p := planOf(h, t, withOptions(h, rotator(h, rule(2))), "web")
	if !slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
		t.Errorf("no merge: %+v", p)
	}
}

func TestACloneBehindASymbolicLinkIsAUser(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	hosttest.Must(os.MkdirAll(filepath.Join(h.Dir, "deep", "er", "still"), 0o755))
	hosttest.Must(os.Symlink(filepath.Join(h.Dir, "deep", "er", "still"), filepath.Join(h.Dir, "far", "link")))
	h.Store(filepath.Join(h.Dir, "deep/er/still/clone.qcow2"), hosttest.Image{Format: "qcow2", Backing: "../../../img/web.qcow2", BackingFormat: "qcow2"})
	r := rotator(h, rule(2))
	r.Options = coalesce()
	r.Observer.Scan = []string{filepath.Join(h.Dir, "far", "link")}
	p := planOf(h, t, r, "web")
	if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
		t.Errorf("%+v", p.Steps)
	}
}

func TestOrderTaken(t *testing.T) {
	snap := func(name, parent string, n int) host.Snapshot {
		return host.Snapshot{Name: name, Parent: parent, Time: hosttest.Hour(n)}
	}
	for want, snaps := range map[string][]host.Snapshot{
		"S1 S2 S3":    {snap("S1", "", 1), snap("S2", "S1", 2), snap("S3", "S2", 3)},
		"S1 S2 S3 ":   {snap("S1", "", 9), snap("S2", "S1", 1), snap("S3", "S2", 5)},                      // clocks
		"S1 S2 S3 S4": {snap("S1", "", 1), snap("S4", "S1", 4), snap("S2", "S1", 2), snap("S3", "S2", 3)}, // reverted to S1
		"":            nil,
	} {
		var got []string
		for _, s := range host.InOrderTaken(snaps) {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != strings.TrimSpace(want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
