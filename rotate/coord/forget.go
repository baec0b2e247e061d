package coord

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Forget takes a host out of the table, and out of that on the storage if there is a store. The claims
// that it had become claims of this host that it has given up: an older one of a third host stays old.
// What this host tells is as old as it was.
func (s *share) Forget(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.identity()
	if err != nil {
		return err
	}
	alone, err := s.fleet.alone(ctx)
	if err != nil {
		return err
	}
	defer alone.Close()
	f := forgetting{share: s, name: name}
	err = s.ledger(id).with(ctx, true, func(t table) error { return f.first(ctx, t, s.key(id)) })
	if err == nil && s.fleet.Store != nil && !s.placeless() {
		err = files{s}.with(ctx, true, func(t table) error { return f.from(t, id) })
	}
	if err == nil && !f.found {
		err = fmt.Errorf("%s: %w", name, ErrNoSuchHost)
	}
	return err
}

// A forgetting is on its way through the tables.
type forgetting struct {
	*share
	name  string
	me    string
	told  Told      // of this host, with what it inherits
	when  time.Time // it has told so
	found bool
}

// first looks at all that is known, in the table that counts, and forgets the host there.
func (f *forgetting) first(ctx context.Context, t table, key string) error {
	state, err := f.whoAmI(t, key)
	if err != nil {
		return err
	}
	v, err := f.look(ctx, t, state.ID)
	if err != nil {
		return err
	}
	f.me, f.told, f.when = state.ID, v.Mine, v.told
	if f.when.IsZero() {
		f.when = f.fleet.now()
	}
	place, err := named(t, f.me, f.name)
	var gone record
	if err == nil {
		gone, _ = t.at(place) // a damaged one has no ID
	}
	known := err == nil
	for i := range v.Peers {
		if p := &v.Peers[i]; p.Name == f.name || p.ID == f.name || p.ID == gone.ID && p.ID != "" {
			f.told, known = inherit(f.told, p.Told), true
		}
	}
	if !known || err != nil && !errors.Is(err, ErrNoSuchHost) {
		return err
	}
	return f.from(t, key)
}

// from forgets the host in a table, if it is there.
func (f *forgetting) from(t table, key string) error {
	place, err := named(t, f.me, f.name)
	missing := errors.Is(err, ErrNoSuchHost)
	if err != nil && !missing {
		return err
	}
	if err := f.tell(t, f.me, key, f.when, f.told); err != nil || missing {
		return err
	}
	f.found = true
	return f.clear(t, place)
}

// clear frees a place. A damaged one is made whole by that.
func (s *share) clear(t table, place int) error {
	r, err := t.at(place)
	if err != nil {
		r = record{ID: newUUID(), Sum: strings.Repeat("0", 64)}
	}
	r.Generation++
	r.Gone = true
	delete(s.read, r.ID)
	if err := t.put(place, r); err != nil {
		return err
	}
	if _, here := t.(*fileTable); here {
		return s.stop(place)
	}
	return nil
}

// inherit adds the claims of a host that is forgotten to what this host has given up.
func inherit(mine, gone Told) Told {
	for _, g := range gone.Guests {
		epoch := max(g.Epoch, g.Seen)
		if epoch == 0 || mine.Guest(g.UUID) != nil {
			continue
		}
		mine.Guests = append(mine.Guests, Guest{UUID: g.UUID, Name: g.Name, Epoch: epoch, Seen: epoch, Left: true, On: g.On})
	}
	return mine
}

// named finds the one host with that name, or ID, which is not this one. A place whose record
// is damaged is named by its number: "place 3".
func named(t table, me, name string) (int, error) {
	var found []int
	for i := range t.places() {
		r, err := t.at(i)
		switch {
		case errors.Is(err, errNoRecord):
		case err != nil && name == fmt.Sprintf("place %d", i),
			err == nil && !r.Gone && r.ID != me && (r.Name == name || r.ID == name):
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("%s: %w", name, ErrNoSuchHost)
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("%d hosts are called %s: give the ID, as virt-rotate fleet status shows it", len(found), name)
}
