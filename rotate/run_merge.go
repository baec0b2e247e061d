package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// group carries out one group of the plan.
func (r *domainRun) group(ctx context.Context, p *decide.Plan, g *decide.Group) error {
	steps := p.Steps[g.First : g.First+g.Steps]
	d := r.w.Domain(p.Domain)
	var err error
	if g.Snapshot != nil {
		err = r.snapshot(ctx, d, g, steps)
	} else {
		err = r.mergeGroup(ctx, d, g, steps)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Domain, err)
	}
	return nil
}

// mergeGroup carries out the order of a merge: intent, metadata that goes,
// merges, metadata that stays, files, end of the intent.
func (r *domainRun) mergeGroup(ctx context.Context, d *host.Domain, g *decide.Group, steps []decide.Step) error {
	if err := r.check(ctx, g); err != nil {
		return err
	}
	before, err := r.keepBefore(ctx, d, g)
	if err != nil {
		return err
	}
	if len(g.Drops) > 0 {
		if err := r.beforeDrop(ctx, d, g, steps); err != nil {
			return err
		}
	}
	in := r.intentOf(d, g)
	if in != nil {
		r.boundary("before the intent")
		if err := r.record(in); err != nil {
			return fmt.Errorf("intent journal: %w", err)
		}
		r.boundary("after the intent")
	}
	err = r.tellWork(ctx)
	if err == nil {
		err = r.mergeSteps(ctx, d, g, steps)
	}
	if err != nil {
		err = r.notBegun(ctx, d, g, err, before)
		r.workDone(ctx)
		return err
	}
	if err := r.leaveOwed(ctx, d.Name); err != nil || g.KeepIntent {
		return err
	}
	if err := r.tidyReleased(d.Name); err != nil {
		return err
	}
	if err := r.endIntent(d); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	r.boundary("after the end of the intent")
	r.workDone(ctx)
	return nil
}

// beforeDrop sees that the metadata of the snapshots that stay can be redefined
// afterwards, and puts on record whose layers are free to go.
func (r *domainRun) beforeDrop(ctx context.Context, d *host.Domain, g *decide.Group, steps []decide.Step) error {
	var stay []string
	for _, s := range steps {
		if s.Op == decide.OpRedefine {
			stay = append(stay, s.Snapshot)
		}
	}
	if err := r.Host.Rehearse(ctx, d.Name, stay); err != nil {
		return fmt.Errorf("nothing was changed, for the metadata of the snapshots that stay could not be brought in order afterwards: %w", err)
	}
	return r.release(d, g.Drops)
}

// endIntent ends the domain's intent. While the guest may be frozen, that much
// of it stays, so that the next run thaws it.
func (r *domainRun) endIntent(d *host.Domain) error {
	j := journal.In(r.Observer.StateDir)
	var rest *journal.Intent
	if r.frozen {
		rest = &journal.Intent{Domain: d.Name, UUID: d.UUID, Started: r.Clock(), Quiesce: true}
	}
	if err := r.leave(d, rest, nil); err != nil && r.intentNow(d).Lasting() {
		return err
	}
	if rest != nil {
		return j.Write(*rest)
	}
	return j.Remove(d.UUID)
}

// intentOf returns the intent to write for the group; nil when the files that
// it deletes are in an earlier intent, or when it deletes none.
func (r *domainRun) intentOf(d *host.Domain, g *decide.Group) *journal.Intent {
	if len(g.Leftovers) > 0 || len(g.Merges)+len(g.Drops)+len(g.Garbage) == 0 || len(g.Merges) > 0 && g.Merges[0].Adopt {
		return nil
	}
	in := &journal.Intent{Domain: d.Name, UUID: d.UUID, Started: r.Clock(), Quiesce: r.frozen, Drops: g.Drops, Garbage: g.Garbage}
	for i := range g.Merges {
		in.Merges = append(in.Merges, intentOfMerge(&g.Merges[i]))
	}
	return in
}

func (r *domainRun) mergeSteps(ctx context.Context, d *host.Domain, g *decide.Group, steps []decide.Step) error {
	merge := 0
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.leaveBefore(ctx, d.Name, s.Op); err != nil {
			return stepError(i, steps, err)
		}
		r.starts(d.Name, s)
		var err error
		switch s.Op {
		case decide.OpDropMetadata:
			err = r.dropMetadata(ctx, d, g.Drops, s.Snapshot)
		case decide.OpMerge:
			err = carrierOf(&g.Merges[merge]).merge(ctx, r, g, &g.Merges[merge], s)
			r.merged = r.merged || err == nil
			merge++
		case decide.OpEndCopy:
			err = r.endCopy(ctx, d.Name, s.Disk)
		case decide.OpRedefine:
			if i == 0 || steps[i-1].Op != decide.OpRedefine {
				err = r.look(ctx, d.Name, maxAge)
			}
			if err == nil {
				err = r.redefine(ctx, d.Name, s)
			}
		case decide.OpDeleteFile:
			err = r.deleteFile(ctx, d.Name, s.Path)
			if s.Bytes > 0 { // else others have the same extents
				s.Bytes = r.w.Left[s.Path].Allocated // now; 0 where it was gone already
			}
		}
		if err != nil {
			return stepError(i, steps, err)
		}
		r.did(d.Name, s)
		r.owes = r.owes || s.Op == decide.OpDropMetadata || s.Op == decide.OpRedefine
	}
	return nil
}

