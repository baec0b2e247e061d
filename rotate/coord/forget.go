package coord

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Forget takes a host out of the table. The claims that it had become claims of this host that
// it has given up: an older one of a third host stays old.
func (s *share) Forget(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.identity()
	if err != nil {
		return err
	}
	forgotten := s.forgetIn(ctx, s.ledger(id), s.key(id), name)
	if s.fleet.Store == nil {
		return forgotten
	}
	here := s.forgetIn(ctx, files{s}, id, name)
	switch {
	case errors.Is(forgotten, ErrNoSuchHost): // it has told on the storage alone
		return here
	case errors.Is(here, ErrNoSuchHost):
		return forgotten
	}
	return errors.Join(forgotten, here)
}

func (s *share) forgetIn(ctx context.Context, l ledger, key, name string) error {
	return l.with(ctx, true, func(t table) error {
		state, err := s.whoAmI(t, key)
		if err != nil {
			return err
		}
		place, err := named(t, state.ID, name)
		if err != nil {
			return err
		}
		v := s.all(t, state.ID)
		for i := range v.Peers {
			if r, err := t.at(place); err == nil && v.Peers[i].ID == r.ID {
				v.Mine = inherit(v.Mine, v.Peers[i].Told)
			}
		}
		if err := s.tell(t, state.ID, key, s.fleet.now(), v.Mine); err != nil {
			return err
		}
		return s.clear(t, place)
	})
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
		mine.Guests = append(mine.Guests, Guest{UUID: g.UUID, Name: g.Name, Epoch: epoch, Seen: epoch, Left: true})
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
