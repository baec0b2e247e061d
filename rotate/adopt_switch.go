package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// switchOver lets the domain start from the layers, all disks at once. The images are locked:
// a guest that is started meanwhile from what the domain was does not get them.
func (s *adopt) switchOver(ctx context.Context, p *decide.Plan) error {
	s.endStep(*p)
	if err := s.likeImages(); err != nil {
		return err
	}
	s.boundary("layers made")
	if err := s.stillSo(ctx, p.Domain); err != nil {
		return err
	}
	after := map[string][]host.Layer{}
	for i := range s.plan.Disks {
		d := &s.plan.Disks[i]
		after[d.Target] = d.ChainTo(len(d.Layers) - 1)
	}
	if err := s.Host.Reconfigure(ctx, p.Domain, after); err != nil {
		return err
	}
	s.boundary("on the layers")
	if err := s.startedOld(ctx, p.Domain); err != nil {
		return err
	}
	for _, step := range p.Steps {
		if step.Op == decide.OpSwitch {
			s.did(p.Domain, step)
		}
	}
	return nil
}

// likeImages lets who may use an image use its layers, and nobody else. Saved memory is for
// the owner alone.
func (s *adopt) likeImages() error {
	for i := range s.plan.Disks {
		d := &s.plan.Disks[i]
		info, err := os.Stat(d.Image().Path)
		if err != nil {
			return err
		}
		for _, l := range d.Layers {
			if err := vfs.LikeOwner(l.Path, d.Image().Path); err != nil {
				return err
			}
			if err := os.Chmod(l.Path, info.Mode().Perm()); err != nil {
				return err
			}
		}
	}
	return nil
}

// stillSo sees that nothing has changed since the plan was made that it rests on.
func (s *adopt) stillSo(ctx context.Context, domain string) error {
	if err := s.look(ctx, domain, 0); err != nil {
		return err
	}
	now := s.w.Domain(domain)
	if now == nil {
		return errGone
	}
	active, err := s.Host.Active(ctx, domain)
	if err != nil {
		return err
	}
	if active || now.State.Live() {
		return errors.New("the guest was started meanwhile: nothing was switched")
	}
	for i := range s.plan.Disks {
		d := &s.plan.Disks[i]
		disk := host.DiskOf(now, d.Target)
		if disk == nil || !slices.Equal(host.Paths(disk.Chain), host.Paths(d.Chain)) {
			return fmt.Errorf("the disk %s was changed meanwhile: nothing was switched", d.Target)
		}
	}
	return s.sameMetadata(ctx, now)
}

// sameMetadata sees that libvirt has the snapshots that it had.
func (s *adopt) sameMetadata(ctx context.Context, now *host.Domain) error {
	again, err := s.Host.Externals(ctx, now.Name, s.plan.Snapshots)
	if err != nil {
		return fmt.Errorf("the snapshots were changed meanwhile: nothing was switched: %w", err)
	}
	listed := 0
	for i, r := range again {
		if was := &s.in.Adoption.Snapshots[i]; r.Before != was.Before || r.After != was.After {
			return fmt.Errorf("snapshot %s was changed meanwhile: nothing was switched", r.Snapshot)
		}
		if !r.New {
			listed++
		}
	}
	if listed != len(now.Snapshots) {
		return errors.New("a snapshot was taken or deleted meanwhile: nothing was switched")
	}
	return nil
}

// startedOld sees whether a guest runs after all on what the domain was before, where no locks
// keep it from that; then the domain is that again.
func (s *adopt) startedOld(ctx context.Context, domain string) error {
	active, err := s.Host.Active(ctx, domain)
	if err != nil || !active {
		return err
	}
	if err := s.look(ctx, domain, 0); err != nil {
		return err
	}
	d := s.w.Domain(domain)
	if d == nil || s.in.Adoption.Switched(d) {
		return nil
	}
	before := map[string][]host.Layer{}
	for i := range s.plan.Disks {
		before[s.plan.Disks[i].Target] = s.plan.Disks[i].Chain
	}
	return errors.Join(errors.New("the guest was started meanwhile: nothing was switched"), s.Host.Reconfigure(ctx, domain, before))
}

// finishSwitched does the second half of an adoption that was interrupted in it.
func (s *adopt) finishSwitched(ctx context.Context, p decide.Plan, o decide.AdoptOptions) decide.Plan {
	d := s.w.Domain(p.Domain)
	for i := range s.in.Adoption.Snapshots {
		if r := &s.in.Adoption.Snapshots[i]; !r.Reads(d.Snapshot(r.Snapshot)) {
			p.Steps = append(p.Steps, replaceStep(r))
		}
	}
	p.Kept = s.kept(d)
	if o.Plan {
		p.Warnings = append(p.Warnings, "the adoption of "+s.in.Started.Format("2006-01-02 15:04:05")+" was interrupted: this is what is left to do")
		p.Settle()
		return p
	}
	err := s.replaceAll(context.WithoutCancel(ctx), p.Domain)
	return s.ended(ctx, s.finish(ctx, p, err))
}

