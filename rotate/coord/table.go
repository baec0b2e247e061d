package coord

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A ledger has the table of hosts, and what each has told.
type ledger interface {
	// with calls do with the table as it is for all hosts at one time. What a do that changes
	// puts into it counts at once, or not at all; it is called again where another host has
	// come first. The error is fs.ErrNotExist where no host is on record yet.
	with(ctx context.Context, change bool, do func(table) error) error
	// take waits for one of n slots.
	take(ctx context.Context, n int) (Hold, error)
}

// A table has a place for each host.
type table interface {
	places() int
	// at is what counts of a place; errNoRecord where no host ever had it.
	at(place int) (record, error)
	put(place int, r record) error
	// users is what the host of a place has told; tell replaces it.
	users(place int, r record) ([]byte, error)
	tell(place int, r record, data []byte) error
}

// free is the first place that no host has: one that was forgotten, or a new one.
func free(t table) (int, error) {
	for i := range t.places() {
		if r, err := t.at(i); errors.Is(err, errNoRecord) || err == nil && r.Gone {
			return i, nil
		}
	}
	if t.places() >= mostHosts {
		return 0, fmt.Errorf("%d hosts are on record: forget those that are gone (virt-rotate fleet forget HOST)", mostHosts)
	}
	return t.places(), nil
}

// placeOf finds the place of the host with that ID; -1 for none.
func placeOf(t table, id string) (int, record) {
	for i := range t.places() {
		if r, err := t.at(i); err == nil && r.ID == id && id != "" {
			return i, r
		}
	}
	return -1, record{}
}

// Files are a ledger on the storage itself: see share.
type files struct{ s *share }

func (l files) where() string { return l.s.path("hosts") }

// with holds the lock of the table: others cannot write it meanwhile or, if this is a change,
// read it.
func (l files) with(ctx context.Context, change bool, do func(table) error) error {
	f, err := vfs.OpenLockFile(l.where(), change, change)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.s.fleet.Wait, defaultWait))
	defer cancel()
	if err := f.Lock(ctx, lockTable, change); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: another host holds its lock, or one that died has not given it back yet: %w", l.where(), err)
		}
		return err
	}
	b, err := f.Content(mostHosts * placeSize)
	if err != nil {
		return err
	}
	if err := do(&fileTable{l.s, f, b}); err != nil {
		return err
	}
	return f.Unlock(lockTable)
}

func (l files) take(ctx context.Context, n int) (Hold, error) { return l.s.takeByte(ctx, n) }

// A fileTable is the file hosts, locked.
type fileTable struct {
	s     *share
	f     *vfs.LockFile
	bytes []byte
}

func (t *fileTable) places() int { return (len(t.bytes) + placeSize - 1) / placeSize }

func (t *fileTable) at(i int) (record, error) {
	r, _, err := t.decode(i)
	return r, err
}

// decode also tells which of the two records of a place counts.
func (t *fileTable) decode(i int) (record, int, error) {
	b := make([]byte, placeSize)
	copy(b, t.bytes[min(i*placeSize, len(t.bytes)):])
	return decodePlace(b)
}

// put writes a record, durably, over the one of the two that does not count.
func (t *fileTable) put(i int, r record) error {
	was, half, err := t.decode(i)
	next := 1 - half
	if err != nil {
		next = 0
		if err := t.wipe(i, err); err != nil {
			return err
		}
	} else if r.Generation <= was.Generation {
		r.Generation = was.Generation + 1
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	return t.f.Put(b, int64(i*placeSize+next*recordSize))
}

// wipe takes out what is damaged.
func (t *fileTable) wipe(i int, why error) error {
	if errors.Is(why, errNoRecord) {
		return nil
	}
	return t.f.Put(make([]byte, placeSize), int64(i*placeSize))
}

func (t *fileTable) users(i int, r record) ([]byte, error) { return t.s.readUsers(i, r.File) }

func (t *fileTable) tell(i int, r record, data []byte) error { return t.s.writeUsers(i, r.File, data) }
