package rotate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// endMoves finishes the migrations that are on record, wherever the guests are now; it tells whether
// any was. What cannot be finished stays on record, and keeps its guest from being changed.
func (r *Rotator) endMoves(ctx context.Context, w *observe.World) (ended bool) {
	for _, uuid := range slices.Sorted(maps.Keys(w.Moves)) {
		m := w.Moves[uuid]
		if r.Mover == nil || m.Broken != "" || ctx.Err() != nil {
			continue
		}
		finish := r.receive
		if m.Here {
			finish = r.endMove
		}
		end, err := finish(ctx, m, func(decide.Step) {})
		switch {
		case err != nil:
			r.Report(Event{Kind: EventWarning, Domain: m.Named(), Text: "its migration is not finished: " + err.Error()})
		case end == decide.EndHere:
			r.Report(Event{Kind: EventWarning, Domain: m.Named(), Text: "its migration was interrupted: the guest is here, and so are its snapshots again"})
		default:
			r.Report(Event{Kind: EventWarning, Domain: m.Named(), Text: "its migration was interrupted: the guest is at " + m.To + ", and so are its snapshots"})
		}
		ended = ended || err == nil
	}
	return ended
}

// endMove finishes a migration that this host began, on the side that has the guest; end is empty, and
// err says why, where that is not known yet.
func (r *Rotator) endMove(ctx context.Context, m *journal.Move, did func(decide.Step)) (end decide.End, err error) {
	here, err := r.guest(ctx, m.UUID)
	if err != nil {
		return "", err
	}
	if finishedElsewhere(m) && (here == nil || lacks(m) != nil) {
		return decide.EndThere, r.forgetMove(ctx, m)
	}
	var far host.Far
	var there host.Stand
	var asked error
	if decide.AsksThere(m, here) {
		if far, asked = r.Mover.Far(ctx, m.To); asked == nil {
			defer func() { err = errors.Join(err, far.Close()) }()
			there, asked = far.Stand(ctx, m.Domain, m.UUID)
		}
	}
	end, why := decide.EndOfMove(m, here, &there, asked)
	switch end {
	case decide.EndHere:
		err = r.define(ctx, r.Mover, m, did)
	case decide.EndThere:
		err = r.define(ctx, far, m, did)
	default:
		err = errors.New(why)
	}
	if err != nil {
		return "", err
	}
	return end, r.forgetMove(ctx, m)
}

// receive finishes a migration to this host that another one began.
func (r *Rotator) receive(ctx context.Context, m *journal.Move, did func(decide.Step)) (decide.End, error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(w.Domains, func(d host.Domain) bool { return d.UUID == m.UUID })
	if i < 0 {
		return "", errGone
	}
	d := &w.Domains[i]
	if ok, why := decide.Arrived(w, m, d); !ok {
		return "", errors.New(why)
	}
	if err := r.define(ctx, r.Mover, m, did); err != nil {
		return "", err
	}
	dirs, err := r.Observer.RecordDirs(w, d)
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		if err := forgetIn(dir, m); err != nil {
			return "", err
		}
		r.boundary("the move is off the record on the storage")
	}
	return decide.EndHere, nil
}

// guest is the domain of that UUID as it is now, or nil.
func (r *Rotator) guest(ctx context.Context, uuid string) (*host.Domain, error) {
	all, err := r.Host.Domains(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(d host.Domain) bool { return d.UUID == uuid }); i >= 0 {
		return &all[i], nil
	}
	return nil, nil
}

// lacks tells of a file of the snapshots that is gone: somebody has dropped them since.
func lacks(m *journal.Move) error {
	for i := range m.Snapshots {
		for _, path := range m.Snapshots[i].Files {
			if _, err := os.Lstat(path); err != nil {
				return fmt.Errorf("snapshot %s: a file of it is not there: %w", m.Snapshots[i].Name, err)
			}
		}
	}
	return nil
}

// define has the snapshots written that libvirt lacks.
func (r *Rotator) define(ctx context.Context, where host.Definer, m *journal.Move, did func(decide.Step)) error {
	if err := lacks(m); err != nil {
		return err
	}
	r.boundary("before the snapshots are written")
	if err := where.DefineSnapshots(ctx, m.UUID, m.Snapshots); err != nil {
		return fmt.Errorf("the metadata of the snapshots could not be written: %w", err)
	}
	for i := range m.Snapshots {
		did(decide.Step{Op: decide.OpRedefine, Snapshot: m.Snapshots[i].Name, Reason: "as it is on record"})
	}
	return nil
}

// finishedElsewhere tells whether the storage has the record no more: it had it before the state directory
// did, so that the other host has finished the move, and the guest may have gone on since.
func finishedElsewhere(m *journal.Move) bool {
	for _, dir := range m.Shared {
		if _, err := os.Lstat(dir); err != nil {
			continue // it is not mounted
		}
		if now := journal.MovesIn(dir).Read(m.UUID); now == nil || now.Broken == "" && now.ID != m.ID {
			return true
		}
	}
	return false
}

// forgetMove ends the record of a move that this host began, and tells the others what is here now: that
// gives up the guest, if it has gone.
func (r *Rotator) forgetMove(ctx context.Context, m *journal.Move) error {
	for _, dir := range m.Shared {
		if err := forgetIn(dir, m); err != nil {
			return err
		}
		r.boundary("the move is off the record on the storage")
	}
	if err := journal.MovesIn(r.Observer.StateDir).Remove(m.UUID); err != nil {
		return err
	}
	r.boundary("the move is off the record")
	r.tellAgain(ctx, observe.News{})
	return nil
}

// forgetIn removes the record from a storage, unless it is of another move.
func forgetIn(dir string, m *journal.Move) error {
	moves := journal.MovesIn(dir)
	if now := moves.Read(m.UUID); now == nil || now.Broken == "" && now.ID != m.ID {
		return nil
	}
	if err := moves.Remove(m.UUID); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, "moves"), err)
	}
	return nil
}
