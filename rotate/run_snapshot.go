package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// overlayMode lets nobody but the owner read what a guest writes.
const overlayMode = 0o600

// snapshot takes one. The overlays are made first, empty and unreadable to
// others, so that the intent names exactly those files should we die.
func (r *domainRun) snapshot(ctx context.Context, d *host.Domain, g *decide.Group, steps []decide.Step) error {
	for _, s := range steps {
		r.starts(d.Name, s)
	}
	in := journal.Intent{Domain: d.Name, UUID: d.UUID, Started: r.Clock(), Quiesce: g.Snapshot.Quiesce || r.frozen}
	quiesce := g.Snapshot.Quiesce
	err := r.takeSnapshot(ctx, d, g.Snapshot, &in)
	if err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", g.Snapshot.Name, err), r.undoSnapshot(ctx, d.Name))
	}
	r.o.NoSnapshot = true // one a run, also with --now
	for _, s := range steps {
		if s.Op == decide.OpFirmware && g.Snapshot.Firmware == "" {
			continue // it was told why
		}
		if s.Op == decide.OpMemory {
			s.Bytes = r.w.Left[s.Path].Allocated
			s.Reason += r.stoodText()
		}
		if quiesce && !g.Snapshot.Quiesce {
			s.Reason += " (which failed: crash-consistent only)"
		}
		r.did(d.Name, s)
	}
	r.leaveChanged(ctx, d.Name)
	return nil
}

func (r *domainRun) takeSnapshot(ctx context.Context, d *host.Domain, spec *host.SnapshotSpec, in *journal.Intent) error {
	before, err := r.keepFirmware(d, spec, in)
	if err != nil {
		return err
	}
	if err := errors.Join(r.noteReverts(d), r.makeMemoryFile(d, spec, in), r.makeOverlays(spec, in)); err != nil {
		return err
	}
	r.boundary("overlays made")
	if err := r.callSnapshot(ctx, d.Name, spec); err != nil {
		return err
	}
	r.boundary("snapshot taken")
	r.compareFirmware(d, before)
	if err := r.verifySnapshot(ctx, d, spec); err != nil {
		return err
	}
	return r.endIntent(d)
}

// makeOverlays writes the intent, makes the empty files, and writes the
// intent again with their inodes.
func (r *domainRun) makeOverlays(spec *host.SnapshotSpec, in *journal.Intent) error {
	for _, path := range spec.Overlays {
		in.Created = append(in.Created, journal.File{Path: path})
	}
	slices.SortFunc(in.Created, func(a, b journal.File) int { return strings.Compare(a.Path, b.Path) })
	if err := r.record(in); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	r.boundary("first intent of the snapshot")
	for i := range in.Created {
		info, err := vfs.CreateExclusive(in.Created[i].Path, overlayMode)
		if err != nil { // what is there is not ours: take it out of the intent
			in.Created = in.Created[:i]
			return errors.Join(err, r.record(in))
		}
		in.Created[i].ID = info.ID
		r.boundary("an overlay made")
	}
	r.boundary("overlays made, intent not renewed")
	if err := r.record(in); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	return nil
}

// callSnapshot asks the host. With quiesce = "auto" an agent that does not
// answer in time costs the freeze, not the snapshot; spec tells that afterwards.
func (r *domainRun) callSnapshot(ctx context.Context, domain string, spec *host.SnapshotSpec) error {
	if spec.Memory != nil {
		return r.snapshotWithMemory(ctx, domain, spec)
	}
	err := r.Host.Snapshot(ctx, domain, *spec)
	if err == nil || !spec.Quiesce {
		return err
	}
	if thawed := r.Host.Thaw(ctx, domain); thawed != nil {
		r.frozen = true
		err = fmt.Errorf("%w; thaw: %w", err, thawed)
	}
	if r.o.Quiesce(r.rule) != policy.QuiesceAuto || !overlaysEmpty(spec) {
		return err
	}
	r.warn(domain, "the guest agent did not freeze the file systems ("+err.Error()+"): the snapshot is crash-consistent only")
	spec.Quiesce = false
	if mark, ok := host.ParseMark(spec.Description); ok {
		mark.Quiesced = false
		spec.Description = mark.String()
	}
	return r.Host.Snapshot(ctx, domain, *spec)
}

// overlaysEmpty tells whether the overlays are still the empty files that we made.
func overlaysEmpty(spec *host.SnapshotSpec) bool {
	for _, path := range spec.Overlays {
		if info, err := vfs.Lstat(path); err != nil || info.Size != 0 {
			return false
		}
	}
	return true
}

// verifySnapshot sees that each overlay is on top of its disk, on the right
// layer, and readable to nobody else.
func (r *domainRun) verifySnapshot(ctx context.Context, before *host.Domain, spec *host.SnapshotSpec) error {
	if err := r.look(context.WithoutCancel(ctx), before.Name, maxAge); err != nil {
		return err
	}
	d := r.w.Domain(before.Name)
	for target, path := range spec.Overlays {
		disk, was := host.DiskOf(d, target), host.DiskOf(before, target)
		if disk == nil || was == nil {
			return fmt.Errorf("the guest has no disk %s any more", target)
		}
		want := append(host.Paths(was.Chain), path)
		if have := host.Paths(disk.Chain); !slices.Equal(have, want) {
			return fmt.Errorf("after the snapshot the chain of %s is %v, not %v", target, have, want)
		}
		if code, where, detail := host.ChainProblem(disk); code != "" {
			return fmt.Errorf("after the snapshot: %s: %s", where, detail)
		}
		if disk.Active().Mode&0o077 != 0 {
			if err := os.Chmod(path, overlayMode); err != nil {
				return err
			}
		}
	}
	return r.verifyMemory(spec, d.Snapshot(spec.Name))
}

// undoSnapshot removes the overlays of a snapshot that was not taken, as far
// as nothing uses them and no guest wrote to them.
func (r *domainRun) undoSnapshot(ctx context.Context, domain string) error {
	ctx = context.WithoutCancel(ctx)
	if err := r.look(ctx, domain, 0); err != nil {
		return err
	}
	d := r.w.Domain(domain)
	if d == nil {
		return nil
	}
	in := r.w.Intents[d.UUID]
	if in == nil {
		return nil
	}
	if err := r.resumeAfter(ctx, d, in); err != nil {
		return err
	}
	if d.Busy != "" {
		return fmt.Errorf("libvirt is still at work on the guest (%s): the next run sees to the rest", d.Busy)
	}
	for _, f := range []*journal.File{in.Firmware, in.Memory} {
		if f == nil || d.FileOwner(f.Path) != "" {
			continue
		}
		if err := removeUnused(r.w, d, *f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	for _, f := range in.Created {
		if d.Uses(f.Path) {
			return nil // it was taken after all: the next run sees to the rest
		}
		if left, there := r.w.Left[f.Path]; there && !f.Blank(left) {
			return fmt.Errorf("%s: the overlay is in no chain, but holds data: left as it is", f.Path)
		}
		if err := removeUnused(r.w, d, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return r.endIntent(d)
}

// denied tells whether an error is about permissions. libvirt passes QEMU's
// message on as text only.
func denied(err error) bool {
	return errors.Is(err, syscall.EACCES) || strings.Contains(err.Error(), syscall.EACCES.Error()) ||
		strings.Contains(err.Error(), "Permission denied")
}
