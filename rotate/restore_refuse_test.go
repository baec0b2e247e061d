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
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// refusedRestores are all the reasons for which a domain does not go back to its snapshot
// of 9 o'clock, but that its guest runs.
var refusedRestores = map[string]struct {
	spoil func(h *simHost, web *simDomain)
	o     decide.RestoreOptions
	code  string
}{
	"managed save":  {func(_ *simHost, web *simDomain) { web.ManagedSave = true }, decide.RestoreOptions{}, host.CodeManagedSave},
	"a foreign one": {func(h *simHost, web *simDomain) { h.foreign(web, "mine", 11) }, decide.RestoreOptions{DiscardNewer: true}, host.CodeForeign},
	"corrupt": {func(h *simHost, web *simDomain) {
		h.change(web.Disks[0].Chain[0].Path, func(i *simImage) { i.Corrupt = true })
	}, decide.RestoreOptions{}, host.CodeCorrupt},
	"no room":                 {func(h *simHost, _ *simDomain) { full(h) }, decide.RestoreOptions{DiscardNewer: true}, host.CodeNoSpace},
	"no room for the present": {func(h *simHost, _ *simDomain) { full(h) }, decide.RestoreOptions{}, host.CodeNoSpace},
	"a half-run run": {func(h *simHost, web *simDomain) {
		must(journal.In(h.dir + "/state").Write(journal.Intent{Domain: "web", UUID: web.UUID}))
	}, decide.RestoreOptions{}, host.CodeIntent},
	"metadata beyond us":          {func(_ *simHost, web *simDomain) { web.beyondUs = true }, decide.RestoreOptions{}, host.CodeMetadata},
	"configuration beyond us":     {func(_ *simHost, web *simDomain) { web.oddities = "configuration" }, decide.RestoreOptions{}, host.CodeMetadata},
	"its configuration beyond us": {func(_ *simHost, web *simDomain) { web.oddities = name(9) }, decide.RestoreOptions{WithConfig: true}, host.CodeMetadata},
	"no disk of it is left": {func(h *simHost, web *simDomain) {
		web.Disks = nil
		h.disk(web, "vdx", "new.qcow2")
	}, decide.RestoreOptions{}, host.CodeNoDisk},
	"a disk of the configuration is gone": {func(h *simHost, web *simDomain) {
		web.Snapshots[0].Disks = append(web.Snapshots[0].Disks, host.SnapshotDisk{Target: "vdq"})
	}, decide.RestoreOptions{WithConfig: true}, host.CodeNoDisk},
	"its state is in no chain, and of no known format": {func(h *simHost, web *simDomain) {
		web.Disks = nil
		h.disk(web, "vda", "new.qcow2")
	}, decide.RestoreOptions{}, host.CodeFormat},
	"moved states": {func(h *simHost, web *simDomain) {
		h.create("old.qcow2", nil)
		web.Snapshots[1].Disks[0].State = []string{h.img("old.qcow2")}
	}, decide.RestoreOptions{}, host.CodeStale},
	"a job of somebody else": {func(h *simHost, web *simDomain) {
		h.jobs["web/vda"] = &simJob{}
	}, decide.RestoreOptions{}, host.CodeBlockJob},
	"an unknown state": {func(_ *simHost, web *simDomain) { web.State = "migrating" }, decide.RestoreOptions{}, host.CodeState},
	"a shared disk": {func(h *simHost, web *simDomain) {
		h.disk(h.add("other"), "vda", "web.qcow2", "web."+name(9)+".qcow2", "web."+name(10)+".qcow2")
	}, decide.RestoreOptions{}, host.CodeShared},
}

func full(h *simHost) {
	h.space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 100 << 30}, nil }
}

func hasCode(p *decide.Plan, code string) bool {
	return slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == code })
}

