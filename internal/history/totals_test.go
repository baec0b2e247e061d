package history

import (
	"maps"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func sums(t *testing.T, s *Store) map[string]Totals {
	t.Helper()
	got, err := s.Totals()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func refused(n int, codes ...string) Entry {
	e := idle("web", n)
	e.UUID, e.Result = "u", "refused"
	for _, c := range codes {
		e.Refused = append(e.Refused, Refusal{Code: c, Path: "/x"})
	}
	return e
}

func TestTotalsCountEveryRun(t *testing.T) {
	s := newStore(t)
	if got := sums(t, s); len(got) != 0 {
		t.Errorf("no log yet: %v", got)
	}
	restored := did(50)
	restored.Command = "restore"
	freed := did(3)
	freed.Freed = 7
	fill(t, s, did(1), did(2), freed, idle("db", 1), idle("db", 2), idle("db", 3),
		refused(4, "no-space", "hook", "hook"), refused(5, "no-space"), refused(6, "no-space"), restored)
	got := sums(t, s)
	web, db := got["web"], got["db"]
	if web.Merged != 6 || web.Freed != 7 || !maps.Equal(web.Runs, map[string]int{"done": 3, "refused": 3}) || !maps.Equal(web.Refused, map[string]int{"no-space": 3, "hook": 1}) {
		t.Errorf("web %+v", web)
	}
	if db.Merged != 0 || !maps.Equal(db.Runs, map[string]int{"nothing-to-do": 3}) {
		t.Errorf("db %+v", db)
	}
}

// What is counted never gets less because entries go.
func TestTotalsDoNotShrinkWithTheLog(t *testing.T) {
	s := newStore(t)
	s.Max = 5
	var last int64
	for n := range 40 {
		fill(t, s, did(n%30))
		merged := sums(t, s)["web"].Merged
		if merged < last {
			t.Fatalf("after %d entries: %d, before %d", n, merged, last)
		}
		last = merged
	}
	if web := sums(t, s)["web"]; web.Runs["done"] != 40 {
		t.Errorf("%+v", web)
	}
	for n := range 6 {
		e := did(n)
		e.Domain = "db"
		fill(t, s, e)
	}
	if got := sums(t, s); len(got) != 1 || got["db"].Runs["done"] != 6 {
		t.Errorf("a domain without an entry has sums still: %v", got)
	}
}

// A log of a version that kept no sums begins with those of its entries.
func TestTotalsOfAnOlderLog(t *testing.T) {
	s := newStore(t)
	fill(t, s, did(1), did(2), idle("db", 3))
	older := func(change func(tx *bolt.Tx) error) {
		if err := s.with(false, func(db *bolt.DB) error { return db.Update(change) }); err != nil {
			t.Fatal(err)
		}
	}
	older(func(tx *bolt.Tx) error { return tx.DeleteBucket(totalsBucket) })
	if got := sums(t, s); len(got) != 2 || got["web"].Merged != 3 {
		t.Errorf("read: %v", got)
	}
	fill(t, s, did(4))
	if got := sums(t, s); len(got) != 2 || got["web"].Merged != 7 || got["web"].Runs["done"] != 3 {
		t.Errorf("written: %v", got)
	}
	older(func(tx *bolt.Tx) error { return tx.Bucket(totalsBucket).Put([]byte("web"), []byte("garbage")) })
	if _, err := s.Totals(); err == nil {
		t.Error("garbage is believed")
	}
	fill(t, s, did(5))
	if got := sums(t, s); got["web"].Merged != 5 {
		t.Errorf("after garbage: %v", got)
	}
}

func TestRunsOfTheHostAreCounted(t *testing.T) {
	s := newStore(t)
	if r, err := s.HostRuns(); err != nil || r.Count != 0 {
		t.Errorf("no log yet: %+v, %v", r, err)
	}
	for n := range 3 {
		if err := s.Ran(clock(n), clock(n+1)); err != nil {
			t.Fatal(err)
		}
		fill(t, s, did(n))
	}
	if r, err := s.HostRuns(); err != nil || r.Count != 3 || !r.Start.Equal(clock(2)) || !r.End.Equal(clock(3)) {
		t.Errorf("%+v, %v", r, err)
	}
	if got := read(t, s, Query{}); len(got) != 3 {
		t.Errorf("entries %v", got)
	}
}
