package rotate

import (
	"context"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// Forget gives up snapshots of a domain whose states are lost, doubtful or no longer
// listed by libvirt: their metadata goes, and their layers are on record as free, so that
// later runs merge or delete them. A snapshot that is sound is refused. It changes no image.
// The caller holds the Lock. The error is a *chain.RefusedError, ErrNoSuchSnapshot or
// ErrNoSuchDomain for what cannot be forgotten; then nothing was changed.
func (r *Rotator) Forget(ctx context.Context, domain string, snapshots []string) error {
	seen := r.Clock()
	w, err := r.observe(ctx, domain, false)
	if err != nil {
		return err
	}
	d := w.Domain(domain)
	if d == nil {
		return w.NoSuchDomain(domain)
	}
	rule := decide.RuleOr(r.Match(decide.Guests(w)), domain)
	plan, err := decide.Forget(w, d, snapshots, r.Clock())
	if err != nil {
		return err
	}
	f := &forgetting{&domainRun{Rotator: r, rule: rule, w: w, seen: seen, start: seen}, plan, d}
	return f.forget(ctx)
}

// A forgetting is one call of Forget.
type forgetting struct {
	*domainRun
	plan *decide.Forgetting
	d    *host.Domain
}

// forget first puts on record what is free, then lets the metadata go.
func (f *forgetting) forget(ctx context.Context) error {
	layers := append(f.onRecord(f.d), f.plan.Free...)
	record := f.w.Record(f.d)
	record.Snapshots = nil
	for _, x := range f.w.Lost[f.d.UUID] {
		if !slices.Contains(f.plan.Names, x.Snapshot) {
			record.Snapshots = append(record.Snapshots, x)
		}
	}
	for _, name := range f.plan.Names {
		layers = append(layers, freedBy(f.d, f.d.Snapshot(name))...)
	}
	for _, path := range f.plan.Abandoned {
		info, err := vfs.Lstat(path)
		switch file := (journal.File{Path: path, ID: info.ID}); {
		case err != nil:
		case host.IsOverlay(path):
			layers = append(layers, file)
		default:
			record.Useless = append(record.Useless, file)
		}
	}
	if err := f.saveReleased(f.d, onceEach(layers)); err != nil {
		return fmt.Errorf("record of released layers: %w", err)
	}
	record.Useless = onceEach(record.Useless)
	first := record
	first.Snapshots = f.w.Lost[f.d.UUID]
	if err := journal.SaveLost(f.Observer.StateDir, f.d, first); err != nil {
		return err
	}
	for _, name := range f.plan.Names {
		if err := f.dropMetadata(ctx, f.d, f.plan.Names, name); err != nil {
			return err
		}
		if err := dropFilesOf(f.w, f.d, name); err != nil {
			return err
		}
	}
	if err := journal.SaveLost(f.Observer.StateDir, f.d, record); err != nil {
		return err
	}
	f.leaveChanged(ctx, f.d.Name)
	return nil
}

func onceEach(files []journal.File) []journal.File {
	var once []journal.File
	for _, f := range files {
		if !slices.ContainsFunc(once, func(o journal.File) bool { return o.Path == f.Path }) {
			once = append(once, f)
		}
	}
	return once
}
