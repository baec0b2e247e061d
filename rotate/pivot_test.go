package rotate

import (
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// missedPivot lets libvirt miss that QEMU has moved the guest onto the base
// of an active commit.
func missedPivot(t *testing.T) (*hosttest.Host, *hosttest.Domain, *Rotator, []host.Layer) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	one(11)(h, web)
	old := slices.Clone(web.Disks[0].Chain)
	none := rule(0)
	none.Keep = policy.Keep{}
	r := rotator(h, none)
	r.Options = coalesce()
	if !dieAt(h, r, "end of pivot") {
		t.Fatal("no pivot")
	}
	h.AfterCrash(hosttest.JobsDie)
	web.Disks[0].Chain, web.Disks[0].Inactive = old, host.Paths(old)
	return h, web, r, old
}

func TestAGuestWhosePivotLibvirtMissedStartsFromTheBase(t *testing.T) {
	h, web, r, old := missedPivot(t)
	base, top := old[0].Path, old[1].Path
	holdBytes(t, base, 100, 2) // QEMU reads and writes it
	p := runAll(h, t, r)["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeRestart || p.Refused[0].Path != base || p.Result != decide.ResultPartly {
		t.Fatalf("%+v", p)
	}
	if found := decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(12)); !slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == decide.FindRestart }) ||
		slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == decide.FindConfig }) {
		t.Errorf("doctor: %+v", found)
	}
	if have := web.Disks[0].Inactive; !slices.Equal(have, []string{base}) {
		t.Errorf("the guest would start from %v", have)
	}
	if p = runAll(h, t, r)["web"]; p.Result != decide.ResultRefused || len(p.Steps) > 0 || p.Refused[0].Code != host.CodeRestart {
		t.Errorf("the second time: %+v", p)
	}
	web.Disks[0].Chain = old[:1] // the restart
	if p = runAll(h, t, r)["web"]; len(p.Refused) > 0 || slices.Contains(filesOf(h, t), top) {
		t.Errorf("after the restart: %+v, %v", p, filesOf(h, t))
	}
	checkDone(h, t)
}

func TestQEMUsWordDecidesWhatAGuestRunsOn(t *testing.T) {
	for name, c := range map[string]struct {
		chain  int // how many layers QEMU says there are
		locked bool
		missed bool
	}{
		"it has the base alone, and closed nothing": {1, true, true},
		"it has all layers, and a job on the base":  {2, true, false},
		"it writes to nothing that is locked":       {1, false, false},
	} {
		h, web, r, old := missedPivot(t)
		h.Qemu = map[string][]string{web.Disks[0].Target: host.Paths(old[:c.chain])}
		if c.locked {
			holdBytes(t, old[0].Path, 100, 2)
			holdBytes(t, old[1].Path, 100, 2)
		}
		p := planOf(h, t, r, "web")
		if missed := len(p.Refused) > 0 && p.Refused[0].Code == host.CodeRestart; missed != c.missed {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestAGuestThatQEMURunsOnTheOldChainIsMergedAgain(t *testing.T) {
	h, web, r := missed(t)
	h.Qemu = map[string][]string{web.Disks[0].Target: host.Paths(web.Disks[0].Chain)}
	if p := planOf(h, t, r, "web"); len(p.Refused) > 0 || !slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) {
		t.Errorf("%+v", p)
	}
	h.Qemu[web.Disks[0].Target] = slices.Delete(host.Paths(web.Disks[0].Chain), 1, 2)
	hold(t, h.Img("web."+hosttest.Name(9)+".qcow2")) // open, but in no chain
	if p := planOf(h, t, r, "web"); len(p.Refused) == 0 || p.Refused[0].Code != host.CodeRestart {
		t.Errorf("%+v", p)
	}
}

func TestWhereQEMUIsNotAskedLocksAreTheEvidence(t *testing.T) {
	for name, holds := range map[string]func(base, top string){
		"nobody has locks":       func(string, string) {},
		"the layer is open, too": func(base, top string) { holdBytes(t, base, 100, 2); holdBytes(t, top, 100, 2) },
		"the base is only read":  func(base, _ string) { hold(t, base) },
	} {
		h, web, r, old := missedPivot(t)
		holds(old[0].Path, old[1].Path)
		p := planOf(h, t, r, "web")
		if len(p.Refused) > 0 {
			t.Errorf("%s: %+v", name, p)
		}
		if !slices.Equal(web.Disks[0].Inactive, host.Paths(old)) {
			t.Errorf("%s: the configuration has changed", name)
		}
	}
}
