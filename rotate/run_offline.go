package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// errMoved says that a guest was started or stopped since the plan was made.
var errMoved = errors.New("the guest was started or stopped meanwhile")

// engineMerge is m for the engine, with the chain as it is now.
func engineMerge(disk *host.Disk, m *decide.Merge) (engine.Merge, error) {
	if disk == nil {
		return engine.Merge{}, errors.New("the layers are gone")
	}
	base, top := disk.Index(m.Base.Path), disk.Index(m.Top.Path)
	if base < 0 || top <= base {
		return engine.Merge{}, fmt.Errorf("the chain has changed: %v", host.Paths(disk.Chain))
	}
	e := engine.Merge{Base: disk.Chain[base], Top: disk.Chain[top], Chain: disk.Chain, Pull: m.Pull}
	if top+1 < len(disk.Chain) {
		e.Above = &disk.Chain[top+1]
	}
	return e, nil
}

// An offlineCarrier has the engine merge layers of a guest that is shut off. While the
// images are locked, the domain is told what to start from: nobody can have started it
// from what is merged.
type offlineCarrier struct{}

// check asks the engine whether it would merge.
func (offlineCarrier) check(ctx context.Context, r *domainRun, m *decide.Merge) error {
	e, err := engineMerge(m.DiskFor(r.w.Domain(m.Domain)), m)
	if err == nil {
		err = r.Engine.Check(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	return nil
}

// record notes when the layers that go were last written to: nobody does that any more.
// Should they be, a guest was started from one in the last moment.
func (offlineCarrier) record(m *decide.Merge, im *journal.Merge) {
	for i := range im.Gone {
		if info, err := vfs.Stat(im.Gone[i].Path); err == nil && !m.Pull {
			im.Gone[i].Written = info.ModTime.UnixNano()
		}
	}
}

func (offlineCarrier) merge(ctx context.Context, r *domainRun, _ *decide.Group, m *decide.Merge, s decide.Step) error {
	return r.alone(ctx, m, func(d *host.Domain) error {
		if d.State.Live() {
			return errMoved
		}
		e, err := r.mayMerge(d, m)
		if err != nil {
			return err
		}
		err = r.changing().Merge(ctx, e, r.moves(m.Domain, s), func() error {
			r.merged = true
			r.boundary("merged, not on record")
			return r.startFromMerged(context.WithoutCancel(ctx), m, e.Chain)
		})
		if err != nil {
			return r.startedMeanwhile(ctx, m, err)
		}
		r.boundary("merge is over")
		return r.verify(ctx, m)
	})
}

// mayMerge decides anew, and tells what the engine is to do.
func (r *domainRun) mayMerge(d *host.Domain, m *decide.Merge) (engine.Merge, error) {
	if err := r.ask(d).StillAllowed(m); err != nil {
		return engine.Merge{}, err
	}
	e, err := engineMerge(m.DiskFor(d), m)
	if err == nil {
		r.boundary("merge starts")
	}
	return e, err
}

// moves is progress of the engine: a lock that is missed from then on is no merge that
// has not begun.
func (r *domainRun) moves(domain string, s decide.Step) func(done, total int64) {
	tell := r.progress(domain, s)
	return func(done, total int64) {
		r.merged = true
		tell(done, total)
	}
}

// startPatience is how long a start may take that cannot succeed, unless Rotator says
// otherwise.
const startPatience = 20 * time.Second

// startFromMerged lets the domain start from the chain after the merge. A start that
// has begun already is from the one before: the locks on the images, which the
// caller has, make that fail, and until then they must not be given back.
func (r *domainRun) startFromMerged(ctx context.Context, m *decide.Merge, before []host.Layer) error {
	h := r.Host
	if err := h.Reconfigure(ctx, m.Domain, map[string][]host.Layer{m.Disk: m.After}); err != nil {
		return err
	}
	r.boundary("on record")
	active, err := true, error(nil)
	for began := time.Now(); active && err == nil && time.Since(began) < cmp.Or(r.StartPatience, startPatience); time.Sleep(20 * time.Millisecond) {
		if active, err = h.Active(ctx, m.Domain); err == nil && !active {
			return nil
		}
	}
	return errors.Join(errMoved, err, h.Reconfigure(ctx, m.Domain, map[string][]host.Layer{m.Disk: before}))
}

// startedMeanwhile returns errMoved for an error that comes from the guest having
// been started or stopped.
func (r *domainRun) startedMeanwhile(ctx context.Context, m *decide.Merge, err error) error {
	var busy *vfs.BusyError
	if m.Offline && !errors.As(err, &busy) || ctx.Err() != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return err
	case <-time.After(observe.SettleTime): // until libvirt, too, has noticed
	}
	if r.look(ctx, m.Domain, maxAge) != nil {
		return err
	}
	if d := r.w.Domain(m.Domain); d != nil && d.State.Live() == m.Offline {
		return fmt.Errorf("%w (%w)", errMoved, err)
	}
	return err
}
