package coord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Where locks on images do not reach other hosts, QEMU's tell nothing of a guest that was started there since its host
// has told last. So hosts ask each other: who merges tells before that what he works on (Told.Merging), and whoever starts a
// guest tells what it needs (Begin), which fails if somebody works on that. The Store has both in one order: of
// two who come at the same time, one sees the other.

// A Start is a guest that was started on a host, maybe since that has looked at its guests.
type Start struct {
	UUID   string    `json:"uuid"`
	Name   string    `json:"name"`
	When   time.Time `json:"when"`            // by that host's clock: of its end, once that has come
	Ended  bool      `json:"ended,omitempty"` // it runs no more
	Layers []Layer   `json:"layers,omitempty"`
	Doubt  string    `json:"doubt,omitempty"` // why it is not known all that it uses
}

// Work is what a host is about to merge, or to delete: all of it, from before it begins until nothing of it is left to do.
type Work struct {
	UUID   string  `json:"uuid"` // of the guest whose layers they are
	Name   string  `json:"name"`
	Layers []Layer `json:"layers,omitempty"`
}

// startsLast is how long a start stays on record, whatever is told of the host's guests: one that was looked at before
// libvirt had begun with it did not run yet.
const startsLast = 15 * time.Minute

// Unseen are those starts that a look at the guests, which began then, need not have seen.
func Unseen(starts []Start, look time.Time) []Start {
	return slices.DeleteFunc(slices.Clone(starts), func(s Start) bool {
		return s.Ended && s.When.Before(look) || look.Sub(s.When).Abs() > startsLast
	})
}

// A WorkError says that another host works on a layer that a guest needs.
type WorkError struct{ Host, Guest, Layer string }

func (e *WorkError) Error() string {
	return fmt.Sprintf("host %[1]s merges layers of guest %[2]s just now, %[3]s among them: start it again once that is done; if that host is down: virt-rotate adopt --down %[4]s %[2]s, which this guest may start after; if it is gone for good: virt-rotate fleet forget %[4]s",
		e.Host, host.Quoted(e.Guest), host.Quoted(e.Layer), host.Quoted(e.Host))
}

// Admit says whether a guest can be started on this host: not while another one works on what it needs. A host from
// which this one has taken the guest over works on it no more: Adopt sees to that. One that tells by another engine merges nothing.
func Admit(start *Start, v *View) error {
	mine := before(start.UUID, v)
	for i := range v.Peers {
		p := &v.Peers[i]
		if p.Stray {
			continue
		}
		if p.Problem != "" {
			return fmt.Errorf("it is not known what host %[1]s merges: %[2]s; let virt-rotate run there; if it is gone for good: virt-rotate fleet forget %[3]s", cmp.Or(p.Name, p.ID), p.Problem, host.Quoted(cmp.Or(p.Name, p.ID)))
		}
		for _, w := range p.Told.Merging {
			if g := p.Told.Guest(start.UUID); w.UUID == start.UUID && g != nil && g.Epoch < mine {
				continue
			}
			if path, meets := start.needs(&w, p.Inodes); meets {
				return &WorkError{cmp.Or(p.Name, p.ID), w.Name, path}
			}
		}
	}
	return nil
}

// needs names a layer of the work that the guest can need.
func (s *Start) needs(w *Work, inodes bool) (path string, meets bool) {
	for _, l := range w.Layers {
		if s.Doubt != "" || slices.ContainsFunc(s.Layers, func(m Layer) bool { return m.maybe(l, inodes) }) {
			return l.Path, true
		}
	}
	return "", false
}

// maybe tells whether two hosts can mean the same image where one of them has no name for it that both know: then by its last part.
func (l Layer) maybe(other Layer, inodes bool) bool {
	if l.Same(other, inodes) {
		return true
	}
	known := inodes && l.Ino != 0 && other.Ino != 0 || l.Device != "" || other.Device != "" || l.Elsewhere || other.Elsewhere
	return !known && (filepath.IsAbs(l.Path) || filepath.IsAbs(other.Path)) && filepath.Base(l.Path) == filepath.Base(other.Path)
}

// worksOn tells whether the host is about to merge or to delete layers of the guest.
func (p *Peer) worksOn(uuid string) bool {
	return !p.Stray && slices.ContainsFunc(p.Told.Merging, func(w Work) bool { return w.UUID == uuid })
}

// Begin tells the others that a guest is started, or why it must not be. What is known of the other guests is no newer by
// that.
func Begin(ctx context.Context, s Storage, start Start) error {
	v, err := s.View(ctx)
	if err != nil {
		return err
	}
	if err := Admit(&start, &v); err != nil {
		return err
	}
	tell := func() error {
		var refused error
		err := s.Tell(ctx, v.toldAt(start.When), func(v View) Told {
			told := v.Mine
			if refused = Admit(&start, &v); refused == nil {
				told.Starts = append(without(told.Starts, start.UUID), start)
			}
			return told
		})
		return errors.Join(err, refused)
	}
	if err = tell(); errors.Is(err, fs.ErrNotExist) { // a run has swept what it took for left behind
		err = tell()
	}
	return err
}

// End tells that the guest runs no more. What it needs is kept until the host has looked at its guests: it may be one that is off now.
func End(ctx context.Context, s Storage, uuid string, now time.Time) error {
	return changeStarts(ctx, s, uuid, func(starts []Start) []Start {
		for i := range starts {
			if starts[i].UUID == uuid {
				starts[i].Ended, starts[i].When = true, now
			}
		}
		return starts
	})
}

// Withdraw tells that the guest was not started after all.
func Withdraw(ctx context.Context, s Storage, uuid string) error {
	return changeStarts(ctx, s, uuid, func(starts []Start) []Start { return without(starts, uuid) })
}

// changeStarts tells of starts anew, if the guest is among them.
func changeStarts(ctx context.Context, s Storage, uuid string, change func([]Start) []Start) error {
	v, err := s.View(ctx)
	if err != nil || !slices.ContainsFunc(v.Mine.Starts, func(s Start) bool { return s.UUID == uuid }) {
		return err
	}
	return s.Tell(ctx, v.toldAt(time.Time{}), func(v View) Told {
		told := v.Mine
		told.Starts = change(slices.Clone(told.Starts))
		return told
	})
}

func without(starts []Start, uuid string) []Start {
	return slices.DeleteFunc(slices.Clone(starts), func(s Start) bool { return s.UUID == uuid })
}

// toldAt is when this host has told of all its guests last, or now if it has not.
func (v *View) toldAt(now time.Time) time.Time {
	if v.told.IsZero() {
		return now
	}
	return v.told
}

// Asking tells whether nobody starts a guest without asking the others: all hosts on record, this one among them, have told
// so by a Store.
func (v *View) Asking() bool {
	return v.By != "" && v.Registered && v.Mine.Asks && !slices.ContainsFunc(v.Peers, func(p Peer) bool { return !p.Told.Asks })
}
