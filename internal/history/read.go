package history

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A Query says which entries to read.
type Query struct {
	Domains []string               // none: of all domains
	Fits    func(name string) bool // tells of each further domain whether it is one of Domains; nil: none is
	Since   time.Time              // entries that ended before are left out
	Limit   int                    // only the newest; 0 = all
	Each    int                    // only the newest of each of Domains; 0 = all
}

// Read returns entries, oldest first; none where there is no log yet. With a
// *DamagedError it returns those that can be read.
func (s *Store) Read(q Query) ([]Entry, error) {
	f, err := s.checked()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // keeps writers out until bbolt has the file, too
	r := &reading{q: q}
	err = s.with(true, func(db *bolt.DB) error { return db.View(r.all) })
	if err == nil && r.broken > 0 {
		err = &DamagedError{s.Path, fmt.Sprintf("%d of its parts cannot be read", r.broken)}
	}
	return r.sorted(), err
}

// A reading collects what a Query asks for.
type reading struct {
	q      Query
	found  []numbered
	broken int
}

type numbered struct {
	n uint64
	e Entry
}

func (r *reading) all(tx *bolt.Tx) error {
	runs, domains := tx.Bucket(runsBucket), tx.Bucket(domainsBucket)
	if runs == nil || domains == nil {
		r.broken++
		return nil
	}
	if len(r.q.Domains) == 0 && r.q.Fits == nil {
		r.backward(runs, runs.Cursor(), r.q.Limit)
	}
	for _, name := range r.names(domains) {
		if domain := domains.Bucket([]byte(name)); name != "" && domain != nil {
			r.backward(runs, domain.Cursor(), cmp.Or(r.q.Each, r.q.Limit))
		}
	}
	return nil
}

// names lists the domains of the query, each once.
func (r *reading) names(domains *bolt.Bucket) []string {
	names := slices.Clone(r.q.Domains)
	if r.q.Fits != nil {
		_ = domains.ForEachBucket(func(key []byte) error { // ours returns none
			if r.q.Fits(string(key)) {
				names = append(names, string(key))
			}
			return nil
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// backward reads the entries that the keys of c name, newest first, up to limit.
func (r *reading) backward(runs *bolt.Bucket, c *bolt.Cursor, limit int) {
	taken := 0
	for key, _ := c.Last(); key != nil && (limit == 0 || taken < limit); key, _ = c.Prev() {
		e, err := decode(key, runs.Get(key))
		switch {
		case err != nil:
			r.broken++
		case !e.End.Before(r.q.Since):
			r.found = append(r.found, numbered{binary.BigEndian.Uint64(key), *e})
			taken++
		}
	}
}

func (r *reading) sorted() []Entry {
	slices.SortFunc(r.found, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
	if r.q.Limit > 0 && len(r.found) > r.q.Limit {
		r.found = r.found[len(r.found)-r.q.Limit:]
	}
	entries := make([]Entry, len(r.found))
	for i := range r.found {
		entries[i] = r.found[i].e
	}
	return entries
}
