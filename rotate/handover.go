package rotate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// On storage that other hosts have, too, what the next owner of a guest has to know is written beside the images, in
// this order: what a run is about to do, before it stands in the state directory, and so before any of it is done; the
// metadata of the snapshots whenever it has changed, before what cannot be taken back. So a host that takes the guest up
// from there finds what a run of this host would find that comes after the same death.

// handover is where the guest's records for other hosts are.
type handover struct {
	dirs  []string
	by    string
	epoch uint64 // with which the guest is this host's
}

// handover returns none for a guest of which no other host need know anything: it is not this host's, or on no
// storage that hosts have together.
func (r *domainRun) handover(d *host.Domain) (h handover, err error) {
	if r.Mover == nil || r.Observer.Fleet == nil || r.w.Remote || r.w.Whose[d.UUID].Epoch == 0 {
		return h, nil
	}
	if h.dirs, err = r.Observer.HandoverDirs(r.w, d); err != nil || len(h.dirs) == 0 {
		return handover{}, err
	}
	h.epoch = r.w.EpochOf(d)
	h.by, err = r.Observer.Fleet.ID()
	return h, err
}

// mine reads what stands in one of the directories, which this host may write anew; one that another host has
// written as a later owner is an error.
func (h *handover) mine(j journal.Handovers, d *host.Domain) (*journal.Handover, error) {
	was, err := j.Read(d.UUID)
	if errors.Is(err, fs.ErrNotExist) {
		return &journal.Handover{}, nil
	}
	if err != nil {
		return nil, err
	}
	if was.By != h.by && was.Epoch >= h.epoch {
		return nil, fmt.Errorf("%s is host %s's, which has taken the guest meanwhile (epoch %d): if this host is to have it, virt-rotate adopt %s",
			j.Path(d.UUID), host.Quoted(was.Host), was.Epoch, host.Quoted(d.Name))
	}
	return was, nil
}

// A listing is of the snapshots whose metadata is on record.
type listing struct {
	names []string
	sum   string
}

// leave writes what the next owner is to know beside the snapshots. listed are those whose metadata is on record;
// nil: as before.
func (r *domainRun) leave(d *host.Domain, in *journal.Intent, listed *listing) error {
	h, err := r.handover(d)
	if err != nil {
		return err
	}
	for _, dir := range h.dirs {
		j := journal.HandoversIn(dir)
		was, err := h.mine(j, d)
		if err != nil {
			return err
		}
		now := r.knows(d, in, &listing{was.Names, was.Sum})
		if listed != nil {
			now.Names, now.Sum = listed.names, listed.sum
		}
		now.By, now.Epoch = h.by, h.epoch
		if err := j.Write(now); err != nil {
			return err
		}
		r.boundary("on record for other hosts")
	}
	return nil
}

// record puts an intent on stable storage, for the next owner of the guest first.
func (r *domainRun) record(in *journal.Intent) error {
	if d := r.w.Domain(in.Domain); d != nil {
		if err := r.leave(d, in, nil); err != nil && in.Lasting() {
			return err
		}
	}
	return journal.In(r.Observer.StateDir).Write(*in)
}

// intentNow is what the domain's run is about; nil for nothing.
func (r *domainRun) intentNow(d *host.Domain) *journal.Intent {
	in, err := journal.In(r.Observer.StateDir).Read(d.UUID)
	if err != nil {
		return nil
	}
	return in
}

// leaveBefore has the snapshots on record as they are before what cannot be taken back.
func (r *domainRun) leaveBefore(ctx context.Context, name string, op decide.Op) error {
	if op != decide.OpMerge && op != decide.OpDeleteFile {
		return nil
	}
	err := r.leaveOwed(ctx, name)
	if err != nil && op == decide.OpMerge && !r.merged { // what was dropped comes back
		err = fmt.Errorf("%w: %w", decide.ErrNoLonger, err)
	}
	return err
}

// leaveOwed has the snapshots on record if they have changed.
func (r *domainRun) leaveOwed(ctx context.Context, name string) error {
	if !r.owes {
		return nil
	}
	if err := r.leaveAll(ctx, name); err != nil {
		return fmt.Errorf("the record of its snapshots for other hosts: %w", err)
	}
	return nil
}

// leaveChanged has the snapshots on record after a change that is over: where that fails, the record is one snapshot
// old, or has one too many, and that is told.
func (r *domainRun) leaveChanged(ctx context.Context, name string) {
	if err := r.leaveAll(context.WithoutCancel(ctx), name); err != nil {
		r.warn(name, "the record of its snapshots for other hosts is not up to date: "+err.Error())
	}
}

// knows is what this host has on record of the guest.
func (r *domainRun) knows(d *host.Domain, in *journal.Intent, listed *listing) *journal.Handover {
	state := r.Observer.StateDir
	h := &journal.Handover{Domain: d.Name, UUID: d.UUID, Host: r.Observer.Fleet.HostName(), Written: r.Clock().UTC(), Names: listed.names, Sum: listed.sum,
		Tops: tops(d), Intent: in, Released: journal.LoadReleased(state, d.UUID)}
	if lost := journal.LoadLost(state, d.UUID); lost.UUID != "" {
		h.Lost = &lost
	}
	return h
}

// leaveAll looks at the domain, and writes the metadata of its snapshots as it is now, and all else.
func (r *domainRun) leaveAll(ctx context.Context, name string) error {
	d := r.w.Domain(name)
	if d == nil {
		return nil
	}
	h, err := r.handover(d)
	if err != nil || len(h.dirs) == 0 {
		return err
	}
	if err := r.look(ctx, name, maxAge); err != nil {
		return err
	}
	if d = r.w.Domain(name); d == nil {
		return errGone
	}
	if h, err = r.handover(d); err != nil {
		return err
	}
	texts, err := r.texts(ctx, d)
	if err != nil {
		return err
	}
	for _, dir := range h.dirs {
		if _, err := h.mine(journal.HandoversIn(dir), d); err != nil {
			return err
		}
	}
	for _, dir := range h.dirs {
		if err := journal.HandoversIn(dir).WriteTexts(d.UUID, texts); err != nil {
			return err
		}
		r.boundary("snapshots on record for other hosts")
	}
	if err := r.leave(d, r.intentNow(d), list(d)); err != nil {
		return err
	}
	r.owes = false
	return nil
}

// tops lists the images that the domain writes to.
func tops(d *host.Domain) (paths []string) {
	for i := range d.Disks {
		if disk := &d.Disks[i]; len(disk.Chain) > 0 && !disk.ReadOnly {
			paths = append(paths, disk.Active().Path)
		}
	}
	return paths
}

// list tells of the domain's snapshots as they were looked at last.
func list(d *host.Domain) *listing {
	l := &listing{names: []string{}}
	for i := range d.Snapshots {
		l.names = append(l.names, d.Snapshots[i].Name)
	}
	text, err := json.Marshal(d.Snapshots)
	if err == nil { // else it is like no other
		l.sum = fmt.Sprintf("%x", sha256.Sum256(text))
	}
	return l
}
