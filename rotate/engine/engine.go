package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// An Engine merges layers of disks that no guest has open.
type Engine interface {
	// Overlay makes the empty file at path an overlay on below, durably. After an
	// error it is empty.
	Overlay(ctx context.Context, path string, below host.Layer) error
	// Check returns what Merge would refuse. It changes nothing.
	Check(ctx context.Context, m Merge) error
	// Merge brings what the layers above Base up to Top have into Base and lets
	// Above build on it; of a pull, it brings what the layers from Base on have into
	// Top and lets that build on what is below Base. No file goes. While all of them are locked, it calls then.
	// The error is a *vfs.BusyError where somebody has one of the images open.
	Merge(ctx context.Context, m Merge, progress func(done, total int64), then func() error) error
	// States returns what states the last image of a chain holds, in the order of their dates,
	// the active one last. It changes nothing.
	States(ctx context.Context, chain []host.Layer) ([]host.InternalState, error)
	// Unfold fills files that are there and empty with states of images, and compares each
	// with its state. While nobody can write to the images, it calls then.
	Unfold(ctx context.Context, u []Unfold, progress Progress, then func() error) error
	// Graft builds, in files that are there and empty, what is to take the place of
	// the upper layers of a running guest's disk, which it only reads.
	Graft(ctx context.Context, g Graft) error
}

// A Graft says what to build. Next and Goes are parallel to the upper part of
// Chain; the last is for the active layer, and becomes an empty overlay like it.
type Graft struct {
	Chain []host.Layer // all of the disk, base first
	Next  []string
	Goes  []bool // the layer is merged into the one below; its file at Next goes
	Full  bool   // all that was built is read and compared, not only what was copied
}

// A Merge says what to merge of a disk's chain.
type Merge struct {
	Base, Top host.Layer
	Above     *host.Layer // the layer that builds on Top; nil where Top is the active one
	Pull      bool
	Chain     []host.Layer // all of the disk, base first
}

// Native is the Engine that works on the image files itself.
type Native struct {
	Store chain.Store
	// NewOverlay writes an overlay without data into an empty file, with the features
	// of the image at like, if that is not "".
	NewOverlay func(f vfs.File, like string, size int64, backing, format string) error
	// Internal are the internal snapshots of an open image.
	Internal func(chain.Source) ([]chain.State, error)
}

// Overlay makes the empty file at path an overlay on below.
func (n *Native) Overlay(_ context.Context, path string, below host.Layer) error {
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
func (n *Native) Check(ctx context.Context, m Merge) error {
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

func (n *Native) planPull(ctx context.Context, m Merge) (*chain.Pull, error) {
	base := ""
	if i := slices.IndexFunc(m.Chain, func(l host.Layer) bool { return l.Path == m.Base.Path }); i > 0 {
		base = m.Chain[i-1].Path
	}
	return n.storeFor(m).PlanPull(ctx, m.Top.Path, m.Top.Format, base)
}

// pull carries a pull out. One that was cut off just before it was on record has all
// of its data: only then is left to do.
func (n *Native) pull(ctx context.Context, m Merge, progress func(done, total int64), then func() error) error {
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

func (n *Native) plan(ctx context.Context, m Merge) (*chain.Merge, error) {
	return n.storeFor(m).PlanCommit(ctx, chain.CommitRequest{Top: m.Top.Path, Format: m.Top.Format, Base: m.Base.Path, Unrecorded: true})
}

// storeFor follows backing names to the layers that the domain has, be they symbolic
// links as those of logical volumes are, and beside these. Where a link leads to an image,
// others may build on that there, too.
func (n *Native) storeFor(m Merge) *chain.Store {
	s := n.Store
	s.Named = host.Paths(m.Chain)
	for i := range m.Chain {
		l := &m.Chain[i]
		s.Allow = append(slices.Clip(s.Allow), filepath.Dir(l.Path))
		if !l.Symlink || !l.Kind.IsFile() || s.RealPath == nil {
			continue
		}
		if to, err := s.RealPath(l.Path); err == nil {
			s.Allow = append(s.Allow, filepath.Dir(to))
		}
	}
	return &s
}

// mergedBefore tells whether the layer above names the base already: a merge was
// cut off just before it was on record. The merged layers have all of their data still.
func (n *Native) mergedBefore(m Merge) (bool, error) {
	if m.Above == nil {
		return false, nil
	}
	above, err := n.Store.Node(m.Above.Path, m.Above.Format)
	if err != nil {
		return false, err
	}
	below := host.BackingPath(&host.Layer{Path: m.Above.Path, Image: &above.Image})
	info, err := n.Store.FS.Stat(below)
	if err != nil {
		return false, fmt.Errorf("backing file of %s: %w", m.Above.Path, err)
	}
	return info.ID == m.Base.ID, nil
}

// Merge carries a merge out; one that was cut off is done once more.
func (n *Native) Merge(ctx context.Context, m Merge, progress func(done, total int64), then func() error) error {
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
func (n *Native) takeBack(m Merge) error {
	above, err := n.Store.Node(m.Above.Path, m.Above.Format)
	if err != nil {
		return err
	}
	return n.Store.Relink(m.Above.Path, m.Above.Format, chain.BackingName(above, m.Top.Path), m.Top.Format)
}
