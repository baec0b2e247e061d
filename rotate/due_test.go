package rotate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

func TestWhenASnapshotIsTaken(t *testing.T) {
	closed := with(rule(2), func(r *policy.Rule) { r.Window = policy.Window{Start: 60, End: 300} })
	shapes := []shape{
		{name: "not due", build: one(10, 11), now: hosttest.Hour(11).Add(30 * time.Minute)},
		{name: "asked for now", build: one(11), now: hosttest.Hour(11).Add(30 * time.Minute), options: decide.Options{IgnoreEvery: true}, steps: `
			snapshot p-20260101T113000Z vda: web.p-20260101T113000Z on web.S11`, reason: "asked for now"},
		{name: "a little early", build: one(11), now: hosttest.Hour(12).Add(-3 * time.Minute), steps: `
			snapshot p-20260101T115700Z vda: web.p-20260101T115700Z on web.S11`, reason: "due every 1h"},
		{name: "not wanted", build: one(10, 11), options: coalesce()},
		{name: "not wanted, though asked for now", build: one(10, 11), options: decide.Options{IgnoreEvery: true, NoSnapshot: true}},
		{name: "a foreign one does not count", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(10)(h, web)
			h.Foreign(web, "mine", 12)
		}, steps: `
			snapshot S12 vda: web.mine.S12 on web.mine`},
		{name: "the clock went backwards: nothing is dropped by it", build: one(9, 20, 21), rule: with(rule(0), func(r *policy.Rule) {
			r.Keep = policy.Keep{Last: 1, Hourly: 1}
		}), steps: `
			snapshot S12 vda: web.S12 on web.S21
			drop-metadata S9
			commit vda: web.S9 into web
			redefine S20
			redefine S21
			redefine S12
			delete web.S9`},
		{name: "outside the window the snapshot is taken, merges wait", build: one(9, 10, 11), rule: closed,
			steps: `snapshot S12 vda: web.S12 on web.S11`, waiting: "window 01:00-05:00"},
		{name: "outside the window, nothing waits", build: one(11), rule: closed,
			steps: `snapshot S12 vda: web.S12 on web.S11`},
		{name: "within the window", build: one(1, 2, 3), now: hosttest.Hour(4), rule: closed, steps: `
			snapshot S4 vda: web.S4 on web.S3
			drop-metadata S1
			drop-metadata S2
			commit vda: web.S2 into web
			redefine S3
			redefine S4
			delete web.S1
			delete web.S2`},
		{name: "room for one more layer: the snapshot comes first", build: one(9, 10, 11),
			rule: with(rule(2), func(r *policy.Rule) { r.MaxChain = 5 }), steps: `
			snapshot S12 vda: web.S12 on web.S11
			drop-metadata S9
			drop-metadata S10
			commit vda: web.S10 into web
			redefine S11
			redefine S12
			delete web.S9
			delete web.S10`},
		{name: "the chain is full: merges come first", build: one(9, 10, 11),
			rule: with(rule(2), func(r *policy.Rule) { r.MaxChain = 4 }), steps: `
			drop-metadata S9
			drop-metadata S10
			commit vda: web.S10 into web
			redefine S11
			delete web.S9
			delete web.S10
			snapshot S12 vda: web.S12 on web.S11`},
	}
	for _, s := range shapes {
		t.Run(s.name, s.check)
	}
}

// Merging does not help: what can be merged is, the snapshot is refused.
func TestAFullChainRefusesTheSnapshotAlone(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := with(rule(3), func(r *policy.Rule) { r.MaxChain = 3 })
	want := `
		drop-metadata S9
		commit vda: web.S9 into web
		redefine S10
		redefine S11
		delete web.S9`
	for _, p := range []decide.Plan{planOf(h, t, rotator(h, r), "web"), runAll(h, t, rotator(h, r))["web"]} {
		wantSteps(h, t, p, want)
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeChainLong || !strings.Contains(p.Refused[0].Detail, "4 layers long") {
			t.Errorf("refused: %+v", p.Refused)
		}
	}
	checkDone(h, t)
}

