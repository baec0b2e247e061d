package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// An Engine merges layers of disks that no guest has open.
type Engine interface {
	// Overlay makes the empty file at path an overlay on below, durably. After an
	// error it is empty.
	Overlay(ctx context.Context, path string, below Layer) error
	// Check returns what Merge would refuse. It changes nothing.
	Check(ctx context.Context, m EngineMerge) error
	// Merge brings what the layers above Base up to Top have into Base and lets
	// Above build on it; of a pull, it brings what the layers from Base on have into
	// Top and lets that build on what is below Base. No file goes. While all of them are locked, it calls then.
	// The error is a *vfs.BusyError where somebody has one of the images open.
	Merge(ctx context.Context, m EngineMerge, progress func(done, total int64), then func() error) error
	// Graft builds, in files that are there and empty, what is to take the place of
	// the upper layers of a running guest's disk, which it only reads.
	Graft(ctx context.Context, g EngineGraft) error
}

// An EngineGraft says what to build. Next and Goes are parallel to the upper part of
// Chain; the last is for the active layer, and becomes an empty overlay like it.
type EngineGraft struct {
	Chain []Layer // all of the disk, base first
	Next  []string
	Goes  []bool // the layer is merged into the one below; its file at Next goes
	Full  bool   // all that was built is read and compared, not only what was copied
}

// An EngineMerge says what to merge of a disk's chain.
type EngineMerge struct {
	Base, Top Layer
	Above     *Layer // the layer that builds on Top; nil where Top is the active one
	Pull      bool
	Chain     []Layer // all of the disk, base first
}

// Native is the Engine that works on the image files itself.
type Native struct {
	Store chain.Store
	// NewOverlay writes an overlay without data into an empty file, with the features
	// of the image at like, if that is not "".
	NewOverlay func(f vfs.File, like string, size int64, backing, format string) error
}

