package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/firmware"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A restore carries a Restoration out.
type restore struct {
	*domainRun
	plan *decide.Restoration
	o    decide.RestoreOptions
}

// Restore goes back to a snapshot, which is named as host.Domain.Meant tells. The caller holds the Lock. All disks of the snapshot
// that the domain has go back, or none. What can be refused is refused before a guest is
// stopped for it; when that is done, all is looked at and planned anew.
func (r *Rotator) Restore(ctx context.Context, domain, snapshot string, o decide.RestoreOptions) (decide.Plan, error) {
	if o.Stop != nil {
		return r.stopAndRestore(ctx, domain, snapshot, o)
	}
	s, p, err := r.newRestore(ctx, domain, snapshot, o)
	if err != nil || len(p.Refused) > 0 || o.Plan {
		return p, err
	}
	p = s.run(ctx, p)
	if p.Error == "" && len(p.Refused) == 0 {
		p = s.start(ctx, p)
	}
	_ = s.look(context.WithoutCancel(ctx), domain, maxAge) // only for what is told of the chains: an error leaves the last view
	r.tellChanged(ctx, p.Steps)
	return s.ended(ctx, p), nil
}

// start lets the guest run, or go on from its memory, if the plan says so.
func (s *restore) start(ctx context.Context, p decide.Plan) decide.Plan {
	steps := s.plan.Plan.Steps
	n := len(steps)
	if n == 0 || steps[n-1].Op != decide.OpStart && steps[n-1].Op != decide.OpGoOn {
		return p
	}
	step := steps[n-1]
	if step.Op == decide.OpGoOn {
		return s.goOn(ctx, p, step)
	}
	s.starts(p.Domain, step)
	if err := s.Host.Start(ctx, p.Domain); err != nil {
		return s.finish(ctx, p, fmt.Errorf("the disks are on the snapshot, but the guest does not start: %w", err))
	}
	s.did(p.Domain, step)
	return s.finish(ctx, p, nil)
}

// stopAndRestore shuts the guest down once it is certain that nothing else is refused.
func (r *Rotator) stopAndRestore(ctx context.Context, domain, snapshot string, o decide.RestoreOptions) (decide.Plan, error) {
	s, first, err := r.newRestore(ctx, domain, snapshot, o)
	if err != nil || len(first.Refused) > 0 || o.Plan {
		return first, err
	}
	if err := r.Stop(ctx, domain, o.Stop.Force, o.Stop.Patience); err != nil {
		return decide.Plan{}, err
	}
	stopped := o.Stop.Step()
	o.Start, o.Stop = o.Starts(first.State.Live()), nil
	p, err := r.Restore(ctx, domain, s.plan.Snapshot.Name, o) // which is the latest may be another one by now
	switch {
	case !first.State.Live():
	case len(p.Refused) > 0:
		return r.afterAll(ctx, domain, p, o.Start), err
	case len(p.Steps) > 0:
		p.Steps = slices.Insert(p.Steps, 0, stopped)
	}
	return p, err
}

// afterAll lets a guest run again that was shut down in vain.
func (r *Rotator) afterAll(ctx context.Context, domain string, p decide.Plan, start bool) decide.Plan {
	text := "the guest was shut down for it, and is off now"
	if start {
		text = "the guest was shut down for it, and was started again"
		if err := r.Host.Start(ctx, domain); err != nil {
			text = "the guest was shut down for it, and does not start: " + err.Error()
		}
	}
	p.Warnings = append(p.Warnings, text)
	return p
}

// newRestore looks and plans, for a guest that is to be stopped as if that was done. A
// plan that is refused has no steps; of a domain that several policies match there is
// nothing else.
func (r *Rotator) newRestore(ctx context.Context, domain, snapshot string, o decide.RestoreOptions) (*restore, decide.Plan, error) {
	seen := r.Clock()
	w, err := r.observe(ctx, domain, o.Plan)
	if err != nil {
		return nil, decide.Plan{}, err
	}
	d, meant, err := w.Named(domain, snapshot, seen)
	if err != nil {
		return nil, decide.Plan{}, err
	}
	chosen := r.Match(decide.Guests(w))
	if c := chosen.Conflicts[domain]; c != nil {
		return nil, decide.ConflictPlan(d, c), nil
	}
	state := d.State
	if o.Stop != nil {
		stop := *o.Stop
		stop.Runs = state.Live()
		o.Stop = &stop
		w = w.WithoutGuest(domain)
	}
	run := &domainRun{Rotator: r, rule: decide.RuleOr(chosen, domain), w: w, seen: seen, o: decide.Options{Reserved: &decide.Reservations{}}, start: seen}
	s := &restore{run, run.ask(w.Domain(domain)).Restore(meant.Name, o), o}
	if len(s.plan.Plan.Refused) == 0 {
		s.rehearse(ctx)
	}
	p := s.plan.Plan
	p.Restores = meant.Name
	if p.State, s.warnings = state, p.Warnings; len(p.Refused) > 0 {
		p.Steps = []decide.Step{}
	}
	if o.Plan && o.Stop != nil && o.Stop.Runs && len(p.Refused) == 0 {
		p.Steps = slices.Insert(p.Steps, 0, o.Stop.Step())
	}
	if len(p.Refused) > 0 || o.Plan {
		p.Settle()
	}
	return s, p, nil
}

