package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

// RestoreOptions say how a domain goes back to a snapshot.
type RestoreOptions struct {
	DiscardNewer bool         // what came after the snapshot is given up
	WithConfig   bool         // the whole configuration goes back, not only the disks
	Plan         bool         // only tell what would be done
	Stop         *StopOptions // shut a guest that runs down first; nil: it is refused
}

// StopOptions say how a guest is shut down.
type StopOptions struct {
	Force    bool          // pull the plug of one that does not obey
	Patience time.Duration // how long it may take
}

// A restore puts a new overlay on the layers that hold the snapshot's states and
// lets the domain start from it. The layers above become a branch: the newest state
// among them is kept as a snapshot of its own, unless it is to be given up.
type restore struct {
	*domainRun
	o        RestoreOptions
	snap     Snapshot
	switches []diskSwitch
	newer    []string // snapshots that are given up
}

// A diskSwitch is one disk that gets another chain.
type diskSwitch struct {
	target string
	onto   []Layer // the chain of the state, base first
	path   string  // the new overlay
}

// Restore goes back to a snapshot. The caller holds the Lock. All disks of the snapshot
// that the domain has go back, or none. What can be refused is refused before a guest is
// stopped for it; when that is done, all is looked at and planned anew.
func (r *Rotator) Restore(ctx context.Context, domain, snapshot string, o RestoreOptions) (Plan, error) {
	if o.Stop != nil {
		return r.stopAndRestore(ctx, domain, snapshot, o)
	}
	s, p, err := r.newRestore(ctx, domain, snapshot, o)
	if err != nil || len(p.Refused) > 0 || o.Plan {
		return p, err
	}
	p = s.run(ctx, p)
	_ = s.look(context.WithoutCancel(ctx), domain, maxAge) // only for what is told of the chains: an error leaves the last view
	return s.ended(ctx, p), nil
}

// stopAndRestore shuts the guest down once it is certain that nothing else is refused.
func (r *Rotator) stopAndRestore(ctx context.Context, domain, snapshot string, o RestoreOptions) (Plan, error) {
	_, first, err := r.newRestore(ctx, domain, snapshot, o)
	if err != nil || len(first.Refused) > 0 || o.Plan {
		return first, err
	}
	if err := r.Stop(ctx, domain, o.Stop.Force, o.Stop.Patience); err != nil {
		return Plan{}, err
	}
	o.Stop = nil
	p, err := r.Restore(ctx, domain, snapshot, o)
	if len(p.Refused) > 0 && first.State.Live() {
		p.Warnings = append(p.Warnings, "the guest was shut down for it, and is off now")
	}
	return p, err
}

// newRestore looks and plans, for a guest that is to be stopped as if that was done. A
// plan that is refused has no steps; of a domain that several policies match there is
// nothing else.
func (r *Rotator) newRestore(ctx context.Context, domain, snapshot string, o RestoreOptions) (*restore, Plan, error) {
	seen := r.Clock()
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return nil, Plan{}, err
	}
	d, err := w.WithSnapshot(domain, snapshot)
	if err != nil {
		return nil, Plan{}, err
	}
	chosen := r.Match(w.names())
	if c := chosen.Conflicts[domain]; c != nil {
		return nil, conflictPlan(d, c), nil
	}
	state := d.State
	if o.Stop != nil {
		w = w.withoutGuest(domain)
	}
	s := &restore{domainRun: &domainRun{Rotator: r, rule: restoreRule(chosen, domain), w: w, seen: seen, o: Options{Reserved: &Reservations{}}, start: seen}, o: o}
	p := s.plan(ctx, w.Domain(domain), snapshot)
	if p.State, p.Warnings = state, s.warnings; len(p.Refused) > 0 {
		p.Steps = []Step{}
	}
	if len(p.Refused) > 0 || o.Plan {
		p.settle()
	}
	return s, p, nil
}

// withoutGuest is the world in which the guest has been shut down. One in a state in which
// it cannot simply be is left as it is, and one whose disk has a job has it still: to
// stop it would cost somebody a backup.
func (w *World) withoutGuest(domain string) *World {
	off := *w
	off.Domains = slices.Clone(w.Domains)
	d := off.Domain(domain)
	switch d.State {
	case Running, Paused:
		d.State, d.IOError, d.Agent = ShutOff, false, false
	}
	return &off
}

