package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A hookLog is what happens to domains, hooks and changes of the host, in order.
type hookLog struct {
	mu    sync.Mutex
	lines []string
	hooks []decide.Hook
}

func (l *hookLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// hooked keeps the last two snapshots, and has all three hooks.
func hooked() *policy.Rule {
	return with(rule(2), func(r *policy.Rule) {
		r.Hooks = policy.Hooks{Before: []string{"/before", "arg"}, After: []string{"/after"}, Failed: []string{"/failed"}, Timeout: 7}
	})
}

// watch notes hooks and what changes the host. do is what the hooks do.
func watch(h *hosttest.Host, r *Rotator, do func(ctx context.Context, k decide.Hook) error) *hookLog {
	l := &hookLog{}
	r.Hook = func(ctx context.Context, k decide.Hook) error {
		l.add(string(k.When) + " " + k.Env["VIRT_ROTATE_DOMAIN"])
		l.mu.Lock()
		l.hooks = append(l.hooks, k)
		l.mu.Unlock()
		if do == nil {
			return nil
		}
		return do(ctx, k)
	}
	before := h.Event
	h.Event = func(what string) error {
		if call, ok := strings.CutPrefix(what, "call "); ok && call != "domains" && call != "pools" {
			l.add(call)
		}
		return before(what)
	}
	return l
}

func TestHooksStandAroundTheSteps(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, hooked())
	l := watch(h, r, nil)
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultDone || len(p.Steps) == 0 || len(p.Warnings) > 0 {
		t.Fatalf("%+v", p)
	}
	n := len(l.lines)
	if l.lines[0] != "before web" || l.lines[n-1] != "after web" || !slices.Contains(l.lines, "snapshot") || !slices.Contains(l.lines, "merge") {
		t.Errorf("%q", l.lines)
	}
	if hooks := slices.DeleteFunc(slices.Clone(l.lines), func(s string) bool { return !strings.HasSuffix(s, " web") }); len(hooks) != 2 {
		t.Errorf("hooks %q", hooks)
	}
	for i, want := range []map[string]string{
		{"VIRT_ROTATE_HOOK": "before", "VIRT_ROTATE_DOMAIN": "web", "VIRT_ROTATE_UUID": "uuid-of-web", "VIRT_ROTATE_POLICY": "p",
			"VIRT_ROTATE_STATE": "running", "VIRT_ROTATE_STEPS": "snapshot drop-metadata merge redefine delete-file"},
		{"VIRT_ROTATE_HOOK": "after", "VIRT_ROTATE_RESULT": "done", "VIRT_ROTATE_ERROR": "", "VIRT_ROTATE_SNAPSHOT": hosttest.Name(12),
			"VIRT_ROTATE_MERGED_BYTES": fmt.Sprint(p.Ran.Merged), "VIRT_ROTATE_FREED_BYTES": fmt.Sprint(p.Ran.Freed),
			"VIRT_ROTATE_STEPS": "snapshot drop-metadata merge redefine delete-file"},
	} {
		for key, value := range want {
			if got := l.hooks[i].Env[key]; got != value {
				t.Errorf("%s of %s: %q, want %q", key, l.hooks[i].When, got, value)
			}
		}
	}
	if k := l.hooks[0]; !slices.Equal(k.Command, []string{"/before", "arg"}) || k.Timeout != 7 {
		t.Errorf("%+v", k)
	}
	l.lines = nil
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultNothing || len(l.lines) > 0 || len(p.Hooks) > 0 {
		t.Errorf("with nothing to do: %q %+v", l.lines, p)
	}
	checkDone(h, t)
}