func TestAWindowThatIsClosedStillFinishesInterruptedWork(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	dieAt(h, rotator(h, rule(2)), "after merge")
	r := rotator(h, with(rule(2), func(r *policy.Rule) { r.Window = policy.Window{Start: 60, End: 300} }))
	r.Options = coalesce()
	runAll(h, t, r)
	checkDone(h, t)
}

func TestQuiesce(t *testing.T) {
	cases := []struct {
		name        string
		quiesce     policy.Quiesce
		agent, mute bool
		state       host.State
		failed      bool // the snapshot is not taken
		asked       bool // the guest is asked to freeze
	}{
		{name: "auto without agent", quiesce: policy.QuiesceAuto},
		{name: "auto with agent", quiesce: policy.QuiesceAuto, agent: true, asked: true},
		{name: "auto with an agent that does not answer", quiesce: policy.QuiesceAuto, agent: true, mute: true, asked: true},
		{name: "auto, paused", quiesce: policy.QuiesceAuto, agent: true, state: host.Paused},
		{name: "yes with agent", quiesce: policy.QuiesceYes, agent: true, asked: true},
		{name: "yes without agent", quiesce: policy.QuiesceYes, failed: true},
		{name: "yes with an agent that does not answer", quiesce: policy.QuiesceYes, agent: true, mute: true, failed: true, asked: true},
		{name: "no", quiesce: policy.QuiesceNo, agent: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one()(h, web)
			web.Agent, web.Mute = c.agent, c.mute
			if c.state != "" {
				web.State = c.state
			}
			asked, warned := false, false
			h.Event = func(what string) error { asked = asked || what == "call quiesced snapshot"; return nil }
			r := rotator(h, with(rule(2), func(r *policy.Rule) { r.Quiesce = c.quiesce }))
			r.Report = func(e Event) { warned = warned || e.Kind == EventWarning }
			p := runAll(h, t, r)["web"]
			if failed := len(web.Snapshots) == 0; failed != c.failed || asked != c.asked {
				t.Errorf("failed %v, asked %v: %+v", failed, asked, p)
			}
			if c.mute && h.Thawed == 0 || c.mute && !c.failed && !warned {
				t.Error("a guest that may be frozen was not thawed, or nobody was told")
			}
			checkDone(h, t)
		})
	}
}

func TestNamesThatAreTakenGetANumber(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	hosttest.Must(os.WriteFile(h.Img("web."+hosttest.Name(12)+".qcow2"), nil, 0o600))
	h.Foreign(web, hosttest.Name(12)+"_1", 5)
	p := planOf(h, t, rotator(h, rule(2)), "web")
	if len(p.Steps) != 1 || p.Steps[0].Snapshot != hosttest.Name(12)+"_2" || filepath.Base(p.Steps[0].Path) != "web."+hosttest.Name(12)+"_2.qcow2" {
		t.Errorf("steps: %v %+v", lines(h, t, p.Steps), p.Refused)
	}
}

func TestStems(t *testing.T) {
	shapes := []shape{
		{name: "two disks of one name", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "disk.qcow2")
			h.Disk(web, "vdb", "disk.raw")
			h.Disk(web, "vdc", "data.qcow2")
		}, steps: `
			snapshot S12 vda: disk.vda.S12 on disk
			snapshot S12 vdb: disk.vdb.S12 on disk.raw
			snapshot S12 vdc: data.S12 on data`},
		{name: "no extension", build: func(h *hosttest.Host, web *hosttest.Domain) { h.Disk(web, "vda", "web") },
			steps: `snapshot S12 vda: web.S12 on web`},
		{name: "nothing but an extension", build: func(h *hosttest.Host, web *hosttest.Domain) { h.Disk(web, "vda", ".qcow2") },
			steps: `snapshot S12 vda: .S12 on`}, // brief leaves .qcow2 out
		{name: "the domain's own image above a golden one", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
			h.Take(web, []int{10})
		}, steps: `snapshot S12 vda: web.S12 on web.S10`},
	}
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			h := s.host(t)
			p := planOf(h, t, rotator(h, s.rule), "web")
			wantSteps(h, t, p, s.steps)
			runAll(h, t, rotator(h, s.rule))
			checkDone(h, t)
		})
	}
}

