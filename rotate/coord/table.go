package coord

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A table is the file hosts, locked.
type table struct {
	f     *vfs.LockFile
	bytes []byte
}

func (t *table) places() int { return (len(t.bytes) + placeSize - 1) / placeSize }

// at decodes the record of a place.
func (t *table) at(i int) (record, int, error) {
	b := make([]byte, placeSize)
	copy(b, t.bytes[min(i*placeSize, len(t.bytes)):])
	return decodePlace(b)
}

// free is the first place that no host has: one that was forgotten, or a new one.
func (t *table) free() (int, error) {
	for i := range t.places() {
		if r, _, err := t.at(i); errors.Is(err, errNoRecord) || err == nil && r.Gone {
			return i, nil
		}
	}
	if t.places() >= mostHosts {
		return 0, fmt.Errorf("%d hosts are on record: forget those that are gone (virt-rotate fleet forget HOST)", mostHosts)
	}
	return t.places(), nil
}

// of finds the place of the host with that ID; -1 for none.
func (t *table) of(id string) (int, record) {
	for i := range t.places() {
		if r, _, err := t.at(i); err == nil && r.ID == id && id != "" {
			return i, r
		}
	}
	return -1, record{}
}

// put writes a record, durably, over the one of the two that does not count.
func (t *table) put(i int, r record) error {
	was, half, err := t.at(i)
	next := 1 - half
	if err != nil {
		next = 0
	} else if r.Generation <= was.Generation {
		r.Generation = was.Generation + 1
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	return t.f.Put(b, int64(i*placeSize+next*recordSize))
}

// locked does something with the table while others cannot write it or, if exclusive, read it.
func (s *share) locked(ctx context.Context, exclusive bool, do func(*table) error) error {
	f, err := vfs.OpenLockFile(s.path("hosts"), exclusive, exclusive)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.fleet.Wait, defaultWait))
	defer cancel()
	if err := f.Lock(ctx, lockTable, exclusive); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: another host holds its lock, or one that died has not given it back yet: %w", s.path("hosts"), err)
		}
		return err
	}
	b, err := f.Content(mostHosts * placeSize)
	if err != nil {
		return err
	}
	if err := do(&table{f, b}); err != nil {
		return err
	}
	return f.Unlock(lockTable)
}
