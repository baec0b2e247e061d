package rotate

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A carrier carries out one way to merge; what decisions know of the way is in package
// decide. Each has a file of its own.
type carrier interface {
	// check refuses, before anything is done, what could not be carried out.
	check(ctx context.Context, r *domainRun, m *decide.Merge) error
	// record completes what the intent says of the merge.
	record(m *decide.Merge, im *journal.Merge)
	// merge does it, and compares the world with the plan afterwards.
	merge(ctx context.Context, r *domainRun, g *decide.Group, m *decide.Merge, s decide.Step) error
}

// carrierOf is who carries a merge out.
func carrierOf(m *decide.Merge) carrier {
	switch m.Way.Kind() {
	case journal.KindGraft:
		return graftCarrier{}
	case journal.KindBranch:
		return branchCarrier{}
	}
	if m.Offline {
		return offlineCarrier{}
	}
	return liveCarrier{}
}

// check asks before anything is done whether the merges could be carried out.
func (r *domainRun) check(ctx context.Context, g *decide.Group) error {
	for i := range g.Merges {
		if err := carrierOf(&g.Merges[i]).check(ctx, r, &g.Merges[i]); err != nil {
			return err
		}
	}
	return nil
}

// intentOfMerge is what is written down of a merge before it begins.
func intentOfMerge(m *decide.Merge) journal.Merge {
	im := journal.Merge{Disk: m.Disk, Base: m.Base.Path}
	if m.Pull {
		im.Pull = m.Top.Path
	}
	for _, l := range m.Gone {
		im.Gone = append(im.Gone, journal.File{Path: l.Path, ID: l.ID})
	}
	carrierOf(m).record(m, &im)
	return im
}

// alone works on the domain, which is looked at first, while no other merge writes to the
// same file system.
func (r *domainRun) alone(ctx context.Context, m *decide.Merge, do func(d *host.Domain) error) error {
	to, _ := m.Ends()
	release, err := r.storages.take(ctx, to.FS)
	if err != nil {
		return err
	}
	defer release()
	slot, err := r.Observer.Fleet.Take(ctx, filepath.Dir(to.Path))
	if err != nil {
		return fmt.Errorf("%w: no slot can be had on its storage: %w", decide.ErrNoLonger, err)
	}
	defer slot.Release()
	if err := r.look(ctx, m.Domain, maxAge); err != nil {
		return err
	}
	d := r.w.Domain(m.Domain)
	if d == nil {
		return errGone
	}
	if err := do(d); err != nil {
		return err
	}
	if err := slot.Err(); err != nil {
		return fmt.Errorf("the slot to merge on its storage was lost meanwhile (%w): the next run goes on from here", err)
	}
	return nil
}
