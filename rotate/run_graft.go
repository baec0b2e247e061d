package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A graftCarrier builds clones, and moves the running guest onto them.
type graftCarrier struct{}

func (graftCarrier) check(context.Context, *domainRun, *decide.Merge) error { return nil }

func (graftCarrier) record(m *decide.Merge, im *journal.Merge) { im.Graft = m.Graft.Intent() }

// merge carries out all grafts of a group at its first one: no disk of the guest is
// moved before all of them can be. What fails before that leaves the guest where it is.
func (graftCarrier) merge(ctx context.Context, r *domainRun, g *decide.Group, m *decide.Merge, s decide.Step) error {
	if g.Grafted {
		return nil
	}
	grafts := g.Grafts()
	release, err := r.takeStorages(ctx, grafts)
	if err != nil {
		return err
	}
	defer release()
	if err := r.mayGraft(ctx, m.Domain, grafts); err != nil {
		return err
	}
	d := r.w.Domain(m.Domain)
	err = r.buildAndCopy(ctx, d, grafts, s)
	if err == nil {
		err = r.pivotAll(ctx, d, grafts)
	}
	if err != nil {
		undone := r.undoGrafts(context.WithoutCancel(ctx), d.Name)
		if errors.Is(err, host.ErrOutrun) && undone == nil && r.rule.Method == policy.MethodAuto {
			r.o.NoGraft = true
			return fmt.Errorf("%w: %w", errOtherWay, err)
		}
		return errors.Join(err, undone)
	}
	g.Grafted = true
	return nil
}

// errOtherWay says that a graft was given up, with nothing changed: a commit does it.
var errOtherWay = errors.New("a graft is given up")

// takeStorages takes the file systems of all merges, in an order that all runs have.
func (r *domainRun) takeStorages(ctx context.Context, merges []*decide.Merge) (func(), error) {
	var all []uint64
	for _, m := range merges {
		all = append(all, m.Base.FS)
	}
	slices.Sort(all)
	var releases []func()
	release := func() {
		for _, f := range releases {
			f()
		}
	}
	for _, fs := range slices.Compact(all) {
		f, err := r.storages.take(ctx, fs)
		if err != nil {
			release()
			return nil, err
		}
		releases = append(releases, f)
	}
	return release, nil
}

// mayGraft decides anew whether the grafts may be done.
func (r *domainRun) mayGraft(ctx context.Context, domain string, grafts []*decide.Merge) error {
	if err := r.look(ctx, domain, maxAge); err != nil {
		return err
	}
	d := r.w.Domain(domain)
	if d == nil {
		return errGone
	}
	if !d.State.Live() {
		return errMoved
	}
	for _, m := range grafts {
		if err := r.ask(d).StillAllowed(m); err != nil {
			return err
		}
	}
	return nil
}

// buildAndCopy builds the new layers of all grafts and has the guest write to both.
func (r *domainRun) buildAndCopy(ctx context.Context, d *host.Domain, grafts []*decide.Merge, s decide.Step) error {
	if err := r.makeClones(d, grafts); err != nil {
		return err
	}
	r.boundary("clones named")
	if err := r.releaseClones(d, grafts); err != nil {
		return fmt.Errorf("record of released layers: %w", err)
	}
	var total, before int64
	for _, m := range grafts {
		total += m.Graft.Old[len(m.Graft.Old)-1].Allocated
	}
	for _, m := range grafts {
		spec := engine.Graft{Chain: host.DiskOf(r.w.Domain(d.Name), m.Disk).Chain, Goes: m.Graft.Goes, Full: r.o.VerifyFull}
		for i := range m.Graft.Next {
			spec.Next = append(spec.Next, m.Graft.Next[i].Path)
		}
		if err := r.changing().Graft(ctx, spec); err != nil {
			return fmt.Errorf("building the new layers of %s: %w", m.Disk, err)
		}
		r.boundary("clones built")
		if err := removeFiles(m.Graft.Scratch()); err != nil {
			return err
		}
		r.boundary("merged clones removed")
	}
	for _, m := range grafts {
		bytes := m.Graft.Old[len(m.Graft.Old)-1].Allocated
		progress := func(done, _ int64) {
			r.Report(Event{Kind: EventProgress, Domain: d.Name, Step: s, Done: before + done, Total: total})
		}
		copied := host.CopySpec{Domain: d.Name, Disk: m.Disk, To: m.Graft.Active().Path, Format: "qcow2", Bandwidth: m.Bandwidth, Bytes: bytes}
		if err := r.Host.Copy(ctx, copied, progress); err != nil {
			return fmt.Errorf("copying the active layer of %s: %w", m.Disk, r.explain(m, err))
		}
		before += bytes
		r.boundary("copy ready")
	}
	return nil
}