// restoreRule is the domain's rule; one without a policy gets one that drops nothing.
func restoreRule(a policy.Assignment, domain string) *policy.Rule {
	if rule := a.Rules[domain]; rule != nil {
		return rule
	}
	return &policy.Rule{Name: "restore", MaxChain: 200, Method: policy.MethodAuto, Quiesce: policy.QuiesceNo, Keep: policy.Keep{Last: 1 << 20}}
}

// plan decides what to do, or why not.
func (s *restore) plan(ctx context.Context, d *Domain, snapshot string) Plan {
	b := newBuilder(s.w, d, s.rule, s.Clock(), s.domainRun.o)
	switch {
	case d.State.Live() && s.o.Stop == nil:
		b.refuse(CodeState, "", "the guest runs: shut it down first, or say --stop")
	case s.w.Intents[d.UUID] != nil:
		b.refuse(CodeIntent, "", "an interrupted run is to be finished first: virt-rotate run "+d.Name)
	}
	if b.checkDomain(); len(b.plan.Refused) > 0 {
		return b.plan
	}
	s.snap = *d.Snapshot(snapshot)
	if b.checkStates(); len(b.plan.Refused) > 0 {
		return b.plan
	}
	s.planPresent(b)
	s.planSwitch(b)
	if s.o.WithConfig {
		s.planConfig(b)
	}
	if s.o.DiscardNewer && len(b.plan.Refused) == 0 {
		s.planDiscard(b)
	}
	if len(b.plan.Refused) == 0 {
		s.rehearse(ctx, b)
	}
	return b.plan
}

// rehearse sees that libvirt's records can be written back without loss: of the
// snapshot, and the configuration that the domain starts from.
func (s *restore) rehearse(ctx context.Context, b *builder) {
	host, whole := s.Observer.Host, ""
	if s.o.WithConfig {
		whole = s.snap.Name
	}
	if err := host.Rehearse(ctx, b.d.Name, []string{s.snap.Name}); err != nil {
		b.refuse(CodeMetadata, "", "the snapshot's metadata could not be brought in order: "+err.Error())
	}
	if err := host.RehearseConfig(ctx, b.d.Name, whole); err != nil {
		b.refuse(CodeMetadata, "", "the configuration that the domain is to start from could not be written: "+err.Error())
	}
}

// planPresent keeps the present state as a snapshot, unless nothing was written
// since the newest one or it is to be given up.
func (s *restore) planPresent(b *builder) {
	newest := newestOf(b.snaps)
	if s.o.DiscardNewer || newest != nil && b.untouched(newest) {
		return
	}
	b.snapshot()
	for i := range b.plan.Steps {
		b.plan.Steps[i].Reason = "the present state is kept, too"
	}
}

func newestOf(snaps []Snapshot) *Snapshot {
	if len(snaps) == 0 {
		return nil
	}
	return &snaps[len(snaps)-1]
}

// planSwitch finds the chain of each disk's state and a name for its new overlay.
func (s *restore) planSwitch(b *builder) {
	spec := &SnapshotSpec{Overlays: map[string]string{}}
	if refused := b.placeOverlays(spec); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	for _, state := range b.d.States(&s.snap) {
		disk := b.disk(state.Target)
		if disk == nil {
			s.warnings = append(s.warnings, fmt.Sprintf("the snapshot has the disk %s, the domain has not: the others go back, and its state stays in %s", state.Target, state.Path))
			continue
		}
		onto, refused := s.chainOf(b.d, state)
		if refused != nil {
			b.plan.Refused = append(b.plan.Refused, *refused)
			continue
		}
		path := spec.Overlays[state.Target]
		if path == "" {
			path = overlayPath(disk, stem(disk)+"."+disk.Target, b.rule.OverlayDir, spec.Name)
		}
		if refused := b.reserveOverlay(path, emptyOverlay); refused != nil {
			b.plan.Refused = append(b.plan.Refused, *refused)
		}
		if len(onto)+1 > b.rule.MaxChain {
			b.refuse(CodeChainLong, disk.Target, fmt.Sprintf("the new overlay would make its chain %s long: max_chain is %d", plural(len(onto)+1, "layer"), b.rule.MaxChain))
		}
		s.switches = append(s.switches, diskSwitch{state.Target, onto, path})
		b.add(Step{Op: OpSwitch, Snapshot: s.snap.Name, Disk: state.Target, Base: state.Path, Path: path,
			Reason: "the disk goes back to the snapshot"})
	}
	if len(s.switches) == 0 && len(b.plan.Refused) == 0 {
		reason := "the snapshot has no layers of its own: it is internal, or of memory only"
		if len(s.warnings) > 0 {
			reason = "the domain has none of the snapshot's disks any more: attach one first"
		}
		b.refuse(CodeNoDisk, "", reason)
	}
}

