package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A takenUp is what another host has left of a guest that is this host's now.
type takenUp struct {
	from      string
	snapshots []string // that libvirt did not have here
	missing   []string // that cannot be had: files of them are gone
	begun     bool     // a run there was cut off
}

// String says it in words.
func (t *takenUp) String() string {
	text := fmt.Sprintf("what host %s has left of it on the storage was taken up: %d snapshots that libvirt did not have here", host.Quoted(t.from), len(t.snapshots))
	if t.begun {
		text += ", and what a run there had begun"
	}
	if len(t.missing) > 0 {
		text += fmt.Sprintf("; of these files are gone: %v", t.missing)
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

// takeUp returns nil where there is nothing to take up. A guest of which nothing is on record yet, or whose snapshots are
// others by now, is put on record.
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
	var access *fs.PathError
	switch {
	case errors.As(err, &access): // snapshots go on; a merge has to write there, and fails
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("what another host may have left of it cannot be taken up: %w; remove that file if nothing in it is wanted: layers of lost snapshots stay as they are then", err)
	case found == nil || found.By == h.by:
		if found == nil && len(d.Snapshots)+len(w.Released[d.UUID]) > 0 || found != nil && !slices.Equal(found.Names, names(d)) {
			run.leaveChanged(ctx, name)
		}
		return nil, nil
	}
	if !claimed(w, d) { // this host has not told yet that it is
		if w, err = r.Observer.Observe(ctx); err != nil || !claimed(w, w.Domain(name)) {
			return nil, err
		}
		run.w, d = w, w.Domain(name)
	}
	t, err := run.takeOver(ctx, d, found, from)
	if err != nil {
		return nil, fmt.Errorf("what host %s has left of it (%s) cannot be taken up: %w; remove that file if nothing in it is wanted: layers of lost snapshots stay as they are then",
			host.Quoted(found.Host), from.Path(d.UUID), err)
	}
	return t, h.sign(run, d)
}

// read returns what this host has written, if anything, or else what another one has.
func (h handover) read(uuid string) (found *journal.Handover, from journal.Handovers, err error) {
	for _, dir := range h.dirs {
		j := journal.HandoversIn(dir)
		one, err := j.Read(uuid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, j, err
		}
		if found == nil || one.By == h.by {
			found, from = one, j
		}
	}
	return found, from, nil
}

// claimed tells whether the others have heard that the domain is this host's.
func claimed(w *observe.World, d *host.Domain) bool {
	if d == nil || w.Whose[d.UUID].Epoch == 0 {
		return false
	}
	for i := range w.Shares {
		if g := w.Shares[i].View.Mine.Guest(d.UUID); g != nil && g.Epoch > 0 {
			return true
		}
	}
	return false
}

// takeOver makes this host's own what another one has left. Doing it again does no harm.
func (r *domainRun) takeOver(ctx context.Context, d *host.Domain, left *journal.Handover, from journal.Handovers) (*takenUp, error) {
	t := &takenUp{from: left.Host, begun: left.Intent != nil}
	if err := left.Locate(func(path string) bool { return len(r.Observer.Fleet.On(filepath.Dir(path))) > 0 }); err != nil {
		return nil, err
	}
	all, err := from.ReadTexts(d.UUID)
	if err != nil {
		return nil, err
	}
	sound := t.sound(d, all, left.Intent)
	err = r.Mover.DefineSnapshots(ctx, d.UUID, sound)
	if err != nil && len(t.missing) > 0 { // one of them is another's parent: forget gives them up later
		err = r.Mover.DefineSnapshots(ctx, d.UUID, all)
	}
	if err != nil {
		return nil, fmt.Errorf("the metadata of the snapshots could not be written: %w", err)
	}
	r.boundary("snapshots taken up")
	return t, r.inherit(d, left)
}

// sound are the snapshots whose files are all there, or on their way out by what was begun.
func (t *takenUp) sound(d *host.Domain, all []host.SnapshotText, in *journal.Intent) (texts []host.SnapshotText) {
	for _, s := range all {
		gone := slices.ContainsFunc(s.Files, func(path string) bool {
			_, err := os.Lstat(path)
			return err != nil && !in.Names(path)
		})
		switch {
		case gone:
			t.missing = append(t.missing, s.Name)
		default:
			texts = append(texts, s)
			if d.Snapshot(s.Name) == nil {
				t.snapshots = append(t.snapshots, s.Name)
			}
		}
	}
	return texts
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
func (h handover) sign(r *domainRun, d *host.Domain) error {
	r.boundary("all is taken up")
	for _, dir := range h.dirs {
		j := journal.HandoversIn(dir)
		now := r.knows(d, r.intentNow(d), nil)
		now.By = h.by
		if err := j.Write(now); err != nil {
			return err
		}
		r.boundary("signed")
	}
	return nil
}