func TestABeforeHookThatFailsLeavesItsDomainUntouched(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	db := h.Add("db")
	h.Disk(db, "vda", "db.qcow2")
	h.Take(db, []int{9, 10, 11})
	chain, snaps := fmt.Sprint(h.Find("web").Disks), fmt.Sprint(h.Find("web").Snapshots)
	r := rotator(h, hooked())
	watch(h, r, func(_ context.Context, k decide.Hook) error {
		if k.When == decide.Before && k.Env["VIRT_ROTATE_DOMAIN"] == "web" {
			k.Output("the database does not answer")
			return errors.New("exit status 3")
		}
		return nil
	})
	var said []string
	r.Report = func(e Event) {
		if e.Kind == EventOutput {
			said = append(said, e.Domain+": "+e.Text)
		}
	}
	plans := runAll(h, t, r)
	web := plans["web"]
	if web.Result != decide.ResultRefused || len(web.Steps) > 0 || len(web.Refused) != 1 || web.Refused[0].Code != host.CodeHook || web.Refused[0].Path != "/before" ||
		!strings.Contains(web.Refused[0].Detail, "exit status 3 (its last words: the database does not answer)") {
		t.Errorf("%+v", web)
	}
	if !slices.Equal(said, []string{"web: before hook: the database does not answer"}) {
		t.Errorf("said %q", said)
	}
	if len(web.Hooks) != 2 || web.Hooks[0].Error == "" || web.Hooks[1].When != decide.Failed || web.Hooks[1].Error != "" {
		t.Errorf("hooks %+v", web.Hooks)
	}
	if now := fmt.Sprint(h.Find("web").Disks); now != chain {
		t.Errorf("the chain was %s, is %s", chain, now)
	}
	if now := fmt.Sprint(h.Find("web").Snapshots); now != snaps {
		t.Errorf("the snapshots were %s, are %s", snaps, now)
	}
	if intents, err := journal.In(r.Observer.StateDir).Load(); err != nil || len(intents) > 0 {
		t.Errorf("intents %v, %v", intents, err)
	}
	if plans["db"].Result != decide.ResultDone {
		t.Errorf("the other domain: %+v", plans["db"])
	}
	checkData(h, t)
}

func TestTheFailedHookIsToldOfFailuresAndRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		build  func(h *hosttest.Host, web *hosttest.Domain)
		event  string // the call that fails
		hooks  []string
		result string
		told   string
	}{
		{"a step fails", one(9, 10, 11), "call merge", []string{"before web", "failed web"}, decide.ResultFailed, errSim.Error()},
		{"refused", func(h *hosttest.Host, web *hosttest.Domain) { one(9, 10, 11)(h, web); web.ManagedSave = true }, "", []string{"failed web"}, decide.ResultRefused, "refused (managed-save)"},
		{"a failure before any step", func(h *hosttest.Host, web *hosttest.Domain) { one(9)(h, web); web.BeyondUs = true }, "call snapshot", []string{"before web", "failed web"}, decide.ResultFailed, errSim.Error()},
	} {
		h := hosttest.New(t)
		c.build(h, h.Add("web"))
		h.Event = func(what string) error {
			if what == c.event {
				return errSim
			}
			return nil
		}
		r := rotator(h, hooked())
		l := watch(h, r, nil)
		p := runAll(h, t, r)["web"]
		hooks := slices.DeleteFunc(l.lines, func(s string) bool { return !strings.HasSuffix(s, " web") })
		if p.Result != c.result || !slices.Equal(hooks, c.hooks) {
			t.Errorf("%s: %s, hooks %q", c.name, p.Result, hooks)
			continue
		}
		if env := l.hooks[len(l.hooks)-1].Env; env["VIRT_ROTATE_RESULT"] != c.result || !strings.Contains(env["VIRT_ROTATE_ERROR"], c.told) {
			t.Errorf("%s: %q", c.name, env)
		}
	}
}

func TestAnAfterHookThatFailsIsAWarning(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, hooked())
	l := watch(h, r, func(_ context.Context, k decide.Hook) error {
		if k.When == decide.After {
			return errors.New("exit status 1")
		}
		return nil
	})
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultDone || len(p.Warnings) != 1 || p.Warnings[0] != "the after hook failed: exit status 1" || len(p.Refused) > 0 {
		t.Errorf("%+v", p)
	}
	if slices.Contains(l.lines, "failed web") {
		t.Errorf("%q", l.lines)
	}
}