func TestOverlaysGoIntoTheDirectoryOfThePolicy(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	r := rotator(h, with(rule(1), func(r *policy.Rule) { r.OverlayDir = h.Img("fs2/") }))
	r.Observer.Scan = []string{h.Img("fs2/")}
	wantSteps(h, t, runAll(h, t, r)["web"], "snapshot S12 vda: fs2/web.S12 on web")
	h.Now = hosttest.Hour(13)
	wantSteps(h, t, runAll(h, t, r)["web"], `
		snapshot S13 vda: fs2/web.S13 on fs2/web.S12
		drop-metadata S12
		commit vda: fs2/web.S12 into web
		redefine S13
		delete fs2/web.S12`)
	checkDone(h, t)
}

func TestABlockDeviceNeedsAnOverlayDirectory(t *testing.T) {
	h := hosttest.New(t)
	one()(h, h.Add("web"))
	r := rule(2)
	_, w, err := rotator(h, r).Plan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := w.Domain("web")
	d.Disks[0].Kind, d.Disks[0].Chain[0].Kind = "block", "block"
	p := decide.Decide(w, d, r, hosttest.Hour(12), decide.Options{})
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeOverlayDir || p.Refused[0].Path != h.Img("web.qcow2") {
		t.Errorf("refused: %+v", p.Refused)
	}
	r.OverlayDir = filepath.Dir(h.Img("web.qcow2"))
	w.Dirs[r.OverlayDir] = 1
	p = decide.Decide(w, d, r, hosttest.Hour(12), decide.Options{})
	wantSteps(h, t, p, "snapshot S12 vda: web.S12 on web")
}

// An overlay is expected to grow as the one before it did.
func TestTheForecastOfAnOverlayIsTheLastOnesSize(t *testing.T) {
	h := hosttest.New(t)
	one(11)(h, h.Add("web"))
	r := rule(2)
	_, w, err := rotator(h, r).Plan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Domain("web").Disks[0].Active().Allocated = 3 << 30
	w.Spaces[1] = vfs.Space{FS: 1, Total: 4 << 30, Free: 4 << 30}
	if p := decide.Decide(w, w.Domain("web"), r, hosttest.Hour(12), decide.Options{}); len(p.Steps) != 1 || p.Steps[0].Bytes != 3<<30 {
		t.Errorf("%+v", p)
	}
	r.MinFree = policy.MinFree{Percent: 50}
	if p := decide.Decide(w, w.Domain("web"), r, hosttest.Hour(12), decide.Options{}); len(p.Refused) != 1 ||
		!strings.Contains(p.Refused[0].Detail, "can need 3.0 GiB: of 4.0 GiB free on its file system, min_free = 50% keeps 2.0 GiB") {
		t.Errorf("%+v", p)
	}
}

func TestAGuestThatIsShutOffIsSkipped(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	web.State, web.Cut = host.ShutOff, true
	skip := with(rule(1), func(r *policy.Rule) { r.Offline = policy.OfflineSkip })
	for _, p := range []decide.Plan{planOf(h, t, rotator(h, skip), "web"), runAll(h, t, rotator(h, skip))["web"]} {
		if p.Result != decide.ResultSkipped || len(p.Steps) != 0 || !strings.Contains(p.Waiting, "shut off") {
			t.Errorf("%+v", p)
		}
	}
}

func TestLeftoversOfAGuestThatIsShutOffAreMended(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	dieAt(h, r, "after merge")
	web.State, web.Cut = host.ShutOff, true
	skip := with(rule(2), func(r *policy.Rule) { r.Offline = policy.OfflineSkip })
	wantSteps(h, t, runAll(h, t, rotator(h, skip))["web"], `
		redefine S10
		redefine S11
		delete web.S9`)
	checkDone(h, t)
}
