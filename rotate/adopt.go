package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// Internal snapshots become layers in two halves. In the first, files are made beside the
// images, which nobody may write to meanwhile; whatever happens, they can go. It ends with one
// definition of the domain, which puts all its disks on the new layers. In the second, the
// metadata of one snapshot after the other is replaced; whatever happens, that goes on. The
// images stay as they were.

// An adopt carries an Adoption out.
type adopt struct {
	*domainRun
	plan *decide.Adoption
	in   journal.Intent
	step int // of the plan, that is at work
}

// Adopt makes layers of the internal snapshots of a domain, or finishes that. The caller holds
// the Lock.
func (r *Rotator) Adopt(ctx context.Context, domain string, o decide.AdoptOptions) (decide.Plan, error) {
	s, err := r.newAdopt(ctx, domain, o.Plan)
	if err != nil {
		return decide.Plan{}, err
	}
	d := s.w.Domain(domain)
	p := decide.Plan{Domain: d.Name, Policy: s.rule.Name, State: d.State, Steps: []decide.Step{}, Refused: []decide.Refusal{}}
	if in := s.w.Intents[d.UUID]; in != nil && in.Adoption != nil {
		s.in = *in
		if in.Adoption.Switched(d) {
			return s.finishSwitched(ctx, p, o), nil
		}
		err := s.unmakeEarlier(ctx, domain, o)
		if s.w.Domain(domain) == nil {
			err = errors.Join(err, errGone)
		}
		if err != nil {
			return s.ended(ctx, s.finish(ctx, p, err)), nil
		}
	}
	p = s.decide(ctx, domain, o)
	if len(p.Refused) > 0 || o.Plan || len(p.Steps) == 0 {
		p.Settle()
		return p, nil
	}
	s.warnings = p.Warnings
	p = s.run(ctx, p)
	s.leaveChanged(ctx, domain)
	r.tellChanged(ctx, p.Steps)
	_ = s.look(context.WithoutCancel(ctx), domain, maxAge) // only for what is told of the chains: an error leaves the last view
	return s.ended(ctx, p), nil
}

func (r *Rotator) newAdopt(ctx context.Context, domain string, plan bool) (*adopt, error) {
	seen := r.Clock()
	w, err := r.observe(ctx, domain, plan)
	if err != nil {
		return nil, err
	}
	if w.Domain(domain) == nil {
		return nil, w.NoSuchDomain(domain)
	}
	rule := decide.RuleOr(r.Match(decide.Guests(w)), domain)
	run := &domainRun{Rotator: r, rule: rule, w: w, seen: seen, o: decide.Options{Reserved: &decide.Reservations{}}, start: seen}
	return &adopt{domainRun: run, step: -1}, nil
}

// unmakeEarlier removes what an adoption has made that was interrupted in its first half.
func (s *adopt) unmakeEarlier(ctx context.Context, domain string, o decide.AdoptOptions) error {
	if o.Plan {
		s.warn(domain, "an adoption of "+s.in.Started.Format("2006-01-02 15:04:05")+" was interrupted: what it has made is removed first")
		return nil
	}
	if err := s.unmake(ctx, domain); err != nil {
		return err
	}
	return s.look(ctx, domain, 0)
}

// decide plans, and rehearses what is to be written into libvirt's records.
func (s *adopt) decide(ctx context.Context, domain string, o decide.AdoptOptions) decide.Plan {
	d := s.w.Domain(domain)
	states, unread := s.states(ctx, d)
	s.plan = s.ask(d).Adopt(states, unread, o)
	p := &s.plan.Plan
	if len(p.Refused) > 0 || len(p.Steps) == 0 {
		return *p
	}
	all, err := s.Host.Externals(ctx, domain, s.plan.Snapshots)
	if err != nil {
		p.Refuse(host.CodeMetadata, "", "the snapshots' metadata could not be brought in order: "+err.Error())
	}
	if err := s.Host.RehearseConfig(ctx, domain, ""); err != nil {
		p.Refuse(host.CodeMetadata, "", "the configuration that the domain is to start from could not be written: "+err.Error())
	}
	s.in = journal.Intent{Domain: d.Name, UUID: d.UUID, Started: s.Clock(), Adoption: &journal.Adoption{Snapshots: all}}
	if len(p.Refused) > 0 {
		p.Steps = []decide.Step{}
	}
	p.Warnings = append(s.warnings, p.Warnings...)
	return *p
}