// Once before was started, the run's end is told even when the run is interrupted; what was
// not begun has nothing to tell.
func TestAnInterruptedRunEndsWhatItBegan(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, hooked())
	ctx, cancel := context.WithCancel(t.Context())
	h.Event = func(what string) error {
		if what == "call merge" {
			cancel()
		}
		return nil
	}
	l := watch(h, r, func(ctx context.Context, k decide.Hook) error {
		if k.When != decide.Before && ctx.Err() != nil {
			t.Error("the last hook has a context that is over")
		}
		return nil
	})
	plans, err := r.Run(ctx, nil)
	if err != nil || plans[0].Result != decide.ResultCanceled || l.lines[len(l.lines)-1] != "failed web" {
		t.Errorf("%v %+v %q", err, plans, l.lines)
	}
	if env := l.hooks[1].Env; env["VIRT_ROTATE_RESULT"] != decide.ResultCanceled {
		t.Errorf("%q", env)
	}
}

func TestWhichHookEndsTheWork(t *testing.T) {
	refused := []decide.Refusal{{Code: host.CodeNoSpace}}
	for _, c := range []struct {
		p     decide.Plan
		begun bool
		want  decide.When
	}{
		{decide.Plan{Result: decide.ResultNothing}, false, ""},
		{decide.Plan{Result: decide.ResultSkipped}, false, ""},
		{decide.Plan{Result: decide.ResultNothing}, true, decide.After},
		{decide.Plan{Result: decide.ResultDone}, true, decide.After},
		{decide.Plan{Result: decide.ResultPlanned}, true, decide.After},
		{decide.Plan{Result: decide.ResultPartly, Refused: refused}, true, decide.Failed},
		{decide.Plan{Result: decide.ResultRefused, Refused: refused}, false, decide.Failed},
		{decide.Plan{Result: decide.ResultFailed}, false, decide.Failed},
		{decide.Plan{Result: decide.ResultCanceled}, true, decide.Failed},
		{decide.Plan{Result: decide.ResultCanceled}, false, ""},
		{decide.Plan{Result: decide.ResultCanceled, Refused: refused}, false, ""},
	} {
		if got := lastWhen(&c.p, c.begun); got != c.want {
			t.Errorf("%s, begun %t: %q, want %q", c.p.Result, c.begun, got, c.want)
		}
	}
}

// A hook may take hours: what was planned before it counts no more.
func TestAfterTheBeforeHookAllIsDecidedAnew(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, hooked())
	l := watch(h, r, func(_ context.Context, k decide.Hook) error {
		if k.When == decide.Before {
			h.Mu.Lock()
			defer h.Mu.Unlock()
			web.ManagedSave = true
		}
		return nil
	})
	p := runAll(h, t, r)["web"]
	if want := []string{"before web", "failed web"}; p.Result != decide.ResultRefused || len(p.Steps) > 0 || !slices.Equal(l.lines, want) {
		t.Errorf("%+v %q", p, l.lines)
	}
}

func TestAPlanTellsItsHooksAndRunsNone(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, hooked())
	l := watch(h, r, nil)
	p := planOf(h, t, r, "web")
	if len(l.lines) > 0 || len(p.Hooks) != 2 || p.Hooks[0].When != decide.Before || p.Hooks[1].When != decide.After || p.Hooks[1].Command[0] != "/after" {
		t.Errorf("%q %+v", l.lines, p.Hooks)
	}
	h.Find("web").ManagedSave = true
	if p = planOf(h, t, r, "web"); len(l.lines) > 0 || len(p.Hooks) != 1 || p.Hooks[0].When != decide.Failed {
		t.Errorf("refused: %q %+v", l.lines, p.Hooks)
	}
}
