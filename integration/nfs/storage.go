package nfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// A Storage is what a host sees of one, for the suite of coordtest and whoever else asks for a coord.Storage.
type Storage struct {
	host   *Machine
	number int
}

var _ coord.Storage = (*Storage)(nil)

// Storages are those that a directory of the host is on.
func (m *Machine) Storages(h inside.Host) (all []*Storage, err error) {
	var numbers []int
	err = m.Call("Storages.Open", h, &numbers)
	for _, n := range numbers {
		all = append(all, &Storage{m, n})
	}
	return all, err
}

// call asks package inside; what it says of known errors is one of them again.
func (s *Storage) call(method string, args, reply any) error {
	err := s.host.Call("Storages."+method, args, reply)
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, coord.ErrNoSuchHost} {
		if err != nil && strings.Contains(err.Error(), known.Error()) {
			return fmt.Errorf("%s: %w", s.host.Name, errors.Join(known, err))
		}
	}
	return err
}

func (s *Storage) with(ctx context.Context) inside.Call {
	c := inside.Call{Number: s.number, Ended: ctx.Err() != nil}
	if end, ok := ctx.Deadline(); ok {
		c.For = max(time.Until(end), 1)
	}
	return c
}

func (s *Storage) about() (a inside.About, err error) {
	err = s.call("About", s.number, &a)
	return a, err
}

// Dir is "" if the host does not answer.
func (s *Storage) Dir() string {
	a, _ := s.about()
	return a.Dir
}

// Records asks the host.
func (s *Storage) Records() (string, error) {
	a, err := s.about()
	return a.Records, err
}

// UUID is "" if the host does not answer.
func (s *Storage) UUID() string {
	a, _ := s.about()
	return a.UUID
}

// Locate finds nothing: no test asks.
func (s *Storage) Locate(string, uint64, uint64) (coord.Layer, bool) { return coord.Layer{}, false }

// View asks the host.
func (s *Storage) View(ctx context.Context) (v coord.View, err error) {
	err = s.call("View", s.with(ctx), &v)
	return v, err
}

// Tell calls claim here, while the host has the table of hosts.
func (s *Storage) Tell(ctx context.Context, now time.Time, claim func(coord.View) coord.Told) error {
	var c inside.Claim
	if err := s.call("TellBegins", inside.When{Call: s.with(ctx), Now: now}, &c); err != nil {
		return err
	}
	return s.call("TellEnds", inside.Telling{Number: c.Number, Told: claim(c.View)}, &inside.None{})
}

// TellAll tells one thing after the other, as fast as the host can.
func (s *Storage) TellAll(all []coord.Told) error {
	var what []inside.Telling
	for _, told := range all {
		what = append(what, inside.Telling{Number: s.number, Told: told})
	}
	return s.call("Tell", what, &inside.None{})
}

// Forget asks the host.
func (s *Storage) Forget(ctx context.Context, name string) error {
	c := s.with(ctx)
	c.Name = name
	return s.call("Forget", c, &inside.None{})
}

// Take asks the host.
func (s *Storage) Take(ctx context.Context, n int) (coord.Hold, error) {
	c := s.with(ctx)
	c.N = n
	h := &hold{s: s}
	if err := s.call("Take", c, &h.number); err != nil {
		return nil, err
	}
	return h, nil
}

// A hold is a slot of a host.
type hold struct {
	s      *Storage
	number int
}

// Release leaves it to the end of the machine if that does not answer.
func (h *hold) Release() { _ = h.s.call("Release", h.number, &inside.None{}) }

// Err asks the host.
func (h *hold) Err() error { return h.s.call("Lost", h.number, &inside.None{}) }

// Enter asks the host.
func (s *Storage) Enter(ctx context.Context) (func(), error) {
	var number int
	err := s.call("Enter", s.with(ctx), &number)
	return func() { _ = s.call("Leave", number, &inside.None{}) }, err
}

// Locks asks the host.
func (s *Storage) Locks(ctx context.Context) (found coord.Crossing, err error) {
	err = s.call("Locks", s.with(ctx), &found)
	return found, err
}

// NotThere tells whether package inside has said that a file is not there.
func NotThere(err error) bool {
	return err != nil && (strings.Contains(err.Error(), fs.ErrNotExist.Error()) || strings.Contains(err.Error(), "no such file"))
}
