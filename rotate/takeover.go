package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// TakeOver makes a domain this host's on all storages that its layers lie on, by a person's
// word: another host had it, and that is over. down names a host of which the person says that it
// is down. Of a domain that is this host's anyhow the others are told how it is now. It is done by telling so with a higher epoch, storage by storage: after a crash between
// two, doing it again finishes it. The caller holds the Lock.
func (r *Rotator) TakeOver(ctx context.Context, domain, down string, plan bool) (decide.Plan, error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return decide.Plan{}, err
	}
	d := w.Domain(domain)
	if d == nil {
		return decide.Plan{}, w.NoSuchDomain(domain)
	}
	p, epoch := r.planTakeover(w, d, down)
	switch {
	case plan, len(p.Refused) > 0:
		return p, nil
	case len(p.Steps) == 0: // it is this host's: the others hear whether it runs, and on what layers
		if err := r.Observer.Tell(ctx, w, observe.News{}); err != nil {
			return p, err
		}
		return r.takenOver(ctx, w, d, p), nil
	}
	return r.takeOver(ctx, w, d, p, epoch), nil
}

// planTakeover says whether that may be, and with what epoch.
func (r *Rotator) planTakeover(w *observe.World, d *host.Domain, down string) (decide.Plan, uint64) {
	p := decide.Plan{Domain: d.Name, State: d.State, Steps: []decide.Step{}, Refused: []decide.Refusal{}}
	merged, unsure := r.mergedInto(w, d)
	epoch, err := r.Observer.Adoptable(w, d, down, merged)
	if err == nil {
		err = errors.Join(writtenElsewhere(d), builtOn(w, d, merged), r.leftBehind(w, d))
	}
	if err != nil && unsure != nil {
		err = unsure
	}
	if why := w.Whose[d.UUID].Why; err != nil {
		p.Refused = append(p.Refused, decide.Refusal{Code: host.CodeElsewhere, Detail: err.Error()})
	} else if why != "" {
		p.Steps = append(p.Steps, decide.Step{Op: decide.OpTakeOver, Reason: fmt.Sprintf("%s; from epoch %d on it is this host's", why, epoch)})
	}
	p.Settle()
	return p, epoch
}

func (r *Rotator) takeOver(ctx context.Context, w *observe.World, d *host.Domain, p decide.Plan, epoch uint64) decide.Plan {
	p.Result = decide.ResultDone
	r.boundary("before the takeover")
	err := r.Observer.Tell(ctx, w, observe.News{Adopted: map[string]uint64{d.UUID: epoch}})
	if err == nil {
		err = r.tookOver(ctx, d, &p)
	}
	if err != nil {
		p.Result, p.Error = decide.ResultFailed, err.Error()
	}
	return p
}

// tookOver sees that the others find it so, and takes up what the last owner has left.
func (r *Rotator) tookOver(ctx context.Context, d *host.Domain, p *decide.Plan) error {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return err
	}
	if v := w.Whose[d.UUID]; v.Why != "" {
		return errors.New(v.Why)
	}
	for i := range w.Shares {
		if s := &w.Shares[i]; s.Problem != "" && s.View.Mine.Guest(d.UUID) == nil {
			return errors.New(s.Problem)
		}
	}
	return r.takeUpInto(ctx, w, d, p)
}

// takenOver completes what an earlier takeover, or a run, could not take up.
func (r *Rotator) takenOver(ctx context.Context, w *observe.World, d *host.Domain, p decide.Plan) decide.Plan {
	if err := r.takeUpInto(ctx, w, d, &p); err != nil {
		p.Result, p.Error = decide.ResultFailed, err.Error()
	} else if len(p.Steps) > 0 {
		p.Result = decide.ResultDone
	}
	return p
}

// takeUpInto adds to the plan what was taken up.
func (r *Rotator) takeUpInto(ctx context.Context, w *observe.World, d *host.Domain, p *decide.Plan) error {
	t, err := r.takeUp(ctx, w, d.Name)
	if err != nil || t == nil {
		return err
	}
	for _, name := range t.snapshots {
		p.Steps = append(p.Steps, decide.Step{Op: decide.OpRedefine, Snapshot: name, Reason: "as host " + host.Quoted(t.from) + " had it on record"})
	}
	return nil
}

