package rotate

import (
	"context"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// dropMetadata drops a snapshot's metadata. libvirt 9 takes its overlays out of the
// stored chains of all descendants, as if they had been merged, and fails halfway where
// one of them lacks a disk that it has: so it has none any more by then.
func (r *domainRun) dropMetadata(ctx context.Context, d *host.Domain, drops []string, going string) error {
	up := host.Survivor(d, drops, going)
	gone := drops[:max(slices.Index(drops, going), 0)]
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; s.Parent == going && !slices.Contains(gone, s.Name) {
			if err := r.reparent(ctx, d, s, up); err != nil {
				return err
			}
		}
	}
	return r.Host.DropMetadata(ctx, d.Name, going)
}

func (r *domainRun) reparent(ctx context.Context, d *host.Domain, s *host.Snapshot, parent string) error {
	if err := r.Host.Redefine(ctx, d.Name, host.SnapshotFix{Snapshot: s.Name, Parent: &parent}); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.Name, err)
	}
	return nil
}
