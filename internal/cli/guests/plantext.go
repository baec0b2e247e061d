package guests

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// plansText writes plans, or what was done of them, for people.
func plansText(plans []decide.Plan) func(io.Writer) {
	return func(w io.Writer) {
		for i := range plans {
			planText(w, &plans[i])
		}
	}
}

// runText is plansText with a line of figures where several domains were rotated.
func runText(plans []decide.Plan, sum *decide.Summary) func(io.Writer) {
	return func(w io.Writer) {
		plansText(plans)(w)
		if len(plans) > 0 && sum.Domains > 1 {
			fmt.Fprintln(w, summaryText(sum))
		}
	}
}

// briefText writes one line for each plan that was carried out.
func briefText(plans []decide.Plan) func(io.Writer) {
	return func(w io.Writer) {
		for i := range plans {
			x := entry("run", &plans[i])
			text := didText(&x)
			if text == "" {
				text = resultText(&plans[i])
			}
			fmt.Fprintf(term.At(w, levelOf(&plans[i])), "%s: %s\n", term.Printable(plans[i].Domain), text)
		}
	}
}

// levelOf is the level of what is told of a domain.
func levelOf(p *decide.Plan) term.Level {
	switch {
	case p.Result == decide.ResultFailed, p.Result == decide.ResultCanceled, len(p.Refused) > 0:
		return term.LevelErr
	case len(p.Warnings) > 0:
		return term.LevelWarning
	}
	return term.LevelInfo
}

// summaryText leaves out what there was none of.
func summaryText(s *decide.Summary) string {
	text := term.Plural(s.Domains, "domain") + ":"
	for _, part := range []struct {
		n    int
		what string
	}{{s.Done, "done"}, {s.Nothing, "nothing to do"}, {s.Refused, "refused"}, {s.Failed, "failed"}} {
		if part.n > 0 {
			text += fmt.Sprintf(" %d %s,", part.n, part.what)
		}
	}
	return text + fmt.Sprintf(" %s; %s merged, %s given back", term.Plural(s.Steps, "step"), host.Bytes(s.Merged), host.Bytes(s.Freed))
}

// standing is the policy of a domain, if one has to do with the plan, and its state.
func standing(p *decide.Plan) string {
	if p.Policy == "" {
		return string(p.State)
	}
	return fmt.Sprintf("policy %s, %s", p.Policy, p.State)
}

func planText(w io.Writer, p *decide.Plan) {
	w = term.At(w, levelOf(p))
	fmt.Fprintf(w, "%s (%s): %s\n", p.Domain, standing(p), resultText(p))
	if p.Restores != "" {
		fmt.Fprintf(w, "  %-13s  %s\n", "to", term.Printable(p.Restores))
	}
	hooksText(w, p, func(h *decide.Hook) bool { return h.When == decide.Before })
	for i := range p.Steps {
		s := &p.Steps[i]
		if i > 0 && s.Op == p.Steps[i-1].Op && s.Op == decide.OpRedefine && s.Snapshot != "" {
			continue // one line tells them all
		}
		fmt.Fprintf(w, "  %-13s  %s\n", s.Op, stepText(p.Steps[i:]))
		if (s.Op != decide.OpRedefine || s.Snapshot == "") && (i == 0 || s.Op != p.Steps[i-1].Op || s.Reason != p.Steps[i-1].Reason) {
			fmt.Fprintf(w, "  %-13s    %s\n", "", s.Reason)
		}
	}
	hooksText(w, p, func(h *decide.Hook) bool { return h.When != decide.Before })
	for _, r := range p.Refused {
		fmt.Fprintf(w, "  %-13s  %s: %s\n", "refused", refusalPlace(r), r.Detail)
	}
	for _, r := range p.Skipped {
		fmt.Fprintf(w, "  %-13s  %s: %s\n", "skipped", refusalPlace(r), r.Detail)
	}
	if p.Waiting != "" {
		fmt.Fprintf(w, "  %-13s  %s\n", "waiting", p.Waiting)
	}
	if p.Error != "" {
		fmt.Fprintf(w, "  %-13s  %s\n", "error", p.Error)
	}
	for _, text := range p.Warnings {
		fmt.Fprintf(w, "  %-13s  %s\n", "warning", text)
	}
}

