package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A former is what a group of merges finds, to be put back should the first not begin. Of
// a running guest, nobody but its QEMU can tell beforehand whether another host has one
// of the images open: it has locked them itself.
type former struct {
	putBack  func() error // the metadata
	released []journal.File
}

// keepBefore notes that for a group that drops metadata before it merges; nil for others.
func (r *domainRun) keepBefore(ctx context.Context, d *host.Domain, g *decide.Group) (*former, error) {
	r.merged = false
	if len(g.Drops) == 0 || len(g.Merges) == 0 {
		return nil, nil
	}
	putBack, err := r.Host.KeepMetadata(ctx, d.Name)
	return &former{putBack, slices.Clone(r.w.Released[d.UUID])}, err
}

// A refusedError says that a run came upon what a plan would have refused, had it been
// known. Nothing was changed.
type refusedError struct{ decide.Refusal }

func (e *refusedError) Error() string { return e.Detail }

// notBegun takes the group back if its first merge did not begin: nothing has moved, so
// all snapshots are what they were.
func (r *domainRun) notBegun(ctx context.Context, d *host.Domain, g *decide.Group, err error, was *former) error {
	var busy *vfs.BusyError
	if r.merged || len(g.Merges) == 0 || !errors.Is(err, host.ErrNotStarted) && !errors.As(err, &busy) && !errors.Is(err, decide.ErrNoLonger) || errors.Is(err, errMoved) {
		return err
	}
	m := &g.Merges[0]
	if was == nil {
		return r.orRead(ctx, d, m, err)
	}
	before := m.DiskFor(d)
	if look := r.look(context.WithoutCancel(ctx), d.Name, maxAge); look != nil {
		return errors.Join(err, look)
	}
	now := m.DiskFor(r.w.Domain(d.Name))
	if before == nil || now == nil || now.Job != nil || !slices.Equal(host.Paths(now.Chain), host.Paths(before.Chain)) {
		return err
	}
	if back := was.putBack(); back != nil {
		return errors.Join(err, fmt.Errorf("its metadata could not be put back: %w", back))
	}
	if back := errors.Join(r.saveReleased(d, was.released), r.endIntent(d)); back != nil {
		return errors.Join(err, back)
	}
	r.undrop(g.Drops)
	if read := m.Read(r.w); read != "" {
		return &readError{read}
	}
	if errors.Is(err, decide.ErrNoLonger) {
		return &refusedError{decide.Refusal{Code: host.CodeInUse, Path: m.Base.Path, Detail: fmt.Sprintf("its merge did not begin, and the snapshots stay as they were: %v", err)}}
	}
	return &refusedError{decide.Refusal{Code: host.CodeInUse, Path: m.Base.Path, Detail: fmt.Sprintf("its merge did not begin, and the snapshots stay as they were: %v; does another host or program have it open?", err)}}
}

// orRead is err, unless a program of ours has come to read the layers meanwhile: then the merge
// is planned anew, and put off.
func (r *domainRun) orRead(ctx context.Context, d *host.Domain, m *decide.Merge, err error) error {
	if look := r.look(context.WithoutCancel(ctx), d.Name, maxAge); look != nil {
		return errors.Join(err, look)
	}
	if read := m.Read(r.w); read != "" {
		return &readError{read}
	}
	return err
}

// A readError says that a program of ours reads what was to be merged: planned anew, that is put off.
type readError struct{ why string }

func (e *readError) Error() string { return e.why }

// undrop takes the steps that were taken back out of the report.
func (r *domainRun) undrop(drops []string) {
	r.done = slices.DeleteFunc(r.done, func(s decide.Step) bool { return s.Op == decide.OpDropMetadata && slices.Contains(drops, s.Snapshot) })
}