// writtenElsewhere tells of a guest that is off here, and whose images somebody writes to.
func writtenElsewhere(d *host.Domain) error {
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if !d.State.Live() && l.Use.Write {
				return fmt.Errorf("the guest is off here, and a process writes to %s: it runs on another host", l.Path)
			}
		}
	}
	return nil
}

// builtOn tells of a guest that is off, and would write to a layer on which another builds: its
// definition is older than a snapshot that its host has taken, but not told of before it died.
// Images that it has merged into that layer do not count.
func builtOn(w *observe.World, d *host.Domain, merged []string) error {
	for i := range d.Disks {
		disk := &d.Disks[i]
		if d.State.Live() || disk.ReadOnly || len(disk.Chain) == 0 {
			continue
		}
		path := disk.Active().Path
		l := w.Forest.Find(w.KeyOf(d, path))
		if l == nil {
			continue
		}
		for _, above := range l.Children {
			if !slices.Contains(merged, above.Path) && (len(merged) == 0 || !w.Itself(d, above.Path)) {
				return fmt.Errorf("the definition here is an old one: the guest would write to %q, on which %q builds: define the guest with the newest layer", path, above.Path)
			}
		}
	}
	return nil
}

// atOnce is how far apart the times of two layers may be that were written to one after the other, as when a merge ends.
const atOnce = 10 * time.Second

// leftBehind tells of a guest that is off, and would go on from a layer although one below was written to later: after a merge that
// libvirt was told not to delete anything of, the guest has run on the lower one, and the upper one is worth nothing. A merge that
// the last owner was at explains it. A guest that is this host's anyhow only has the others told.
func (r *Rotator) leftBehind(w *observe.World, d *host.Domain) error {
	if d.State.Live() || w.Whose[d.UUID].Why == "" {
		return nil
	}
	left := r.leftOf(w, d)
	for i := range d.Disks {
		disk := &d.Disks[i]
		if disk.ReadOnly || len(disk.Chain) == 0 || !disk.Active().Kind.IsFile() {
			continue
		}
		path := disk.Active().Path
		top, known := w.Written[path]
		for _, l := range disk.Chain[:len(disk.Chain)-1] {
			if at, ok := w.Written[l.Path]; known && ok && l.Kind.IsFile() && at.Sub(top) > atOnce && !left.MergesInto(l.Path) {
				return fmt.Errorf("%q was written to at %s, and %q, which builds on it and which the guest would write to, last at %s: if the guest ran on the lower one, by a merge that kept the upper one, define it with that; if the upper one is right: touch %s",
					l.Path, at.Local().Format(time.DateTime), path, top.Local().Format(time.DateTime), host.Quoted(path))
			}
		}
	}
	return nil
}

// mergedInto lists the images whose data is in those that the domain writes to here, since a run of the last owner has merged
// them, or since a person has decided so and moved them away. unsure tells of a merge of which it is not known
// whether the guest wrote to its base already.
func (r *Rotator) mergedInto(w *observe.World, d *host.Domain) (merged []string, unsure error) {
	left := r.leftOf(w, d)
	for _, path := range tops(d) {
		gone, over := left.Merging(path)
		if len(gone) == 0 {
			continue
		}
		top := gone[len(gone)-1]
		if !over && !isGone(top) {
			unsure = errors.Join(unsure, fmt.Errorf("host %s was merging %q into %q, which the guest would write to here, as it went: which of the two it wrote to last is not known; see stopped-in-pivot in docs/recovery.md", host.Quoted(left.Host), top, path))
			continue
		}
		merged = append(merged, gone...)
	}
	return merged, unsure
}

// isGone tells whether a file is not there, while its directory is.
func isGone(path string) bool {
	_, err := os.Lstat(path)
	_, dir := os.Stat(filepath.Dir(path))
	return errors.Is(err, fs.ErrNotExist) && dir == nil
}

// leftOf is what the last owner has left of the domain on the storage; nil for nothing that can be read.
func (r *Rotator) leftOf(w *observe.World, d *host.Domain) *journal.Handover {
	dirs, err := r.Observer.HandoverDirs(w, d)
	if err != nil {
		return nil
	}
	left, _, err := (&handover{dirs: dirs}).read(d.UUID)
	if err != nil {
		return nil
	}
	return left
}