// errGone says that the domain was undefined since the plan was made.
var errGone = errors.New("the domain is gone")

func stepError(i int, steps []decide.Step, err error) error {
	return fmt.Errorf("step %d of %d, %s: %w", i+1, len(steps), steps[i], err)
}

// verify compares live XML, inactive XML and image headers with what the
// merge was to lead to. Nothing is deleted unless all of them agree.
func (r *domainRun) verify(ctx context.Context, m *decide.Merge) error {
	if err := r.look(context.WithoutCancel(ctx), m.Domain, maxAge); err != nil {
		return err
	}
	d := r.w.Domain(m.Domain)
	if d == nil {
		return errGone
	}
	for i := range d.Disks {
		if d.Disks[i].Target == m.Disk {
			if err := checkMerged(&d.Disks[i], m); err != nil {
				return err
			}
			r.tellTops(context.WithoutCancel(ctx), d)
			return nil
		}
	}
	return fmt.Errorf("the guest has no disk %s any more", m.Disk)
}

func checkMerged(disk *host.Disk, m *decide.Merge) error {
	const kept = "; nothing was deleted"
	if have, want := host.Paths(disk.Chain), host.Paths(m.After); !slices.Equal(have, want) {
		return fmt.Errorf("after the merge the chain of %s is %v, not %v%s", m.Disk, have, want, kept)
	}
	if code, path, detail := host.ChainProblem(disk); code != "" {
		return fmt.Errorf("after the merge of %s: %s: %s%s", m.Disk, path, detail, kept)
	}
	if detail := host.InactiveProblem(disk); detail != "" {
		return fmt.Errorf("after the merge of %s: %s%s", m.Disk, detail, kept)
	}
	return nil
}

// redefine writes into a snapshot's metadata, or into the domain's persistent
// configuration where the step names no snapshot, where the disks are now.
func (r *domainRun) redefine(ctx context.Context, domain string, s decide.Step) error {
	d := r.w.Domain(domain)
	if d == nil {
		return errGone
	}
	if s.Snapshot == "" {
		chain := r.ask(d).StartChain(s.Disk)
		if len(chain) == 0 || chain[len(chain)-1].Path != s.Base {
			return errors.New("refused meanwhile: the guest no longer writes to it")
		}
		return r.Host.Reconfigure(ctx, domain, map[string][]host.Layer{s.Disk: chain})
	}
	fix, ok := r.ask(d).Fixes()[s.Snapshot]
	if !ok {
		return nil
	}
	return r.Host.Redefine(ctx, domain, fix)
}

// deleteFile deletes a merged file if the intent names exactly that file and
// nothing on the host refers to it.
func (r *domainRun) deleteFile(ctx context.Context, domain, path string) error {
	if err := r.lookUntilClosed(ctx, domain, path); err != nil {
		return err
	}
	d := r.w.Domain(domain)
	if d == nil {
		return errGone
	}
	in := r.w.Intents[d.UUID]
	if in == nil {
		return errors.New("the intent journal does not name it")
	}
	i := slices.IndexFunc(in.Files(), func(f journal.File) bool { return f.Path == path })
	if i < 0 {
		return errors.New("the intent journal does not name it")
	}
	return removeUnused(r.w, d, in.Files()[i])
}

// lookUntilClosed looks at the host, all of it, until no process has the file
// open: QEMU closes a merged layer shortly after the job is gone. It gives up
// silently, since whoever deletes checks again.
func (r *domainRun) lookUntilClosed(ctx context.Context, domain, path string) error {
	for range 30 {
		if err := r.look(ctx, domain, deleteAge); err != nil {
			return err
		}
		if !r.w.Left[path].InUse {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// removeUnused removes the file unless anything uses it. A file that is gone
// already is no error.
func removeUnused(w *observe.World, d *host.Domain, f journal.File) error {
	exactly, there, err := decide.MayDelete(w, d, f)
	if err != nil || !there {
		return err
	}
	err = vfs.RemoveExact(exactly.Path, exactly.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
