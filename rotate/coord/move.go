package coord

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"time"
)

// Hosts with a Store tell the same on the storage itself, and beside it that they use a store:
// so a host that has not moved to it yet, or has moved back, merges nothing, and none forgets
// whose a guest is.

// Signpost is the ID of the host in the table on the storage which stands for all that use a
// store; its doubt tells which one.
const (
	Signpost     = "00000000-0000-4000-8000-000000000000"
	signpostName = "store"
)

// strays adds what was told on the storage itself alone, or later than to the store: as by a host that has
// not moved, or has moved back, and where the store was made anew, or came back from an old copy.
func (s *share) strays(ctx context.Context, v *View, me string) error {
	err := files{s}.with(ctx, false, func(t table) error {
		here := s.all(t, me)
		if here.told.After(v.told) {
			v.Mine, v.told = here.Mine, here.told
		}
		v.Locks = here.Locks
		v.Generation += here.Generation
		for _, p := range here.Peers {
			if p.ID != Signpost {
				s.stray(v, p)
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stray adds a host as the table on the storage has it, unless the store has heard it since.
func (s *share) stray(v *View, p Peer) {
	p.Stray = true
	if p.Problem == "" {
		p.Problem = "it tells on the storage itself, and not by " + s.fleet.Store.String() + ": [coordination] is another one there"
	}
	for i := range v.Peers {
		if q := &v.Peers[i]; q.ID == p.ID && p.ID != "" {
			if p.When.After(q.When) {
				*q = p
			}
			return
		}
	}
	v.Peers = append(v.Peers, p)
}

// tellHere puts on record on the storage itself what was told to a store.
func (s *share) tellHere(ctx context.Context, me, id string, now time.Time, told Told) error {
	return files{s}.with(ctx, true, func(t table) error { return s.tell(t, me, id, now, told) })
}

// pointOut says in the table on the storage that its hosts use a store, unless it says so.
func (s *share) pointOut(ctx context.Context, now time.Time) error {
	said := false
	err := files{s}.with(ctx, false, func(t table) error {
		_, r := placeOf(t, Signpost)
		said = r.ID == Signpost && !r.Gone
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) || said {
		return err
	}
	return files{s}.with(ctx, true, func(t table) error { return s.putSignpost(t, now) })
}

func (s *share) putSignpost(t table, now time.Time) error {
	data, err := json.Marshal(Told{Guests: []Guest{}, Doubts: []string{
		printable("its hosts tell each other by " + s.fleet.Store.String())}})
	if err != nil {
		return err
	}
	place, was := placeOf(t, Signpost)
	if place < 0 {
		if place, err = free(t); err != nil {
			return err
		}
		was, _ = t.at(place)
	}
	sum := sha256.Sum256(data)
	r := record{ID: Signpost, Name: signpostName, Generation: was.Generation + 1, When: now.UTC(), File: 1 - was.File,
		Size: int64(len(data)), Sum: hex.EncodeToString(sum[:])}
	if err := t.tell(place, r, data); err != nil {
		return err
	}
	return t.put(place, r)
}
