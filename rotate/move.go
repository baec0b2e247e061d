package rotate

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A guest moves to another host in this order: the metadata of its snapshots goes on record, first on the storage,
// where the other host finds it, then in the state directory; libvirt forgets it; libvirt moves the guest.
// From the moment it is on record, what follows is the same as after a crash: see endMove.

// A MoveOptions says where a guest is to go, and how.
type MoveOptions struct {
	To      string   // the other host's libvirt
	Options []string // further ones of virsh migrate
	Plan    bool     // tell what would be done, change nothing
}

// A move carries a migration out.
type move struct {
	*domainRun
	record *journal.Move
}

// Migrate moves a domain with its snapshots to another host. The caller holds the Lock.
func (r *Rotator) Migrate(ctx context.Context, domain string, o MoveOptions) (decide.Plan, error) {
	w, err := r.observe(ctx, domain, o.Plan)
	if err != nil {
		return decide.Plan{}, err
	}
	d := w.Domain(domain)
	if d == nil {
		return decide.Plan{}, w.NoSuchDomain(domain)
	}
	far, err := r.Mover.Far(ctx, o.To)
	if err != nil {
		return decide.Plan{}, fmt.Errorf("%s: nothing was changed: %w", domain, err)
	}
	there, err := far.Stand(ctx, d.Name, d.UUID)
	if err = errors.Join(err, far.Close()); err != nil {
		return decide.Plan{}, fmt.Errorf("%s: nothing was changed: what %s has could not be seen: %w", domain, o.To, err)
	}
	rule := decide.RuleOr(r.Match(decide.Guests(w)), domain)
	run := &domainRun{Rotator: r, rule: rule, w: w, seen: r.Clock(), o: decide.Options{Reserved: &decide.Reservations{}}, start: r.Clock()}
	p := run.ask(d).Move(&decide.MoveRequest{To: o.To, Options: o.Options, There: there, Unshared: r.Observer.Unshared(w, d)})
	if o.Plan || len(p.Refused) > 0 {
		return p, nil
	}
	s := &move{domainRun: run}
	run.warnings = p.Warnings
	return run.ended(ctx, s.run(ctx, p, d, o)), nil
}

// run carries the plan out.
func (s *move) run(ctx context.Context, p decide.Plan, d *host.Domain, o MoveOptions) decide.Plan {
	options, err := decide.MoveOptions(o.Options)
	if err == nil {
		err = s.putOnRecord(ctx, d, o.To)
	}
	if err != nil {
		return s.finish(ctx, p, fmt.Errorf("nothing was changed: %w", err))
	}
	moved := s.leave(ctx, d, host.Migration{UUID: d.UUID, To: o.To, Offline: s.record.Offline, Options: options})
	end, err := s.endMove(context.WithoutCancel(ctx), s.record, s.step)
	switch {
	case err != nil:
		err = errors.Join(moved, fmt.Errorf("the migration is not finished, and the next run goes on: %w", err))
	case end == decide.EndHere:
		err = fmt.Errorf("the guest did not move, and its snapshots are as they were: %w", cmp.Or(moved, ctx.Err(), errors.New("libvirt gave no reason")))
		s.done = nil
	case moved != nil:
		s.warn(d.Name, "the guest has moved, but: "+moved.Error())
	}
	if end == decide.EndThere && err == nil { // an interruption came too late
		ctx = context.WithoutCancel(ctx)
	}
	return s.finish(ctx, p, err)
}

// step tells of a step that is done.
func (s *move) step(step decide.Step) {
	s.starts(s.record.Domain, step)
	s.did(s.record.Domain, step)
}

// putOnRecord writes the record, to where the other host finds it, too. The order matters: a record in the state
// directory of which the storage knows nothing any more is one that the other host has finished.
func (s *move) putOnRecord(ctx context.Context, d *host.Domain, to string) error {
	if err := s.Observer.Tell(ctx, s.w, observe.News{}); err != nil { // there is a place for records then
		return err
	}
	texts, err := s.texts(ctx, d)
	if err != nil {
		return err
	}
	dirs, err := s.Observer.RecordDirs(s.w, d)
	if err != nil {
		return err
	}
	s.record = &journal.Move{ID: rand.Text(), Domain: d.Name, UUID: d.UUID, From: s.Observer.Fleet.HostName(),
		To: to, Started: s.Clock().UTC(), Offline: !d.State.Live(), Shared: dirs, Snapshots: texts, Here: true}
	return s.write()
}

// texts is the metadata of the domain's snapshots, all of which have just been looked at.
func (r *domainRun) texts(ctx context.Context, d *host.Domain) ([]host.SnapshotText, error) {
	texts, err := r.Mover.Texts(ctx, d.UUID)
	if err != nil {
		return nil, err
	}
	if len(texts) != len(d.Snapshots) {
		return nil, errors.New("a snapshot was taken or deleted meanwhile")
	}
	for i := range texts {
		snap := d.Snapshot(texts[i].Name)
		if snap == nil {
			return nil, fmt.Errorf("snapshot %s was taken meanwhile", texts[i].Name)
		}
		texts[i].Files = slices.DeleteFunc(snap.Files(), func(path string) bool { _, err := os.Lstat(path); return err != nil })
	}
	return texts, nil
}

// write puts the record on stable storage, everywhere.
func (s *move) write() error {
	s.boundary("before the record of the move")
	for _, dir := range s.record.Shared {
		if err := journal.MovesIn(dir).Write(s.record); err != nil {
			return errors.Join(err, s.unwrite())
		}
		s.boundary("the move is on record on the storage")
	}
	if err := journal.MovesIn(s.Observer.StateDir).Write(s.record); err != nil {
		return errors.Join(err, s.unwrite())
	}
	s.boundary("the move is on record")
	return nil
}

// unwrite takes back what was written of the record.
func (s *move) unwrite() (err error) {
	for _, dir := range s.record.Shared {
		err = errors.Join(err, journal.MovesIn(dir).Remove(s.record.UUID))
	}
	return err
}

// leave lets libvirt forget the snapshots, children before parents so that none is changed by another's
// end, and move the guest.
func (s *move) leave(ctx context.Context, d *host.Domain, m host.Migration) error {
	for _, t := range slices.Backward(s.record.Snapshots) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		step := decide.Step{Op: decide.OpDropMetadata, Snapshot: t.Name, Reason: "libvirt moves no guest with snapshots; it is on record"}
		s.starts(d.Name, step)
		if err := s.Host.DropMetadata(ctx, d.Name, t.Name); err != nil {
			return fmt.Errorf("snapshot %s: %w", t.Name, err)
		}
		s.did(d.Name, step)
	}
	s.record.Moving = true
	if err := journal.MovesIn(s.Observer.StateDir).Write(s.record); err != nil {
		return err
	}
	step := decide.Step{Op: decide.OpMigrate, Reason: "to " + m.To}
	s.starts(d.Name, step)
	if err := s.Mover.Migrate(ctx, m); err != nil {
		return err
	}
	s.did(d.Name, step)
	return nil
}