// states reads what is inside the images, of a guest that is off.
func (s *adopt) states(ctx context.Context, d *host.Domain) (map[string][]host.InternalState, []decide.Refusal) {
	states, unread := map[string][]host.InternalState{}, []decide.Refusal(nil)
	for target, chain := range decide.WithInternal(d) {
		states[target] = []host.InternalState{}
		if d.State.Live() {
			continue
		}
		found, err := s.Engine.States(ctx, chain)
		var busy *vfs.BusyError
		switch {
		case errors.As(err, &busy):
			unread = append(unread, decide.Refusal{Code: host.CodeInUse, Path: busy.Path, Detail: "a process has the image open: " + err.Error()})
		case err != nil:
			unread = append(unread, decide.Refusal{Code: host.CodeUnreadable, Path: chain[len(chain)-1].Path, Detail: "its internal snapshots could not be read: " + err.Error()})
		default:
			states[target] = found
		}
	}
	return states, unread
}

// run carries the plan out.
func (s *adopt) run(ctx context.Context, p decide.Plan) decide.Plan {
	err := s.makeFiles()
	if err == nil {
		err = s.changing().Unfold(ctx, s.unfolds(), s.progress(p), func() error { return s.switchOver(context.WithoutCancel(ctx), &p) })
	}
	if err != nil {
		return s.finish(ctx, p, errors.Join(err, s.unmake(ctx, p.Domain)))
	}
	err = s.replaceAll(context.WithoutCancel(ctx), p.Domain)
	return s.finish(ctx, p, err)
}

// unfolds are the plan as the engine takes it.
func (s *adopt) unfolds() (all []engine.Unfold) {
	for i := range s.plan.Disks {
		d := &s.plan.Disks[i]
		u := engine.Unfold{Chain: d.Chain}
		for _, l := range d.Layers {
			u.Layers = append(u.Layers, engine.Unfolded{ID: l.ID, Name: l.Name, On: l.On, Path: l.Path, Memory: l.Memory})
		}
		all = append(all, u)
	}
	return all
}

// progress tells of the layers as they are made.
func (s *adopt) progress(p decide.Plan) engine.Progress {
	return func(what, path string, done, total int64) {
		i := slices.IndexFunc(p.Steps, func(step decide.Step) bool { return step.Op == decide.OpUnfold && step.Path == path })
		if i > s.step {
			s.endStep(p)
			s.step = i
			s.starts(p.Domain, p.Steps[i])
		}
		s.Report(Event{Kind: EventProgress, Domain: p.Domain, Step: p.Steps[max(i, s.step)], Done: done, Total: total, Text: what})
	}
}

// endStep notes that the layer at work is made.
func (s *adopt) endStep(p decide.Plan) {
	if s.step >= 0 {
		s.did(p.Domain, p.Steps[s.step])
	}
}

// makeFiles writes the intent, makes the empty files, and writes the intent again with their
// inodes.
func (s *adopt) makeFiles() error {
	a := s.in.Adoption
	for i := range s.plan.Disks {
		d := &s.plan.Disks[i]
		a.Images = append(a.Images, d.Image().Path)
		for _, l := range d.Layers {
			a.Made = append(a.Made, journal.File{Path: l.Path})
			if l.Memory != "" {
				a.Made = append(a.Made, journal.File{Path: l.Memory})
			}
		}
	}
	if err := s.record(&s.in); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	s.boundary("first intent of the adoption")
	for i := range a.Made {
		info, err := vfs.CreateExclusive(a.Made[i].Path, overlayMode)
		if err != nil { // what is there is not ours: take it out of the intent
			a.Made = a.Made[:i]
			return errors.Join(err, s.record(&s.in))
		}
		a.Made[i].ID = info.ID
		s.boundary("a file made")
	}
	s.boundary("files made, intent not renewed")
	if err := s.record(&s.in); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	s.boundary("intent of the adoption renewed")
	return nil
}

// unmake removes what was made, unless the domain is on it, and ends the intent.
func (s *adopt) unmake(ctx context.Context, domain string) error {
	ctx = context.WithoutCancel(ctx)
	if err := s.look(ctx, domain, 0); err != nil {
		return err
	}
	d := s.w.Domain(domain)
	if d == nil {
		return nil
	}
	in := s.w.Intents[d.UUID]
	if in == nil || in.Adoption == nil || in.Adoption.Switched(d) {
		return nil
	}
	if err := decide.MayUnmake(s.w, in.Adoption); err != nil {
		return fmt.Errorf("what was made for the layers is left as it is: %w", err)
	}
	for _, f := range slices.Backward(in.Adoption.Made) {
		left, there := s.w.Left[f.Path]
		if !there || f.ID != (vfs.ID{}) && f.ID != left.ID {
			continue
		}
		if err := vfs.RemoveExact(f.Path, left.ID); err != nil {
			return err
		}
		s.boundary("a file of the adoption removed")
	}
	return s.endIntent(d)
}