// hooksText writes the hooks that which picks.
func hooksText(w io.Writer, p *decide.Plan, which func(*decide.Hook) bool) {
	for i := range p.Hooks {
		if h := &p.Hooks[i]; which(h) {
			fmt.Fprintf(w, "  %-13s  %s: %s\n", "hook", h.When, strings.Join(h.Command, " "))
		}
	}
}

func refusalPlace(r decide.Refusal) string {
	if r.Path == "" {
		return r.Code
	}
	return r.Code + ": " + r.Path
}

func resultText(p *decide.Plan) string {
	switch p.Result {
	case decide.ResultPlanned:
		return term.Plural(len(p.Steps), "step")
	case decide.ResultNothing:
		return "nothing to do"
	case decide.ResultDone:
		return term.Plural(len(p.Steps), "step") + " done"
	case decide.ResultPartly:
		return term.Plural(len(p.Steps), "step") + " done, others refused"
	}
	return p.Result
}

// stepText tells one step; for a row of redefinitions, all of them.
func stepText(steps []decide.Step) string {
	s := &steps[0]
	switch s.Op {
	case decide.OpSnapshot:
		return fmt.Sprintf("%s: %s on %s", s.Disk, filepath.Base(s.Path), filepath.Base(s.Base))
	case decide.OpMerge:
		return fmt.Sprintf("%s: %s into %s (%s, %s)", s.Disk, filepath.Base(s.From()), filepath.Base(s.Into()), s.Method, host.Bytes(s.Bytes))
	case decide.OpEndCopy:
		return s.Disk
	case decide.OpUnfold:
		return fmt.Sprintf("%s: %s%s (%s)", s.Disk, filepath.Base(s.Path), onText(s.Base), host.Bytes(s.Bytes))
	case decide.OpSwitch:
		if s.Snapshot != "" { // of a restore
			return s.Snapshot
		}
		return s.Disk + ": " + filepath.Base(s.Path) + onText(s.Base)
	case decide.OpFirmware:
		return filepath.Base(s.Path)
	case decide.OpMemory, decide.OpGoOn:
		return fmt.Sprintf("%s (%s)", filepath.Base(s.Path), host.Bytes(s.Bytes))
	case decide.OpDeleteFile:
		if s.Bytes == 0 { // gone already, or another file has the same extents
			return s.Path
		}
		return fmt.Sprintf("%s (%s)", s.Path, host.Bytes(s.Bytes))
	case decide.OpRedefine:
		if s.Snapshot == "" {
			return fmt.Sprintf("persistent configuration of %s: %s", s.Disk, s.Base)
		}
		return "metadata of " + redefinedText(steps)
	}
	return s.Snapshot
}

// redefinedText names the snapshots of a row of redefinitions, and tells why.
func redefinedText(steps []decide.Step) string {
	n := 0
	for n < len(steps) && steps[n].Op == decide.OpRedefine {
		n++
	}
	names, changed, adopted := steps[0].Snapshot, "the chain below it has changed", "libvirt lists it as an external snapshot"
	if n > 1 {
		names, changed, adopted = names+" … "+steps[n-1].Snapshot, "the chain below them has changed", "libvirt lists them as external snapshots"
	}
	switch why := steps[0].Reason; why {
	case decide.ReasonChain:
		return names + ": " + changed
	case decide.ReasonExternal:
		return names + ": " + adopted
	default:
		return names + ": " + why
	}
}

// onText names what a new layer is built on.
func onText(base string) string {
	if base == "" {
		return ""
	}
	return " on " + filepath.Base(base)
}