func replaceStep(r *host.Replacement) decide.Step {
	return decide.Step{Op: decide.OpRedefine, Snapshot: r.Snapshot, Reason: decide.ReasonExternal}
}

// kept tells of the images that stay.
func (s *adopt) kept(d *host.Domain) (all []decide.Kept) {
	for _, path := range s.in.Adoption.Images {
		if info, err := vfs.Lstat(path); err == nil {
			all = append(all, decide.KeptImage(s.w, d, &host.Layer{Path: path, ID: info.ID, Allocated: info.Allocated}))
		}
	}
	return all
}

// replaceAll replaces the metadata of the snapshots that are not as they should be, parents
// first, and ends the intent when libvirt has all of them.
func (s *adopt) replaceAll(ctx context.Context, domain string) error {
	if err := s.look(ctx, domain, 0); err != nil {
		return err
	}
	d := s.w.Domain(domain)
	if d == nil {
		return errGone
	}
	others := s.others(d)
	for i := range s.in.Adoption.Snapshots {
		r := s.in.Adoption.Snapshots[i]
		if r.Reads(d.Snapshot(r.Snapshot)) {
			continue
		}
		step := replaceStep(&r)
		s.starts(domain, step)
		r.Current = r.Current && !slices.ContainsFunc(others, func(o host.Snapshot) bool { return o.Current })
		if err := s.Host.Replace(ctx, domain, r); err != nil {
			return fmt.Errorf("snapshot %s: %w", r.Snapshot, err)
		}
		s.did(domain, step)
	}
	for i := range others {
		if err := s.reparent(ctx, d, &others[i], others[i].Parent); err != nil {
			return err
		}
	}
	if err := errors.Join(s.verify(ctx, domain), s.keepImages(d)); err != nil {
		return err
	}
	s.boundary("metadata replaced")
	return s.endIntent(d)
}

// keepImages sees that no record says that one of the images may go.
func (s *adopt) keepImages(d *host.Domain) error {
	return s.saveReleased(d, slices.DeleteFunc(slices.Clone(s.w.Released[d.UUID]), func(f journal.File) bool {
		return slices.Contains(s.in.Adoption.Images, f.Path)
	}))
}

// others are snapshots that somebody has taken since the domain is on the layers, on one of
// those that are replaced.
func (s *adopt) others(d *host.Domain) (found []host.Snapshot) {
	for _, o := range d.Snapshots {
		adopted := func(name string) bool {
			return slices.ContainsFunc(s.in.Adoption.Snapshots, func(r host.Replacement) bool { return r.Snapshot == name })
		}
		if !adopted(o.Name) && adopted(o.Parent) {
			found = append(found, o)
		}
	}
	return found
}

// verify asks libvirt whether it has all as it should be.
func (s *adopt) verify(ctx context.Context, domain string) error {
	if err := s.look(ctx, domain, 0); err != nil {
		return err
	}
	d := s.w.Domain(domain)
	if d == nil {
		return errGone
	}
	for i := range s.in.Adoption.Snapshots {
		if err := verifyExternal(d, &s.in.Adoption.Snapshots[i]); err != nil {
			return err
		}
	}
	return s.verifyDisks(d)
}

func verifyExternal(d *host.Domain, r *host.Replacement) error {
	snap := d.Snapshot(r.Snapshot)
	if !r.Reads(snap) || snap.Parent != r.Parent {
		return fmt.Errorf("libvirt does not list snapshot %s as it should", r.Snapshot)
	}
	for _, sd := range snap.Disks {
		chain := r.Chains[sd.Target]
		if len(chain) == 0 {
			continue
		}
		if have, want := host.StateOf(d, &sd), chain[len(chain)-1].Path; have != want {
			return fmt.Errorf("libvirt has the state of snapshot %s on %s in %s, not in %s", r.Snapshot, sd.Target, have, want)
		}
	}
	return nil
}

// verifyDisks sees that each disk on the layers is in order.
func (s *adopt) verifyDisks(d *host.Domain) error {
	for i := range d.Disks {
		disk := &d.Disks[i]
		if !slices.ContainsFunc(disk.Chain, func(l host.Layer) bool { return s.in.Adoption.Makes(l.Path) }) {
			continue
		}
		if code, path, detail := host.ChainProblem(disk); code != "" {
			return fmt.Errorf("%s: %s", path, detail)
		}
	}
	return nil
}
