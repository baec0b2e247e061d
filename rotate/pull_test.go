package rotate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// middle has snapshots of half an hour each, of which the policy drops those in
// between, on a guest in the given state.
func middle(t *testing.T, state host.State) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	one(8, 9, 10, 11)(h, web)
	for i := range web.Snapshots {
		web.Snapshots[i].Time = hosttest.Hour(1).Add(time.Duration(i) * 30 * time.Minute)
	}
	web.State = state
	return h, web
}

func hourly(r *policy.Rule) { r.Keep = policy.Keep{Last: 1, Hourly: 10} }

// fat makes an image take more space than the others.
func fat(h *hosttest.Host, path string) {
	h.Change(path, func(i *hosttest.Image) {
		for b := 1000; b < 3000; b++ {
			i.Blocks[b] = b
		}
	})
}

func TestASmallLayerIsPulledIntoALargeOne(t *testing.T) {
	h, web := middle(t, host.ShutOff)
	upper := web.Disks[0].Chain[3].Path // S10's overlay: it has the state of S11
	fat(h, upper)
	web.States[hosttest.Name(11)]["vda"] = h.Read(upper)
	web.Want["vda"] = h.Read(web.Disks[0].Active().Path)
	r := rotator(h, with(rule(1), hourly))
	r.Options = coalesce()
	wantSteps(h, t, runAll(h, t, r)["web"], `
		drop-metadata S8
		offline-commit vda: web.S8 into web
		redefine S9
		redefine S10
		redefine S11
		delete web.S8
		drop-metadata S10
		offline-pull vda: web.S9 into web.S10
		redefine S9
		redefine S11
		delete web.S9`)
	checkDone(h, t)
	if s := web.Snapshot(hosttest.Name(9)); s.Disks[0].Overlay != upper {
		t.Errorf("the overlay that came with %s is %s by its metadata", s.Name, s.Disks[0].Overlay)
	}
}

// The image that the domain was given is never pulled away, and a running guest's
// inner layers cannot be.
func TestWhatCannotBePulledIsCommitted(t *testing.T) {
	for _, c := range []struct {
		state host.State
		keep  policy.Keep
		want  string
	}{
		{host.ShutOff, policy.Keep{Last: 2}, "offline-commit"},
		{host.Running, policy.Keep{Last: 1, Hourly: 10}, "commit"},
	} {
		h, _ := middle(t, c.state)
		r := rotator(h, with(rule(1), func(r *policy.Rule) { r.Keep, r.Method = c.keep, policy.MethodPull }))
		r.Options = coalesce()
		merged := 0
		for _, s := range runAll(h, t, r)["web"].Steps {
			if s.Op == decide.OpMerge {
				merged++
				if s.Method != c.want {
					t.Errorf("%s: %s", c.state, s)
				}
			}
		}
		if merged == 0 {
			t.Errorf("%s: nothing was merged", c.state)
		}
		checkDone(h, t)
	}
}

// A guest that runs is pulled into its active layer, when that is what can be merged.
func TestALiveGuestsActiveLayerIsPulledInto(t *testing.T) {
	h, web := middle(t, host.Running)
	r := rotator(h, with(rule(0), func(r *policy.Rule) { r.Keep, r.Method = policy.Keep{Last: 3}, policy.MethodPull }))
	releases(h, web, 3)
	r.Options = coalesce()
	wantSteps(h, t, runAll(h, t, r)["web"], `
		pull vda: web.S10 into web.S11
		redefine S10
		delete web.S10`)
	checkDone(h, t)
}

func TestAGuestIsDetachedFromASharedImage(t *testing.T) {
	for _, state := range []host.State{host.ShutOff, host.Running} {
		h := hosttest.New(t)
		golden(h)
		web := h.Find("web")
		web.State = state
		r := rotator(h, rule(7))
		r.Options = decide.Options{NoSnapshot: true, Detach: true}
		before := h.Load(h.Img("golden.qcow2"))
		p := runAll(h, t, r)["web"]
		want := "offline-pull vda: golden into web\nredefine S9\nredefine S10\nredefine S11"
		if state == host.Running {
			want = "pull vda: golden into web.S11"
		}
		wantSteps(h, t, p, want)
		if !strings.Contains(p.Steps[0].Reason, "golden.qcow2 is used by ") {
			t.Errorf("%s: %s", state, p.Steps[0].Reason)
		}
		checkDone(h, t)
		chain := h.Walk(web.Disks[0].Active().Path)
		if n := map[host.State]int{host.ShutOff: 4, host.Running: 1}[state]; len(chain) != n {
			t.Errorf("%s: %v", state, chain)
		}
		if after := h.Load(h.Img("golden.qcow2")); len(after.Blocks) != len(before.Blocks) {
			t.Errorf("%s: the shared image has changed", state)
		}
		if again := runAll(h, t, r)["web"]; len(again.Steps) > 0 {
			t.Errorf("%s: once more: %+v", state, again.Steps)
		}
		h.Now = h.Now.Add(time.Hour)
		r.Match, r.Options = rotator(h, rule(3)).Match, decide.Options{}
		for range 6 { // the snapshots go one by one, and their layers with them
			runAll(h, t, r)
			checkData(h, t)
			h.Now = h.Now.Add(2 * time.Hour)
		}
		if state == host.Running { // the image that the domain was given stays, though nobody uses it
			hosttest.Must(os.Remove(h.Img("web.qcow2")))
		}
		checkDone(h, t)
		if top := filepath.Base(web.Disks[0].Active().Path); strings.Count(top, "T") != 1 || !strings.HasPrefix(top, "web.p-") {
			t.Errorf("%s: the overlay's name is %s", state, top)
		}
	}
}

// What a domain does not share stays as it is.
func TestADiskOfItsOwnIsNotDetached(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10)(h, web)
	h.Foreign(web, "mine", 11)
	r := rotator(h, with(rule(7), func(r *policy.Rule) { r.Detach = true }))
	r.Options = coalesce()
	if p := runAll(h, t, r)["web"]; len(p.Steps) > 0 {
		t.Errorf("%+v", p.Steps)
	}
}

func TestADetachThatDoesNotFitIsRefused(t *testing.T) {
	h := hosttest.New(t)
	golden(h)
	fat(h, h.Img("golden.qcow2"))
	r := rotator(h, with(rule(7), func(r *policy.Rule) { r.Detach, r.MinFree = true, policy.MinFree{Percent: 50} }))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeNoSpace || len(p.Steps) > 0 {
		t.Errorf("%+v %+v", p.Refused, p.Steps)
	}
}
