package rotate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A guest that is off here may run on another host, and other programs open images, too.
// QEMU's image locks tell, as far as they reach; they are asked before anything is
// done, and before the metadata of a snapshot goes.

// checkWriters refuses a guest that is off while somebody writes to a layer of its disk.
func (b *builder) checkWriters(disk *Disk) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; !b.d.State.Live() && l.Use.Write {
			b.refuse(CodeInUse, l.Path, "the guest is shut off here, but a process writes to this image: it runs on another host, or another program works on it; let that end, or undefine the domain where it does not belong")
			return
		}
	}
}

// busy tells who has layers open that the engine would lock for these merges; before is
// the world without them. A merge that meets a reader is put off.
func (b *builder) busy(before *builder, merges []merge) string {
	for i := range merges {
		m := &merges[i]
		disk := before.diskFor(m)
		if !m.offline || disk == nil {
			continue
		}
		first, last := disk.index(m.Base.Path), disk.index(m.Top.Path)+1
		for k := max(first, 0); k <= last && k < len(disk.Chain); k++ {
			if l := &disk.Chain[k]; l.Use.Read || l.Use.Write {
				return fmt.Sprintf("a process has %s open, an export or another host perhaps: its merges wait until it is closed", l.Path)
			}
		}
	}
	return ""
}

// checkLocks refuses a merge where locks do not reach other hosts: one of them may have
// the layers open, and nothing would tell.
func (b *builder) checkLocks(m *merge) *Refusal {
	for _, l := range append([]Layer{m.Base, m.Top}, m.gone...) {
		if why := b.w.LocalLocks[filepath.Dir(l.Path)]; why != "" {
			return &Refusal{CodeLocalLocks, l.Path, "nothing is merged there: " + why + ", so other hosts do not see the locks on images, and this one not theirs; mount it with locks"}
		}
	}
	return nil
}

// A former is what a group of merges finds, to be put back should the first not begin. Of
// a running guest, nobody but its QEMU can tell beforehand whether another host has one
// of the images open: it has locked them itself.
type former struct {
	putBack  func() error // the metadata
	released []intentFile
}

// keepBefore notes that for a group that drops metadata before it merges; nil for others.
func (r *domainRun) keepBefore(ctx context.Context, d *Domain, g *group) (*former, error) {
	r.merged = false
	if len(g.drops) == 0 || len(g.merges) == 0 {
		return nil, nil
	}
	putBack, err := r.Host.KeepMetadata(ctx, d.Name)
	return &former{putBack, slices.Clone(r.w.Released[d.UUID])}, err
}

// A refusedError says that a run came upon what a plan would have refused, had it been
// known. Nothing was changed.
type refusedError struct{ Refusal }

func (e *refusedError) Error() string { return e.Detail }

// notBegun takes the group back if its first merge did not begin: nothing has moved, so
// all snapshots are what they were.
func (r *domainRun) notBegun(ctx context.Context, d *Domain, g *group, err error, was *former) error {
	var busy *vfs.BusyError
	if was == nil || r.merged || !errors.Is(err, ErrNotStarted) && !errors.As(err, &busy) || errors.Is(err, errMoved) {
		return err
	}
	m := &g.merges[0]
	before := m.diskFor(d)
	if look := r.look(context.WithoutCancel(ctx), d.Name, maxAge); look != nil {
		return errors.Join(err, look)
	}
	now := m.diskFor(r.w.Domain(d.Name))
	if before == nil || now == nil || now.Job != nil || !slices.Equal(paths(now.Chain), paths(before.Chain)) {
		return err
	}
	if back := was.putBack(); back != nil {
		return errors.Join(err, fmt.Errorf("its metadata could not be put back: %w", back))
	}
	if back := errors.Join(r.saveReleased(d, was.released), r.endIntent(d)); back != nil {
		return errors.Join(err, back)
	}
	r.undrop(g.drops)
	return &refusedError{Refusal{CodeInUse, m.Base.Path, fmt.Sprintf("its merge did not begin, and the snapshots stay as they were: %v; does another host or program have it open?", err)}}
}

// undrop takes the steps that were taken back out of the report.
func (r *domainRun) undrop(drops []string) {
	r.done = slices.DeleteFunc(r.done, func(s Step) bool { return s.Op == OpDropMetadata && slices.Contains(drops, s.Snapshot) })
}
