package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A takenUp is what another host has left of a guest that is this host's now.
type takenUp struct {
	from      string
	snapshots []string // that libvirt did not have here
	begun     bool     // a run there was cut off
}

// String says it in words.
func (t *takenUp) String() string {
	text := fmt.Sprintf("what host %s has left of it on the storage was taken up: %d snapshots that libvirt did not have here", host.Quoted(t.from), len(t.snapshots))
	if t.begun {
		text += ", and what a run there had begun"
	}
	return text
}

// takeUpAll takes up what other hosts have left of the planned domains that are this host's now. What cannot be taken up keeps
// its domain from being changed: held says why.
func (r *Rotator) takeUpAll(ctx context.Context, w *observe.World, plans []decide.Plan) (held map[string]error, took bool) {
	held = map[string]error{}
	for i := range plans {
		name := plans[i].Domain
		t, err := r.takeUp(ctx, w, name)
		switch {
		case err != nil:
			held[name] = err
		case t != nil:
			took = true
			r.Report(Event{Kind: EventWarning, Domain: name, Text: t.String()})
		}
	}
	return held, took
}

// observe looks at the host, and takes up first what another one has left of the domain, unless only a plan is wanted.
func (r *Rotator) observe(ctx context.Context, name string, plan bool) (*observe.World, error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil || plan {
		return w, err
	}
	t, err := r.takeUp(ctx, w, name)
	if err != nil || t == nil {
		return w, err
	}
	r.Report(Event{Kind: EventWarning, Domain: name, Text: t.String()})
	return r.Observer.Observe(ctx)
}

// takeUp returns nil where there is nothing to take up. What this host has left itself is seen to be up to date.
func (r *Rotator) takeUp(ctx context.Context, w *observe.World, name string) (*takenUp, error) {
	run := &domainRun{Rotator: r, w: w, seen: r.Clock()}
	d := w.Domain(name)
	if d == nil || w.Moves[d.UUID] != nil {
		return nil, nil
	}
	h, err := run.handover(d)
	if err != nil || len(h.dirs) == 0 {
		return nil, nil //nolint:nilerr // what cannot be told keeps merges from being done
	}
	found, from, err := h.read(d.UUID)
	if err != nil {
		return nil, fmt.Errorf("what another host may have left of it cannot be taken up: %w; %s", err, wayOut)
	}
	if found == nil || found.By == h.by {
		if !run.upToDate(d, found) || found != nil && !h.everywhere(d.UUID) {
			run.leaveChanged(ctx, name)
		}
		return nil, nil
	}
	t, err := run.takeFrom(ctx, name, found, from)
	if err != nil {
		return nil, fmt.Errorf("what host %s has left of it (%s) cannot be taken up: %w; %s", host.Quoted(found.Host), from.Path(d.UUID), err, wayOut)
	}
	return t, nil
}

// wayOut is what a person can do about what cannot be taken up.
const wayOut = "if nothing in it is wanted, remove that file: layers of snapshots that nobody lists stay as they are then"

// upToDate tells whether what this host has left is how it is.
func (r *domainRun) upToDate(d *host.Domain, found *journal.Handover) bool {
	if found == nil {
		return len(d.Snapshots)+len(r.w.Released[d.UUID])+len(r.w.Lost[d.UUID]) == 0
	}
	now := r.knows(d, nil, list(d))
	same := func(a, b journal.File) bool { return a.Path == b.Path && a.ID == b.ID }
	return found.Sum == now.Sum && slices.EqualFunc(found.Released, now.Released, same) && sameLost(found.Lost, now.Lost)
}

func sameLost(a, b *journal.LostRecord) bool {
	if a == nil || b == nil {
		return a == b
	}
	return len(a.Snapshots) == len(b.Snapshots) && len(a.Useless) == len(b.Useless) && len(a.Tips) == len(b.Tips)
}

// takeFrom takes up what another host has left, once the others have heard that the guest is this host's.
func (r *domainRun) takeFrom(ctx context.Context, name string, found *journal.Handover, from journal.Handovers) (*takenUp, error) {
	if err := r.Observer.Tell(ctx, r.w, observe.News{}); err != nil {
		return nil, err
	}
	var err error
	if r.w, err = r.Observer.Observe(ctx); err != nil {
		return nil, err
	}
	d := r.w.Domain(name)
	switch {
	case d == nil || r.w.Whose[d.UUID].Epoch == 0:
		return nil, nil
	case !claimed(r.w, d): // it would be written over by what this host does
		return nil, errors.New("the other hosts could not be told that the guest is this host's now: see that its storage can be written to")
	}
	h, err := r.handover(d)
	if err != nil {
		return nil, err
	}
	if found.Epoch > h.epoch {
		return nil, fmt.Errorf("it has epoch %d, and this host %d: virt-rotate adopt %s", found.Epoch, h.epoch, host.Quoted(name))
	}
	t, err := r.takeOver(ctx, d, found, from)
	if err != nil {
		return nil, err
	}
	return t, h.sign(r, d)
}