// Overlay makes the empty file at path an overlay on below.
func (n *Native) Overlay(_ context.Context, path string, below Layer) error {
	f, err := n.Store.FS.Open(path, true)
	if err != nil {
		return err
	}
	if err = f.Lock(vfs.LockWrite); err == nil {
		err = n.NewOverlay(f, "", below.Size, below.Path, below.Format)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil { // part of an image would pass for one with data
		err = errors.Join(fmt.Errorf("%s: %w", path, err), f.Truncate(0))
	}
	return errors.Join(err, f.Close())
}

// Check returns what Merge would refuse.
func (n *Native) Check(ctx context.Context, m EngineMerge) error {
	if m.Pull {
		_, err := n.planPull(ctx, m)
		return err
	}
	if again, err := n.mergedBefore(m); again || err != nil {
		return err
	}
	return n.steady(ctx, func() error {
		_, err := n.plan(ctx, m)
		return err
	})
}

// newborn is how long a file that was just written to may be one that is not
// written to its end yet.
const newborn = 2 * time.Second

// steady tries again for a moment while what is refused is a file that somebody is
// just writing: libvirt makes overlays of other domains beside the images.
func (n *Native) steady(ctx context.Context, do func() error) error {
	for end := time.Now().Add(newborn); ; {
		err := do()
		var refused *chain.RefusedError
		if !errors.As(err, &refused) || time.Now().After(end) {
			return err
		}
		info, failed := n.Store.FS.Stat(refused.Path)
		if age := time.Since(info.ModTime); failed != nil || age < 0 || age > newborn {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(newborn / 20):
		}
	}
}

func (n *Native) planPull(ctx context.Context, m EngineMerge) (*chain.Pull, error) {
	base := ""
	if i := slices.IndexFunc(m.Chain, func(l Layer) bool { return l.Path == m.Base.Path }); i > 0 {
		base = m.Chain[i-1].Path
	}
	return n.storeFor(m).PlanPull(ctx, m.Top.Path, m.Top.Format, base)
}

// pull carries a pull out. One that was cut off just before it was on record has all
// of its data: only then is left to do.
func (n *Native) pull(ctx context.Context, m EngineMerge, progress func(done, total int64), then func() error) error {
	plan, err := n.planPull(ctx, m)
	if err != nil {
		return err
	}
	return n.storeFor(m).PullAnd(ctx, plan, counted(plan.Bytes, progress), then)
}

// counted turns progress by pieces into progress by sums.
func counted(total int64, progress func(done, total int64)) func(n int64) {
	done := int64(0)
	return func(n int64) {
		done += n
		progress(done, total)
	}
}

func (n *Native) plan(ctx context.Context, m EngineMerge) (*chain.Merge, error) {
	return n.storeFor(m).PlanCommit(ctx, chain.CommitRequest{Top: m.Top.Path, Format: m.Top.Format, Base: m.Base.Path, Unrecorded: true})
}

// storeFor follows backing names to where the domain has its layers.
func (n *Native) storeFor(m EngineMerge) *chain.Store {
	s := n.Store
	for _, l := range m.Chain {
		s.Allow = append(slices.Clip(s.Allow), filepath.Dir(l.Path))
	}
	return &s
}

// mergedBefore tells whether the layer above names the base already: a merge was
// cut off just before it was on record. The merged layers have all of their data still.
func (n *Native) mergedBefore(m EngineMerge) (bool, error) {
	if m.Above == nil {
		return false, nil
	}
	above, err := n.Store.Node(m.Above.Path, m.Above.Format)
	if err != nil {
		return false, err
	}
	below := backingPath(&Layer{Path: m.Above.Path, Image: &above.Image})
	info, err := n.Store.FS.Stat(below)
	if err != nil {
		return false, fmt.Errorf("backing file of %s: %w", m.Above.Path, err)
	}
	return info.ID == m.Base.ID, nil
}

// Merge carries a merge out; one that was cut off is done once more.
func (n *Native) Merge(ctx context.Context, m EngineMerge, progress func(done, total int64), then func() error) error {
	if m.Pull {
		return n.pull(ctx, m, progress, then)
	}
	again, err := n.mergedBefore(m)
	if err == nil && again {
		err = n.takeBack(m)
	}
	if err != nil {
		return err
	}
	return n.steady(ctx, func() error {
		plan, err := n.plan(ctx, m)
		if err != nil {
			return err
		}
		return n.storeFor(m).CommitAnd(ctx, plan, counted(plan.Bytes, progress), then)
	})
}

// takeBack lets the layer above build on the top again.
func (n *Native) takeBack(m EngineMerge) error {
	above, err := n.Store.Node(m.Above.Path, m.Above.Format)
	if err != nil {
		return err
	}
	return n.Store.Relink(m.Above.Path, m.Above.Format, chain.BackingName(above, m.Top.Path), m.Top.Format)
}

// errMoved says that a guest was started or stopped since the plan was made.
var errMoved = errors.New("the guest was started or stopped meanwhile")

// engineMerge is m for the engine, with the chain as it is now.
func engineMerge(disk *Disk, m *merge) (EngineMerge, error) {
	if disk == nil {
		return EngineMerge{}, errors.New("the layers are gone")
	}
	base, top := disk.index(m.Base.Path), disk.index(m.Top.Path)
	if base < 0 || top <= base {
		return EngineMerge{}, fmt.Errorf("the chain has changed: %v", paths(disk.Chain))
	}
	e := EngineMerge{Base: disk.Chain[base], Top: disk.Chain[top], Chain: disk.Chain, Pull: m.Pull}
	if top+1 < len(disk.Chain) {
		e.Above = &disk.Chain[top+1]
	}
	return e, nil
}

// checkOffline asks the engine before anything is done whether it would merge.
func (r *domainRun) checkOffline(ctx context.Context, g *group) error {
	for i := range g.merges {
		if !g.merges[i].offline {
			continue
		}
		e, err := engineMerge(g.merges[i].diskFor(r.w.Domain(g.merges[i].Domain)), &g.merges[i])
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
func (r *domainRun) mergeOffline(ctx context.Context, m *merge, s Step) error {
	e, err := engineMerge(m.diskFor(r.w.Domain(m.Domain)), m)
	if err != nil {
		return err
	}
	progress := func(done, total int64) {
		r.merged = true // a lock that is missed from now on is no merge that has not begun
		r.Report(Event{Kind: EventProgress, Domain: m.Domain, Step: s, Done: done, Total: total})
	}
	r.boundary("merge starts")
	if m.branch {
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
func (r *domainRun) startFromMerged(ctx context.Context, m *merge, before []Layer) error {
	host := r.Host
	if err := host.Reconfigure(ctx, m.Domain, map[string][]Layer{m.Disk: m.after}); err != nil {
		return err
	}
	r.boundary("on record")
	active, err := true, error(nil)
	for began := time.Now(); active && err == nil && time.Since(began) < cmp.Or(r.StartPatience, startPatience); time.Sleep(20 * time.Millisecond) {
		if active, err = host.Active(ctx, m.Domain); err == nil && !active {
			return nil
		}
	}
	return errors.Join(errMoved, err, host.Reconfigure(ctx, m.Domain, map[string][]Layer{m.Disk: before}))
}

// startedMeanwhile returns errMoved for an error that comes from the guest having
// been started or stopped.
func (r *domainRun) startedMeanwhile(ctx context.Context, m *merge, err error) error {
	var busy *vfs.BusyError
	if m.offline && !errors.As(err, &busy) || ctx.Err() != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return err
	case <-time.After(SettleTime): // until libvirt, too, has noticed
	}
	if r.look(ctx, m.Domain, maxAge) != nil {
		return err
	}
	if d := r.w.Domain(m.Domain); d != nil && d.State.Live() == m.offline {
		return fmt.Errorf("%w (%w)", errMoved, err)
	}
	return err
}