// rehearse sees that libvirt's records can be written back without loss: of the
// snapshot, and the configuration that the domain starts from.
func (s *restore) rehearse(ctx context.Context) {
	h, whole := s.Host, ""
	if s.o.WithConfig {
		whole = s.plan.Snapshot.Name
	}
	if err := h.Rehearse(ctx, s.plan.Plan.Domain, []string{s.plan.Snapshot.Name}); err != nil {
		s.plan.Plan.Refuse(host.CodeMetadata, "", "the snapshot's metadata could not be brought in order: "+err.Error())
	}
	if path := s.plan.Firmware; path != "" {
		if _, err := firmwareToPut(s.w.Domain(s.plan.Plan.Domain), s.plan.Snapshot.Name, path); err != nil {
			s.plan.Plan.Refuse(host.CodeUnreadable, path, "UEFI variables and TPM state cannot go back: "+err.Error()+"; say --no-firmware, and they stay as they are")
		}
	}
	s.rehearseMemory(ctx)
	if err := h.RehearseConfig(ctx, s.plan.Plan.Domain, whole); err != nil {
		s.plan.Plan.Refuse(host.CodeMetadata, "", "the configuration that the domain is to start from could not be written: "+err.Error())
	}
}

// run carries the plan out.
func (s *restore) run(ctx context.Context, p decide.Plan) decide.Plan {
	if len(p.Groups) > 0 { // the present state
		if err := s.group(ctx, &p, &p.Groups[0]); err != nil {
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
func (s *restore) switchOver(ctx context.Context, p *decide.Plan) error {
	d := s.w.Domain(p.Domain)
	if d == nil {
		return errGone
	}
	if d.State.Live() {
		return errors.New("the guest was started meanwhile: nothing was switched")
	}
	before, after := map[string][]host.Layer{}, map[string][]host.Layer{}
	in := journal.Intent{Domain: d.Name, UUID: d.UUID, Started: s.Clock()}
	spec := &host.SnapshotSpec{Overlays: map[string]string{}}
	for _, w := range s.plan.Switches {
		spec.Overlays[w.Target] = w.Path
	}
	if err := s.makeOverlays(spec, &in); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	for _, w := range s.plan.Switches {
		top := w.Onto[len(w.Onto)-1]
		if err := s.changing().Overlay(ctx, w.Path, top); err != nil {
			return errors.Join(err, s.undoSnapshot(ctx, d.Name))
		}
		before[w.Target] = host.DiskOf(d, w.Target).Chain
		after[w.Target] = append(slices.Clone(w.Onto), host.Layer{Path: w.Path, Format: "qcow2", Kind: host.KindFile})
	}
	s.boundary("overlays of the restore made")
	if err := s.recordBranch(d, &in); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	if err := s.reconfigure(ctx, d.Name, before, after); err != nil {
		return errors.Join(err, s.undoSnapshot(ctx, d.Name))
	}
	s.boundary("switched")
	if err := s.putFirmware(d); err != nil {
		return err
	}
	for _, step := range p.Steps {
		if step.Op == decide.OpSwitch || step.Op == decide.OpConfigure || step.Op == decide.OpFirmware && step.Path == s.plan.Firmware {
			s.did(d.Name, step)
		}
	}
	if fix, needed := s.plan.Fix(); needed {
		if err := s.Host.Redefine(ctx, d.Name, fix); err != nil {
			return err
		}
	}
	if err := s.dropNewer(ctx, *d, p); err != nil {
		return err
	}
	if err := s.endIntent(d); err != nil {
		return err
	}
	s.leaveChanged(ctx, d.Name)
	return nil
}

// putFirmware lets UEFI variables and TPM state go back. What they are now is in the snapshot of the
// present; where none was taken, they are kept in a file of their own unless they are the same.
func (s *restore) putFirmware(d *host.Domain) error {
	if s.plan.Firmware == "" {
		return nil
	}
	state, err := firmwareToPut(d, s.plan.Snapshot.Name, s.plan.Firmware)
	if err != nil {
		return err
	}
	if err := s.keepReplaced(d, state); err != nil {
		return err
	}
	if err := state.Put(firmware.Place(d.Firmware)); err != nil {
		return fmt.Errorf("the disks are on the snapshot, but its firmware's state is not all back: %w", err)
	}
	s.boundary("firmware's state back")
	return nil
}

func (s *restore) keepReplaced(d *host.Domain, state *firmware.State) error {
	now, err := firmware.Read(firmware.Place(d.Firmware))
	if err != nil || now.Same(state) || len(s.plan.Plan.Groups) > 0 || s.o.DiscardNewer || keptBy(d, now) {
		return err
	}
	path := strings.TrimSuffix(s.plan.Firmware, host.FirmwareSuffix) + ".replaced-" + s.Clock().UTC().Format(host.Stamp) + host.FirmwareSuffix
	s.warn(d.Name, "UEFI variables and TPM state as they were before are in "+path)
	return now.Write(path, firmware.Label{Domain: d.Name, UUID: d.UUID, Taken: s.Clock()})
}

// keptBy tells whether a snapshot of the domain has that state.
func keptBy(d *host.Domain, now *firmware.State) bool {
	return slices.ContainsFunc(d.Snapshots, func(s host.Snapshot) bool {
		if s.FirmwareFile() == "" {
			return false
		}
		kept, _, err := firmware.Load(s.FirmwareFile())
		return err == nil && kept.Same(now)
	})
}

// dropNewer drops the metadata of what is given up, leaves first. What is gone is no
// branch above the next one any more: d is this function's own.
func (s *restore) dropNewer(ctx context.Context, d host.Domain, p *decide.Plan) error {
	for _, step := range p.Steps {
		if step.Op != decide.OpDropMetadata {
			continue
		}
		if err := s.dropMetadata(ctx, &d, s.plan.Newer, step.Snapshot); err != nil {
			return err
		}
		if err := dropFilesOf(s.w, &d, step.Snapshot); err != nil {
			return err
		}
		d.Snapshots = slices.DeleteFunc(slices.Clone(d.Snapshots), func(n host.Snapshot) bool { return n.Name == step.Snapshot })
		s.did(d.Name, step)
	}
	return nil
}

// dropFilesOf removes what a snapshot that is given up has beside its layers.
func dropFilesOf(w *observe.World, d *host.Domain, snapshot string) error {
	s := d.Snapshot(snapshot)
	if s == nil {
		return nil
	}
	var errs []error
	for _, path := range s.Beside() {
		if w.FileElsewhere(path, d) != "" {
			continue
		}
		if err := vfs.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// reconfigure lets the domain start from other chains, unless a start is under way.
func (s *restore) reconfigure(ctx context.Context, domain string, before, after map[string][]host.Layer) error {
	host := s.Host
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
func (s *restore) configure(ctx context.Context, domain string, before, after map[string][]host.Layer) (undo func() error, err error) {
	host := s.Host
	if !s.o.WithConfig {
		return func() error { return host.Reconfigure(ctx, domain, before) }, host.Reconfigure(ctx, domain, after)
	}
	chains := maps.Clone(after)
	for _, disk := range s.w.Domain(domain).Disks { // those that the snapshot left out may have been merged since
		if chains[disk.Target] == nil && !disk.ReadOnly {
			chains[disk.Target] = disk.Chain
		}
	}
	return host.Reinstate(ctx, domain, s.plan.Snapshot.Name, chains)
}

// recordBranch puts on record which layers may go once nobody keeps them: the new
// overlays, and what is given up.
func (s *restore) recordBranch(d *host.Domain, in *journal.Intent) error {
	layers := append(s.onRecord(d), in.Created...)
	for i := range d.Snapshots {
		if slices.Contains(s.plan.Newer, d.Snapshots[i].Name) { // those of other branches
			layers = append(layers, freedBy(d, &d.Snapshots[i])...)
		}
	}
	layers = append(layers, s.unnamed()...)
	for _, w := range s.plan.Switches {
		chain := host.DiskOf(d, w.Target).Chain
		for i, l := range chain {
			blank := i == len(chain)-1 && l.Image != nil && l.Image.Blank
			if (s.o.DiscardNewer || blank) && s.isMade(d, &l) && !hasLayer(w.Onto, l.Path) {
				layers = append(layers, journal.File{Path: l.Path, ID: l.ID})
			}
		}
	}
	return s.saveReleased(d, layers)
}

// isMade tells whether the layer has come into being with a snapshot of ours, or when libvirt
// went back to one.
func (s *restore) isMade(d *host.Domain, l *host.Layer) bool {
	return host.IsOverlay(l.Path) || host.IsReverted(l.Path) && (d.IsReverted(l.Path) || s.w.IsReleased(d, l))
}

// unnamed are the overlays that the snapshot's metadata names no more once it names the new
// ones: whose states they hold is in the metadata of others.
func (s *restore) unnamed() []journal.File {
	var files []journal.File
	fix, _ := s.plan.Fix()
	for target := range fix.Overlays {
		old := s.plan.Snapshot.OverlayOf(target)
		if !s.plan.Snapshot.Ours() || !host.IsOverlay(old) {
			continue
		}
		if info, err := vfs.Lstat(old); err == nil {
			files = append(files, journal.File{Path: old, ID: info.ID})
		}
	}
	return files
}

func hasLayer(layers []host.Layer, path string) bool {
	return slices.ContainsFunc(layers, func(l host.Layer) bool { return l.Path == path })
}