// everywhere tells whether all directories have what this host has left.
func (h *handover) everywhere(uuid string) bool {
	return !slices.ContainsFunc(h.dirs, func(dir string) bool {
		one, err := journal.HandoversIn(dir).Read(uuid)
		return err != nil || one.By != h.by
	})
}

// read returns what the latest owner has written, which is this host in doubt.
func (h *handover) read(uuid string) (found *journal.Handover, from journal.Handovers, err error) {
	for _, dir := range h.dirs {
		j := journal.HandoversIn(dir)
		one, err := j.Read(uuid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, j, err
		}
		if found == nil || one.Epoch > found.Epoch || one.Epoch == found.Epoch && one.By == h.by {
			found, from = one, j
		}
	}
	return found, from, nil
}

// claimed tells whether the others have heard that the domain is this host's.
func claimed(w *observe.World, d *host.Domain) bool {
	epoch := w.Whose[d.UUID].Epoch
	return epoch > 0 && slices.ContainsFunc(w.Shares, func(s observe.Share) bool {
		g := s.View.Mine.Guest(d.UUID)
		return g != nil && g.Epoch == epoch
	})
}

// takeOver makes this host's own what another one has left. Doing it again does no harm.
func (r *domainRun) takeOver(ctx context.Context, d *host.Domain, left *journal.Handover, from journal.Handovers) (*takenUp, error) {
	t := &takenUp{from: left.Host, begun: left.Intent != nil}
	if err := left.Locate(func(path string) bool { return r.Observer.Together(r.w, path) }); err != nil {
		return nil, err
	}
	all, err := from.ReadTexts(d.UUID)
	if err != nil {
		return nil, err
	}
	if err := r.contradicts(ctx, d, all); err != nil {
		return nil, err
	}
	for i := range all {
		if d.Snapshot(all[i].Name) == nil {
			t.snapshots = append(t.snapshots, all[i].Name)
		}
	}
	if err := r.Mover.DefineSnapshots(ctx, d.UUID, all); err != nil {
		return nil, fmt.Errorf("the metadata of the snapshots could not be written: %w", err)
	}
	r.boundary("snapshots taken up")
	return t, r.inherit(d, left)
}

// contradicts tells of snapshots that libvirt has here from a time when the guest was here before, and that are others by now, or none:
// their metadata would show a state that is lost.
func (r *domainRun) contradicts(ctx context.Context, d *host.Domain, all []host.SnapshotText) error {
	here, err := r.texts(ctx, d)
	if err != nil {
		return err
	}
	var old []string
	for i := range here {
		k := slices.IndexFunc(all, func(t host.SnapshotText) bool { return t.Name == here[i].Name })
		if k < 0 || !slices.Equal(here[i].Files, present(all[k].Files)) {
			old = append(old, host.Quoted(here[i].Name))
		}
	}
	if len(old) == 0 {
		return nil
	}
	var every []string // children first: libvirt 9 changes the metadata of the children of one that goes
	for _, s := range slices.Backward(here) {
		every = append(every, host.Quoted(s.Name))
	}
	return fmt.Errorf("libvirt here has metadata of a time when the guest was here before, and of these snapshots it does not hold any more: %s. Let libvirt forget all of it here, those that there are come back: for s in %s; do virsh snapshot-delete --metadata %s $s; done",
		strings.Join(old, ", "), strings.Join(every, " "), host.Quoted(d.Name))
}

func present(files []string) []string {
	return slices.DeleteFunc(slices.Clone(files), func(path string) bool { _, err := os.Lstat(path); return err != nil })
}

// inherit has in the state directory what another host had in its own; what was there before was of a time when the
// guest was this host's.
func (r *domainRun) inherit(d *host.Domain, left *journal.Handover) error {
	state := r.Observer.StateDir
	if err := journal.SaveReleased(state, d, left.Released); err != nil {
		return err
	}
	var lost journal.LostRecord
	if left.Lost != nil {
		lost = *left.Lost
	}
	if err := journal.SaveLost(state, d, lost); err != nil {
		return err
	}
	if left.Intent == nil {
		return journal.In(state).Remove(d.UUID)
	}
	in := *left.Intent
	in.Domain, in.Paused = d.Name, false
	return journal.In(state).Write(in)
}

// sign puts on record that all of it is this host's now: from then on the state directory counts.
func (h *handover) sign(r *domainRun, d *host.Domain) error {
	r.boundary("all is taken up")
	for _, dir := range h.dirs {
		j := journal.HandoversIn(dir)
		now := r.knows(d, r.intentNow(d), &listing{}) // the snapshots are written anew
		now.By, now.Epoch = h.by, h.epoch
		if err := j.Write(now); err != nil {
			return err
		}
		r.boundary("signed")
	}
	return nil
}
