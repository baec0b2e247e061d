package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// makeMemoryFile makes the file for the guest's memory, empty, and puts on record that the guest may be
// paused from now on: it is for the moment of the disks.
func (r *domainRun) makeMemoryFile(d *host.Domain, spec *host.SnapshotSpec, in *journal.Intent) error {
	if spec.Memory == nil {
		return nil
	}
	in.Paused = d.State == host.Running
	if err := r.makeBeside(spec.Memory.Path, &in.Memory, in); err != nil {
		return fmt.Errorf("a file for the guest's memory: %w", err)
	}
	r.boundary("memory's file made")
	return nil
}

// snapshotWithMemory has libvirt write the memory and take the snapshot of its moment, and tells how long
// the guest stood still for it.
func (r *domainRun) snapshotWithMemory(ctx context.Context, domain string, spec *host.SnapshotSpec) error {
	step := decide.Step{Op: decide.OpMemory, Snapshot: spec.Name, Path: spec.Memory.Path, Bytes: spec.Memory.Size}
	progress := r.progress(domain, step)
	err := r.Host.SnapshotWithMemory(ctx, domain, *spec, host.MemoryEvents{
		Pausing:  func() error { r.boundary("about to pause"); return nil },
		Progress: func(done, total int64) { progress(min(done, total), total); r.boundary("memory is written") },
		Stood:    func(t time.Duration) { r.stood = t },
	})
	if err != nil {
		return fmt.Errorf("with the guest's memory: %w", err)
	}
	return nil
}

// resumeAfter lets a guest go on whose snapshot failed while it was paused for it, should libvirt not have done so.
func (r *domainRun) resumeAfter(ctx context.Context, d *host.Domain, in *journal.Intent) error {
	if !in.Paused || d.State != host.Paused || d.IOError || d.Busy != "" {
		return nil
	}
	return r.Host.Resume(ctx, d.Name)
}

// settleMemory puts the memory of a snapshot on stable storage that libvirt has finished alone, as its run was killed.
func (r *domainRun) settleMemory(d *host.Domain) error {
	in := r.w.Intents[d.UUID]
	if in == nil || in.Memory == nil || d.Busy != "" || d.FileOwner(in.Memory.Path) == "" {
		return nil
	}
	return syncFile(in.Memory.Path)
}

// verifyMemory sees that the memory is there, on stable storage, and readable to nobody else.
func (r *domainRun) verifyMemory(spec *host.SnapshotSpec, s *host.Snapshot) error {
	if spec.Memory == nil {
		return nil
	}
	path := spec.Memory.Path
	info, err := vfs.Lstat(path)
	switch {
	case err != nil:
		return fmt.Errorf("after the snapshot: the guest's memory: %w", err)
	case s == nil || s.Memory != path || info.Size == 0:
		return fmt.Errorf("after the snapshot: libvirt did not keep the guest's memory in %s", path)
	case info.Mode&0o077 != 0:
		err = os.Chmod(path, overlayMode)
	}
	return errors.Join(err, syncFile(path))
}

// syncFile puts a file that somebody else has written on stable storage.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), vfs.SyncDir(filepath.Dir(path)))
}

// stoodText tells how long the guest stood still.
func (r *domainRun) stoodText() string {
	if r.stood == 0 {
		return ""
	}
	return fmt.Sprintf("; it stood still for %v", r.stood.Round(time.Millisecond))
}

// rehearseMemory sees that the guest can go on from the memory, as far as that can be told beforehand.
func (s *restore) rehearseMemory(ctx context.Context) {
	path := s.plan.Memory
	if path == "" {
		return
	}
	if err := s.Host.RehearseGoOn(ctx, s.plan.Plan.Domain, path); err != nil {
		s.plan.Plan.Refuse(host.CodeMemory, path, "the guest cannot go on from the memory of the snapshot: "+err.Error()+"; say --without-memory, and it does not")
	}
}

// goOn lets the guest go on from the memory of the snapshot, on the disks that have gone back.
func (s *restore) goOn(ctx context.Context, p decide.Plan, step decide.Step) decide.Plan {
	s.starts(p.Domain, step)
	chains := map[string][]host.Layer{}
	err := s.look(ctx, p.Domain, 0)
	d := s.w.Domain(p.Domain)
	switch {
	case err != nil:
	case d == nil:
		err = errGone
	case d.State.Live():
		err = errors.New("the guest was started meanwhile")
	default:
		for i := range d.Disks {
			if disk := &d.Disks[i]; !disk.ReadOnly && len(disk.Chain) > 0 {
				chains[disk.Target] = disk.Chain
			}
		}
		err = s.Host.GoOn(ctx, p.Domain, step.Path, chains)
	}
	if err != nil {
		return s.finish(ctx, p, fmt.Errorf("the disks are on the snapshot and the guest is off, for it does not go on from its memory, %s: %w; virsh start lets it boot", step.Path, err))
	}
	s.did(p.Domain, step)
	return s.finish(ctx, p, nil)
}