// planConfig sees that every disk of the old configuration is there, and tells which
// ones it lacks.
func (s *restore) planConfig(b *builder) {
	had := map[string]bool{}
	for _, sd := range s.snap.Disks {
		had[sd.Target] = true
		if b.disk(sd.Target) == nil {
			b.refuse(CodeNoDisk, sd.Target, "the configuration of the snapshot's time has this disk, the domain has not: go back without the configuration, or attach the disk first")
		}
	}
	reason := "the configuration becomes that of the snapshot's time"
	for i := range b.disks {
		if t := b.disks[i].Target; !had[t] {
			reason += ", which has no " + t + ": its image stays"
		}
	}
	b.add(Step{Op: OpConfigure, Snapshot: s.snap.Name, Reason: reason})
}

// chainOf returns the layers below the new overlay, as their headers have them.
func (s *restore) chainOf(d *Domain, state StateLayer) ([]Layer, *Refusal) {
	if state.format() == "" {
		return nil, &Refusal{CodeFormat, state.Path, "its format is not on record: it is in no chain any more"}
	}
	disk, known := s.w.StateChains[state.Path]
	for i := range d.Disks {
		if k := d.Disks[i].index(state.Path); k >= 0 {
			disk, known = Disk{Target: state.Target, Chain: slices.Clone(d.Disks[i].Chain[:k+1])}, true
		}
	}
	if !known {
		return nil, &Refusal{CodeUnreadable, state.Path, "it was not looked at"}
	}
	if code, path, detail := ChainProblem(&disk); code != "" {
		return nil, &Refusal{code, path, detail}
	}
	return disk.Chain, nil
}

// planDiscard gives up the snapshots that came after.
func (s *restore) planDiscard(b *builder) {
	for i := range slices.Backward(b.snaps) { // leaves first: libvirt changes the children of what goes
		n := &b.snaps[i]
		if n.Name == s.snap.Name || !b.d.descends(n, s.snap.Name) {
			continue
		}
		if !n.Ours() {
			b.refuse(CodeForeign, "", fmt.Sprintf("snapshot %s, which virt-rotate did not take, is newer: delete it first", n.Name))
			continue
		}
		s.newer = append(s.newer, n.Name)
		b.add(Step{Op: OpDropMetadata, Snapshot: n.Name, Reason: "what is newer than " + s.snap.Name + " is given up"})
	}
}

// descends tells whether the snapshot was taken above the one of that name.
func (d *Domain) descends(s *Snapshot, name string) bool {
	for up := d.Snapshot(s.Parent); up != nil; up = d.Snapshot(up.Parent) {
		if up.Name == name {
			return true
		}
	}
	return false
}

// run carries the plan out.
func (s *restore) run(ctx context.Context, p Plan) Plan {
	if len(p.groups) > 0 { // the present state
		if err := s.group(ctx, &p, &p.groups[0]); err != nil {
			return s.finish(ctx, p, err)
		}
	}
	err := s.look(ctx, p.Domain, 0)
	if err == nil {
		err = s.switchOver(context.WithoutCancel(ctx), &p)
	}
	return s.finish(ctx, p, err)
}

