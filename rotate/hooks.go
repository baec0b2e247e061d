package rotate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// maxHookError bounds what a hook is told of errors: an environment has no room
// for pages. In bytes.
const maxHookError = 4000

func command(rule *policy.Rule, when decide.When) []string {
	switch when {
	case decide.Before:
		return rule.Hooks.Before
	case decide.After:
		return rule.Hooks.After
	default:
		return rule.Hooks.Failed
	}
}

// plannedHooks lists the hooks that a run of the plan would start if all goes well.
func plannedHooks(rule *policy.Rule, p *decide.Plan) []decide.Hook {
	var whens []decide.When
	if len(p.Groups) > 0 {
		whens = append(whens, decide.Before)
	}
	if last := lastWhen(p, len(p.Groups) > 0); last != "" {
		whens = append(whens, last)
	}
	var hooks []decide.Hook
	for _, when := range whens {
		if argv := command(rule, when); len(argv) > 0 {
			hooks = append(hooks, decide.Hook{When: when, Command: argv})
		}
	}
	return hooks
}

// lastWhen says which hook ends the work on a domain; "" for none. Begun tells whether
// there was any: a domain whose turn had not come when the run was interrupted has
// nothing to tell.
func lastWhen(p *decide.Plan, begun bool) decide.When {
	switch {
	case p.Result == decide.ResultCanceled && !begun:
		return ""
	case p.Result == decide.ResultCanceled, p.Result == decide.ResultFailed, len(p.Refused) > 0:
		return decide.Failed
	case begun:
		return decide.After
	}
	return ""
}

// firstHook runs the hook before the first step of a domain. It tells whether one was
// run: time has gone by since the plan was made then. Where it fails, the plan
// is refused.
func (r *domainRun) firstHook(ctx context.Context, p *decide.Plan) (ran bool) {
	if r.begun {
		return false
	}
	r.begun = true
	if r.Hook == nil || len(r.rule.Hooks.Before) == 0 {
		return false
	}
	if err := r.hook(ctx, decide.Before, p); err != nil && ctx.Err() == nil {
		p.Groups = nil
		p.Refuse(host.CodeHook, r.rule.Hooks.Before[0], "nothing was changed, for the before hook failed: "+err.Error())
	}
	return true
}

// lastHook runs the hook that ends the work on a domain, also where the run has been
// told to stop: what before began may need it. An error is a warning: what
// was done is done.
func (r *domainRun) lastHook(ctx context.Context, p *decide.Plan) {
	when := lastWhen(p, r.begun)
	if r.Hook == nil || when == "" || len(command(r.rule, when)) == 0 {
		return
	}
	if err := r.hook(context.WithoutCancel(ctx), when, p); err != nil {
		r.warn(p.Domain, fmt.Sprintf("the %s hook failed: %v", when, err))
	}
}

func (r *domainRun) hook(ctx context.Context, when decide.When, p *decide.Plan) error {
	h := decide.Hook{When: when, Command: command(r.rule, when), Env: r.hookEnv(when, p), Timeout: r.rule.Hooks.Timeout}
	last := ""
	h.Output = func(line string) {
		last = line
		r.Report(Event{Kind: EventOutput, Domain: p.Domain, Text: string(when) + " hook: " + line})
	}
	err := r.Hook(ctx, h)
	if err != nil && last != "" {
		err = fmt.Errorf("%w (its last words: %s)", err, last)
	}
	if err != nil {
		h.Error = err.Error()
	}
	r.hooks = append(r.hooks, decide.Hook{When: when, Command: h.Command, Error: h.Error})
	return err
}

// hookEnv is what a hook is told. Before knows what is planned, the others what was done.
func (r *domainRun) hookEnv(when decide.When, p *decide.Plan) map[string]string {
	env := map[string]string{
		"VIRT_ROTATE_HOOK": string(when), "VIRT_ROTATE_DOMAIN": p.Domain, "VIRT_ROTATE_POLICY": p.Policy,
		"VIRT_ROTATE_STEPS": operations(p.Steps), "VIRT_ROTATE_UUID": "", "VIRT_ROTATE_STATE": "",
	}
	if d := r.w.Domain(p.Domain); d != nil {
		env["VIRT_ROTATE_UUID"], env["VIRT_ROTATE_STATE"] = d.UUID, string(d.State)
	}
	if when == decide.Before {
		return env
	}
	env["VIRT_ROTATE_RESULT"], env["VIRT_ROTATE_ERROR"] = p.Result, problems(p)
	env["VIRT_ROTATE_SNAPSHOT"] = ""
	for _, s := range p.Steps {
		if s.Op == decide.OpSnapshot {
			env["VIRT_ROTATE_SNAPSHOT"] = s.Snapshot
		}
	}
	env["VIRT_ROTATE_MERGED_BYTES"] = strconv.FormatInt(p.Ran.Merged, 10)
	env["VIRT_ROTATE_FREED_BYTES"] = strconv.FormatInt(p.Ran.Freed, 10)
	return env
}

// operations lists what kinds of steps there are, in order.
func operations(steps []decide.Step) string {
	var ops []string
	for _, s := range steps {
		if !slices.Contains(ops, string(s.Op)) {
			ops = append(ops, string(s.Op))
		}
	}
	return strings.Join(ops, " ")
}

// problems puts what went wrong into one line.
func problems(p *decide.Plan) string {
	var errs []string
	if p.Error != "" {
		errs = append(errs, p.Error)
	}
	for _, f := range p.Refused {
		errs = append(errs, fmt.Sprintf("refused (%s): %s", f.Code, f.Detail))
	}
	text := strings.Join(errs, "; ")
	return strings.ToValidUTF8(text[:min(len(text), maxHookError)], "")
}
