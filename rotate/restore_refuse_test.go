package rotate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// refusedRestores are all the reasons for which a domain does not go back to its snapshot
// of 9 o'clock, but that its guest runs.
var refusedRestores = map[string]struct {
	spoil func(h *hosttest.Host, web *hosttest.Domain)
	o     decide.RestoreOptions
	code  string
}{
	"managed save":  {func(_ *hosttest.Host, web *hosttest.Domain) { web.ManagedSave = true }, decide.RestoreOptions{}, host.CodeManagedSave},
	"a foreign one": {func(h *hosttest.Host, web *hosttest.Domain) { h.Foreign(web, "mine", 11) }, decide.RestoreOptions{DiscardNewer: true}, host.CodeForeign},
	"corrupt": {func(h *hosttest.Host, web *hosttest.Domain) {
		h.Change(web.Disks[0].Chain[0].Path, func(i *hosttest.Image) { i.Corrupt = true })
	}, decide.RestoreOptions{}, host.CodeCorrupt},
	"no room":                 {func(h *hosttest.Host, _ *hosttest.Domain) { full(h) }, decide.RestoreOptions{DiscardNewer: true}, host.CodeNoSpace},
	"no room for the present": {func(h *hosttest.Host, _ *hosttest.Domain) { full(h) }, decide.RestoreOptions{}, host.CodeNoSpace},
	"a half-run run": {func(h *hosttest.Host, web *hosttest.Domain) {
		hosttest.Must(journal.In(h.Dir + "/state").Write(journal.Intent{Domain: "web", UUID: web.UUID}))
	}, decide.RestoreOptions{}, host.CodeIntent},
	"metadata beyond us":          {func(_ *hosttest.Host, web *hosttest.Domain) { web.BeyondUs = true }, decide.RestoreOptions{}, host.CodeMetadata},
	"configuration beyond us":     {func(_ *hosttest.Host, web *hosttest.Domain) { web.Oddities = "configuration" }, decide.RestoreOptions{}, host.CodeMetadata},
	"its configuration beyond us": {func(_ *hosttest.Host, web *hosttest.Domain) { web.Oddities = hosttest.Name(9) }, decide.RestoreOptions{WithConfig: true}, host.CodeMetadata},
	"no disk of it is left": {func(h *hosttest.Host, web *hosttest.Domain) {
		web.Disks = nil
		h.Disk(web, "vdx", "new.qcow2")
	}, decide.RestoreOptions{}, host.CodeNoDisk},
	"a disk of the configuration is gone": {func(h *hosttest.Host, web *hosttest.Domain) {
		web.Snapshots[0].Disks = append(web.Snapshots[0].Disks, host.SnapshotDisk{Target: "vdq"})
	}, decide.RestoreOptions{WithConfig: true}, host.CodeNoDisk},
	"its state is in no chain, and of no known format": {func(h *hosttest.Host, web *hosttest.Domain) {
		web.Disks = nil
		h.Disk(web, "vda", "new.qcow2")
	}, decide.RestoreOptions{}, host.CodeFormat},
	"moved states": {func(h *hosttest.Host, web *hosttest.Domain) {
		h.Create("old.qcow2", nil)
		web.Snapshots[1].Disks[0].State = []string{h.Img("old.qcow2")}
	}, decide.RestoreOptions{}, host.CodeStale},
	"a job of somebody else": {func(h *hosttest.Host, web *hosttest.Domain) {
		h.Jobs["web/vda"] = &hosttest.Job{}
	}, decide.RestoreOptions{}, host.CodeBlockJob},
	"an unknown state": {func(_ *hosttest.Host, web *hosttest.Domain) { web.State = "migrating" }, decide.RestoreOptions{}, host.CodeState},
	"a shared disk": {func(h *hosttest.Host, web *hosttest.Domain) {
		h.Disk(h.Add("other"), "vda", "web.qcow2", "web."+hosttest.Name(9)+".qcow2", "web."+hosttest.Name(10)+".qcow2")
	}, decide.RestoreOptions{}, host.CodeShared},
}

func full(h *hosttest.Host) {
	h.Space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 100 << 30}, nil }
}

func hasCode(p *decide.Plan, code string) bool {
	return slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == code })
}

