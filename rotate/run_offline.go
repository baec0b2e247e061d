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

// checkOffline asks the engine before anything is done whether it would merge.
func (r *domainRun) checkOffline(ctx context.Context, g *decide.Group) error {
	for i := range g.Merges {
		if !g.Merges[i].Offline {
			continue
		}
		e, err := engineMerge(g.Merges[i].DiskFor(r.w.Domain(g.Merges[i].Domain)), &g.Merges[i])
		if err == nil {
			err = r.Engine.Check(ctx, e)
		}
		if err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
	}
	return nil
}

// mergeOffline has the engine merge. While the images are locked, the domain is
// told what to start from: nobody can have started it from what is merged.
func (r *domainRun) mergeOffline(ctx context.Context, m *decide.Merge, s decide.Step) error {
	e, err := engineMerge(m.DiskFor(r.w.Domain(m.Domain)), m)
	if err != nil {
		return err
	}
	progress := func(done, total int64) {
		r.merged = true // a lock that is missed from now on is no merge that has not begun
		r.Report(Event{Kind: EventProgress, Domain: m.Domain, Step: s, Done: done, Total: total})
	}
	r.boundary("merge starts")
	if m.Branch {
		if err := r.mergeBranch(ctx, m, e, progress); err != nil {
			return err
		}
		r.boundary("merge is over")
		return nil
	}
	err = r.Engine.Merge(ctx, e, progress, func() error {
		r.merged = true
		r.boundary("merged, not on record")
		return r.startFromMerged(context.WithoutCancel(ctx), m, e.Chain)
	})
	if err != nil {
		return r.startedMeanwhile(ctx, m, err)
	}
	r.boundary("merge is over")
	return r.verify(ctx, m)
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