func TestRestoreIsRefused(t *testing.T) {
	for what, c := range refusedRestores {
		h, web := off(t, 9, 10)
		c.spoil(h, web)
		before := filesOf(h, t)
		p, err := rotator(h, rule(7)).Restore(t.Context(), "web", name(9), c.o)
		if err != nil || p.Result != decide.ResultRefused || !hasCode(&p, c.code) || len(p.Steps) > 0 || !slices.Equal(before, filesOf(h, t)) {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	h, web := off(t, 9)
	if _, err := rotator(h, rule(7)).Restore(t.Context(), "web", "nonsense", decide.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "no such snapshot") {
		t.Error(err)
	}
	web.State = host.Running
	if p, err := rotator(h, rule(7)).Restore(t.Context(), "web", name(9), decide.RestoreOptions{}); err != nil || !hasCode(&p, host.CodeState) {
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
			web.State, web.cut, web.obeys = state, false, true
			c.spoil(h, web)
			before, was := filesOf(h, t), web.State
			wontStop(h, t, what, rotator(h, rule(7)), c.o, c.code)
			if web.State != was || !slices.Equal(before, filesOf(h, t)) {
				t.Errorf("%s: the guest is %s", what, web.State)
			}
		}
	}
	h, web := off(t, 9, 10)
	web.State, web.cut = host.Running, false
	wontStop(h, t, "a long chain", rotator(h, short), decide.RestoreOptions{}, host.CodeChainLong)
}

// wontStop wants a restore of web that stops the guest to be refused before.
func wontStop(h *simHost, t *testing.T, what string, r *Rotator, o decide.RestoreOptions, code string) {
	t.Helper()
	h.event = func(call string) error {
		if call == "call shutdown" || call == "call redefine" || call == "call reconfigure" {
			t.Errorf("%s: %s", what, call)
		}
		return nil
	}
	o.Stop = &decide.StopOptions{Patience: time.Second}
	p, err := r.Restore(t.Context(), "web", name(9), o)
	if err != nil || p.Result != decide.ResultRefused || !hasCode(&p, code) || len(p.Steps) > 0 {
		t.Errorf("%s: %+v, %v", what, p, err)
	}
}

func TestARestoreStopsTheGuestAndGoesBack(t *testing.T) {
	h, web := off(t, 9, 10)
	web.State, web.cut, web.obeys = host.Running, false, true
	r := rotator(h, rule(7))
	stop := &decide.StopOptions{Patience: time.Second}
	before := filesOf(h, t)
	dry := back(t, h, r, web, name(9), decide.RestoreOptions{Stop: stop, Plan: true})
	if web.State != host.Running || dry.Result != decide.ResultPlanned || len(dry.Steps) != 2 || dry.State != host.Running || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("the guest is %s: %+v", web.State, dry)
	}
	web.obeys = false
	if _, err := r.Restore(t.Context(), "web", name(9), decide.RestoreOptions{Stop: &decide.StopOptions{}}); err == nil || web.State != host.Running || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("the guest does not obey: %v, %s", err, web.State)
	}
	web.obeys = true
	if p := back(t, h, r, web, name(9), decide.RestoreOptions{Stop: stop}); p.Result != decide.ResultDone || web.State != host.ShutOff || len(p.Steps) != len(dry.Steps) {
		t.Errorf("%+v", p)
	}
}

// What was planned for the running guest is no more than a promise: all is planned anew
// once it is off.
func TestARestorePlansAnewOnceTheGuestIsOff(t *testing.T) {
	h, web := off(t, 9, 10)
	web.State, web.cut, web.obeys = host.Running, false, true
	before := filesOf(h, t)
	h.event = func(call string) error {
		switch call {
		case "end of shutdown":
			web.ManagedSave = true
		case "call redefine", "call reconfigure", "call snapshot":
			t.Error(call)
		}
		return nil
	}
	p, err := rotator(h, rule(7)).Restore(t.Context(), "web", name(9), decide.RestoreOptions{Stop: &decide.StopOptions{Patience: time.Second}})
	if err != nil || !hasCode(&p, host.CodeManagedSave) || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "is off now") || !slices.Equal(before, filesOf(h, t)) {
		t.Errorf("%+v, %v", p, err)
	}
}
