package rotate

import (
	"context"
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A liveCarrier has the QEMU of a running guest commit or pull.
type liveCarrier struct{}

func (liveCarrier) check(context.Context, *domainRun, *decide.Merge) error { return nil }

func (liveCarrier) record(m *decide.Merge, im *journal.Merge) { im.Pivot = m.Active && !m.Pull }

func (liveCarrier) merge(ctx context.Context, r *domainRun, _ *decide.Group, m *decide.Merge, s decide.Step) error {
	return r.alone(ctx, m, func(d *host.Domain) error {
		if !d.State.Live() {
			return errMoved
		}
		if over, err := r.renumber(m); err != nil {
			return err
		} else if over {
			return r.verify(ctx, m)
		}
		if err := r.ask(d).StillAllowed(m); err != nil {
			return err
		}
		r.boundary("merge starts")
		if err := r.mergeLive(ctx, d, m, s); err != nil {
			return r.startedMeanwhile(ctx, m, r.explain(m, err))
		}
		r.boundary("merge is over")
		r.merged = true
		return r.verify(ctx, m)
	})
}

// mergeLive keeps on record that the guest is paused, for as long as it may be.
func (r *domainRun) mergeLive(ctx context.Context, d *host.Domain, m *decide.Merge, s decide.Step) error {
	pausing := false
	spec := m.MergeSpec
	spec.Pausing = func() error {
		pausing = true
		if err := r.paused(d, true); err != nil {
			return err
		}
		r.boundary("about to pause")
		return nil
	}
	err := r.Host.Merge(ctx, spec, r.progress(m.Domain, s))
	if pausing && err == nil {
		err = r.paused(d, false)
	}
	return err
}

// paused puts on record whether the guest may be paused by this run.
func (r *domainRun) paused(d *host.Domain, is bool) error {
	return r.changeIntent(d, func(in *journal.Intent) error { in.Paused = is; return nil })
}

// resume lets a guest go on that an interrupted run has paused for a moment.
func (r *domainRun) resume(ctx context.Context, domain string) error {
	d := r.w.Domain(domain)
	in := r.w.Intents[d.UUID]
	if in == nil || !in.Paused || d.Busy != "" { // libvirt does it at the end of its work
		return nil
	}
	if d.State == host.Paused && !d.IOError {
		if err := r.Host.Resume(ctx, domain); err != nil {
			return err
		}
		r.warn(domain, "an earlier run was ended in the moment for which it had paused the guest: it is resumed")
	}
	return r.paused(d, false)
}

// progress tells how far a merge is, in bytes.
func (r *domainRun) progress(domain string, s decide.Step) func(done, total int64) {
	return func(done, total int64) {
		r.Report(Event{Kind: EventProgress, Domain: domain, Step: s, Done: done, Total: total})
	}
}

// renumber takes libvirt's present numbers for the layers of the merge. It
// tells whether a job that was to be taken over has done its work meanwhile.
func (r *domainRun) renumber(m *decide.Merge) (over bool, err error) {
	d := r.w.Domain(m.Domain)
	if d == nil || !d.State.Live() {
		return false, errors.New("the guest has stopped")
	}
	disk := host.DiskOf(d, m.Disk)
	if disk == nil {
		return false, fmt.Errorf("the guest has no disk %s any more", m.Disk)
	}
	base, top := disk.Index(m.Base.Path), disk.Index(m.Top.Path)
	if m.Adopt && !m.Pull && base >= 0 && top < 0 || m.Adopt && m.Pull && base < 0 && top >= 0 {
		return true, nil
	}
	if base < 0 || top <= base {
		return false, fmt.Errorf("the chain has changed: %v", host.Paths(disk.Chain))
	}
	m.Base.Index, m.Top.Index = disk.Chain[base].Index, disk.Chain[top].Index
	if m.Pull && base > 0 {
		m.Below.Index = disk.Chain[base-1].Index
	}
	return false, nil
}

func (r *domainRun) explain(m *decide.Merge, err error) error {
	if d := r.w.Domain(m.Domain); d != nil && d.AppArmor && denied(err) {
		return fmt.Errorf("%w (AppArmor may deny QEMU to write %s: virt-rotate doctor %s tells the remedy)", err, m.Base.Path, m.Domain)
	}
	return err
}