// switchOver makes the overlays, lets the domain start from them, all disks at
// once, and brings libvirt's list in order.
func (s *restore) switchOver(ctx context.Context, p *Plan) error {
	d := s.w.Domain(p.Domain)
	if d == nil {
		return errors.New("the domain is gone")
	}
	if d.State.Live() {
		return errors.New("the guest was started meanwhile: nothing was switched")
	}
	before, after := map[string][]Layer{}, map[string][]Layer{}
	in := Intent{Domain: d.Name, UUID: d.UUID, Started: s.Clock()}
	spec := &SnapshotSpec{Overlays: map[string]string{}}
	for _, w := range s.switches {
		spec.Overlays[w.target] = w.path
	}
	if err := s.makeOverlays(spec, &in); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	for _, w := range s.switches {
		top := w.onto[len(w.onto)-1]
		if err := s.Engine.Overlay(ctx, w.path, top); err != nil {
			return errors.Join(err, s.undoSnapshot(ctx, d.Name))
		}
		before[w.target] = diskOf(d, w.target).Chain
		after[w.target] = append(slices.Clone(w.onto), Layer{Path: w.path, Format: "qcow2", Kind: "file"})
	}
	s.boundary("overlays of the restore made")
	if err := s.recordBranch(d, &in); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	if err := s.reconfigure(ctx, d.Name, before, after); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	s.boundary("switched")
	for _, step := range p.Steps {
		if step.Op == OpSwitch || step.Op == OpConfigure {
			s.did(d.Name, step)
		}
	}
	if err := s.Observer.Host.Redefine(ctx, d.Name, SnapshotFix{Snapshot: s.snap.Name, Overlays: spec.Overlays, Current: true}); err != nil {
		return err
	}
	if err := s.dropNewer(ctx, *d, p); err != nil {
		return err
	}
	return s.endIntent(d)
}

// dropNewer drops the metadata of what is given up, leaves first. What is gone is no
// branch above the next one any more: d is this function's own.
func (s *restore) dropNewer(ctx context.Context, d Domain, p *Plan) error {
	for _, step := range p.Steps {
		if step.Op != OpDropMetadata {
			continue
		}
		if err := s.dropMetadata(ctx, &d, s.newer, step.Snapshot); err != nil {
			return err
		}
		d.Snapshots = slices.DeleteFunc(slices.Clone(d.Snapshots), func(n Snapshot) bool { return n.Name == step.Snapshot })
		s.did(d.Name, step)
	}
	return nil
}

// reconfigure lets the domain start from other chains, unless a start is under way.
func (s *restore) reconfigure(ctx context.Context, domain string, before, after map[string][]Layer) error {
	host := s.Observer.Host
	undo, err := s.configure(ctx, domain, before, after)
	if err != nil {
		return err
	}
	active, err := host.Active(ctx, domain)
	if err == nil && !active {
		return nil
	}
	return errors.Join(errors.New("the guest was started meanwhile"), err, undo())
}

// configure writes the new configuration: other chains only, or all of it.
func (s *restore) configure(ctx context.Context, domain string, before, after map[string][]Layer) (undo func() error, err error) {
	host := s.Observer.Host
	if !s.o.WithConfig {
		return func() error { return host.Reconfigure(ctx, domain, before) }, host.Reconfigure(ctx, domain, after)
	}
	chains := cloneMap(after)
	for _, disk := range s.w.Domain(domain).Disks { // those that the snapshot left out may have been merged since
		if chains[disk.Target] == nil && !disk.ReadOnly {
			chains[disk.Target] = disk.Chain
		}
	}
	return host.Reinstate(ctx, domain, s.snap.Name, chains)
}

// recordBranch puts on record which layers may go once nobody keeps them: the new
// overlays, and what is given up.
func (s *restore) recordBranch(d *Domain, in *Intent) error {
	layers := append(stillThere(d, s.w.Released[d.UUID]), in.Created...)
	for i := range d.Snapshots {
		if slices.Contains(s.newer, d.Snapshots[i].Name) { // those of other branches
			layers = append(layers, freedBy(d, &d.Snapshots[i])...)
		}
	}
	for _, w := range s.switches {
		chain := diskOf(d, w.target).Chain
		for i, l := range chain {
			blank := i == len(chain)-1 && l.Image != nil && l.Image.Blank
			if (s.o.DiscardNewer || blank) && isOverlay(l.Path) && !hasLayer(w.onto, l.Path) {
				layers = append(layers, intentFile{Path: l.Path, ID: l.ID})
			}
		}
	}
	return s.saveReleased(d, layers)
}

func hasLayer(layers []Layer, path string) bool {
	return slices.ContainsFunc(layers, func(l Layer) bool { return l.Path == path })
}