func TestRestoreIsRefused(t *testing.T) {
	for what, c := range refusedRestores {
		h, web := off(t, 9, 10)
		c.spoil(h, web)
		before := filesOf(h, t)
		p, err := rotator(h, rule(7)).Restore(t.Context(), "web", hosttest.Name(9), c.o)
		if err != nil || p.Result != decide.ResultRefused || !hasCode(&p, c.code) || len(p.Steps) > 0 || !slices.Equal(before, filesOf(h, t)) {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	h, web := off(t, 9)
	if _, err := rotator(h, rule(7)).Restore(t.Context(), "web", "nonsense", decide.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "no such snapshot") {
		t.Error(err)
	}
	web.State = host.Running
	if p, err := rotator(h, rule(7)).Restore(t.Context(), "web", hosttest.Name(9), decide.RestoreOptions{}); err != nil || !hasCode(&p, host.CodeState) {
		t.Errorf("running: %+v, %v", p, err)
	}
}

// Whatever would be refused once the guest is off is refused while it still runs, and
// nothing is changed or asked of it.
func TestARestoreThatWouldBeRefusedDoesNotStopTheGuest(t *testing.T) {
	short := with(rule(7), func(r *policy.Rule) { r.MaxChain = 2 })
	for what, c := range refusedRestores {
		for _, state := range []host.State{host.Running, host.Paused} {
			h, web := off(t, 9, 10)
			web.State, web.Cut, web.Obeys = state, false, true
			c.spoil(h, web)
			before, was := filesOf(h, t), web.State
			wontStop(h, t, what, rotator(h, rule(7)), c.o, c.code)
			if web.State != was || !slices.Equal(before, filesOf(h, t)) {
				t.Errorf("%s: the guest is %s", what, web.State)
			}
		}
	}
	h, web := off(t, 9, 10)
	web.State, web.Cut = host.Running, false
	wontStop(h, t, "a long chain", rotator(h, short), decide.RestoreOptions{}, host.CodeChainLong)
}

// wontStop wants a restore of web that stops the guest to be refused before.
func wontStop(h *hosttest.Host, t *testing.T, what string, r *Rotator, o decide.RestoreOptions, code string) {
	t.Helper()
	h.Event = func(call string) error {
		if call == "call shutdown" || call == "call redefine" || call == "call reconfigure" {
			t.Errorf("%s: %s", what, call)
		}
		return nil
	}
	o.Stop = &decide.StopOptions{Patience: time.Second}
	p, err := r.Restore(t.Context(), "web", hosttest.Name(9), o)
	if err != nil || p.Result != decide.ResultRefused || !hasCode(&p, code) || len(p.Steps) > 0 {
		t.Errorf("%s: %+v, %v", what, p, err)
	}
}

func TestARestoreStopsTheGuestAndGoesBack(t *testing.T) {
	h, web := off(t, 9, 10)
	web.State, web.Cut, web.Obeys = host.Running, false, true
	r := rotator(h, rule(7))
	stop := &decide.StopOptions{Patience: time.Second}
	before := filesOf(h, t)
	dry := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Stop: stop, Plan: true})
	if web.State != host.Running || dry.Result != decide.ResultPlanned || len(dry.Steps) != 4 || dry.Steps[0].Op != decide.OpStop || dry.Steps[3].Op != decide.OpStart || dry.State != host.Running || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("the guest is %s: %+v", web.State, dry)
	}
	web.Obeys = false
	if _, err := r.Restore(t.Context(), "web", hosttest.Name(9), decide.RestoreOptions{Stop: &decide.StopOptions{}}); err == nil || web.State != host.Running || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("the guest does not obey: %v, %s", err, web.State)
	}
	web.Obeys = true
	if p := back(t, h, r, web, hosttest.Name(9), decide.RestoreOptions{Stop: stop}); p.Result != decide.ResultDone || web.State != host.Running || len(p.Steps) != len(dry.Steps) {
		t.Errorf("%+v", p)
	}
}

// Whether the guest runs afterwards.
func TestARestoreLetsTheGuestRunAsItDid(t *testing.T) {
	stop := &decide.StopOptions{Patience: time.Second}
	for _, c := range []struct {
		name      string
		runs      bool
		o         decide.RestoreOptions
		then      host.State
		stillborn bool
	}{
		{"it ran", true, decide.RestoreOptions{Stop: stop}, host.Running, false},
		{"it ran, and is to stay off", true, decide.RestoreOptions{Stop: stop, NoStart: true}, host.ShutOff, false},
		{"it was off", false, decide.RestoreOptions{Stop: stop}, host.ShutOff, false},
		{"it was off, and is to run", false, decide.RestoreOptions{Start: true}, host.Running, false},
		{"it does not start", true, decide.RestoreOptions{Stop: stop}, host.ShutOff, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, web := off(t, 9, 10)
			if c.runs {
				web.State, web.Cut, web.Obeys = host.Running, false, true
			}
			web.DoesNotStart = c.stillborn
			p, err := rotator(h, rule(7)).Restore(t.Context(), "web", hosttest.Name(9), c.o)
			if err != nil {
				t.Fatal(err)
			}
			if web.State != c.then || (p.Error != "") != c.stillborn || c.stillborn && !strings.Contains(p.Error, "the disks are on the snapshot") {
				t.Errorf("the guest is %s: %+v", web.State, p)
			}
			checkNoIntent(h, t)
		})
	}
}

// What was planned for the running guest is no more than a promise: all is planned anew
// once it is off.
func TestARestorePlansAnewOnceTheGuestIsOff(t *testing.T) {
	h, web := off(t, 9, 10)
	web.State, web.Cut, web.Obeys = host.Running, false, true
	before := filesOf(h, t)
	h.Event = func(call string) error {
		switch call {
		case "end of shutdown":
			web.ManagedSave = true
		case "call redefine", "call reconfigure", "call snapshot":
			t.Error(call)
		}
		return nil
	}
	p, err := rotator(h, rule(7)).Restore(t.Context(), "web", hosttest.Name(9), decide.RestoreOptions{Stop: &decide.StopOptions{Patience: time.Second}})
	if err != nil || !hasCode(&p, host.CodeManagedSave) || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "was started again") || web.State != host.Running || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("%+v, %v", p, err)
	}
}