// makeClones makes the files of the new layers, empty, and puts them on record. The
// intent names them already.
func (r *domainRun) makeClones(d *host.Domain, grafts []*decide.Merge) error {
	return r.changeIntent(d, func(in *journal.Intent) error {
		for _, m := range grafts {
			im := in.GraftOf(m.Disk)
			if im == nil {
				return errors.New("the intent journal does not name the graft")
			}
			for i := range im.Graft.Next {
				f := &im.Graft.Next[i]
				info, err := vfs.CreateExclusive(f.Path, overlayMode)
				if err != nil { // what is there is not ours: take it out of the intent
					err = errors.Join(err, removeFiles(im.Graft.Next[:i]))
					in.Merges = slices.DeleteFunc(in.Merges, func(o journal.Merge) bool { return o.Graft == im.Graft })
					return err
				}
				f.ID, m.Graft.Next[i].ID = info.ID, info.ID
				r.boundary("a clone's file made")
			}
		}
		return nil
	})
}

// releaseClones puts on record that what takes the place of a released layer is free, too.
func (r *domainRun) releaseClones(d *host.Domain, grafts []*decide.Merge) error {
	layers := slices.Clone(r.w.Released[d.UUID])
	for _, m := range grafts {
		for i := range m.Graft.Next {
			if !m.Graft.Goes[i] && r.w.IsReleased(d, &m.Graft.Old[i]) {
				layers = append(layers, journal.File{Path: m.Graft.Next[i].Path, ID: m.Graft.Next[i].ID})
			}
		}
	}
	return r.saveReleased(d, layers)
}

func removeFiles(files []journal.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, vfs.RemoveExact(f.Path, f.ID))
	}
	return errors.Join(errs...)
}

// changeIntent writes the domain's intent anew, as do leaves it also after an error.
func (r *domainRun) changeIntent(d *host.Domain, do func(*journal.Intent) error) error {
	in, err := journal.In(r.Observer.StateDir).Read(d.UUID)
	if err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	if err := do(in); err != nil {
		return errors.Join(err, r.record(in))
	}
	if err := r.record(in); err != nil {
		return fmt.Errorf("intent journal: %w", err)
	}
	return nil
}

// ready puts on record since when the guest may be on the new layers of the disks.
func (r *domainRun) ready(d *host.Domain, since time.Time, disks ...string) error {
	return r.changeIntent(d, func(in *journal.Intent) error {
		for _, disk := range disks {
			if im := in.GraftOf(disk); im != nil {
				im.Graft.Ready = since
			}
		}
		return nil
	})
}

// pivotAll moves the guest onto the new layers, disk by disk, when all of them are
// ready. What the guest flushed before that QEMU has flushed in the old ones only: the
// new ones are put on stable storage here, before the old ones go.
func (r *domainRun) pivotAll(ctx context.Context, d *host.Domain, grafts []*decide.Merge) error {
	var disks []string
	for _, m := range grafts {
		disks = append(disks, m.Disk)
		if err := syncPath(m.Graft.Active().Path); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.ready(d, time.Now(), disks...); err != nil {
		return err
	}
	r.boundary("ready to move")
	for _, m := range grafts {
		if err := r.Host.Pivot(context.WithoutCancel(ctx), d.Name, m.Disk); err != nil {
			return r.startedMeanwhile(ctx, m, err)
		}
		r.boundary("moved")
		if err := syncPath(m.Graft.Active().Path); err != nil {
			return err
		}
		if err := r.verify(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// undoGrafts ends the copies of a graft that failed and removes the new layers of the
// disks whose guest was not moved. What cannot be told is left to the next run.
func (r *domainRun) undoGrafts(ctx context.Context, domain string) error {
	if err := r.look(ctx, domain, maxAge); err != nil {
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
	var errs []error
	for i := range in.Merges {
		im := &in.Merges[i]
		disk := host.DiskOf(d, im.Disk)
		if im.Graft == nil || len(im.Graft.Next) == 0 || disk == nil || im.Graft.Ended(disk) || r.w.Unsure(im, disk) {
			continue
		}
		err := r.endCopy(ctx, domain, im.Disk)
		if err == nil {
			err = r.removeClones(ctx, domain, im)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// endCopy ends the copy of a graft: while it is there, the guest is on the old layers.
func (r *domainRun) endCopy(ctx context.Context, domain, disk string) error {
	d := r.w.Domain(domain)
	if d == nil {
		return errGone
	}
	if in := r.w.Intents[d.UUID]; in != nil && in.GraftOf(disk) != nil && !in.GraftOf(disk).Graft.Ready.IsZero() {
		if err := r.ready(d, time.Time{}, disk); err != nil {
			return err
		}
	}
	r.boundary("no longer ready")
	if !d.State.Live() {
		return nil
	}
	return r.Host.EndCopy(ctx, domain, disk)
}

// removeClones removes the new layers of a graft to which the guest was not moved.
func (r *domainRun) removeClones(ctx context.Context, domain string, im *journal.Merge) error {
	var errs []error
	for _, f := range slices.Backward(im.Graft.Next) {
		if err := r.lookUntilClosed(ctx, domain, f.Path); err != nil {
			return err
		}
		d := r.w.Domain(domain)
		if d == nil {
			return errGone
		}
		if f.ID == (vfs.ID{}) {
			continue // not made
		}
		if err := removeUnused(r.w, d, f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Path, err))
		}
	}
	return errors.Join(errs...)
}
