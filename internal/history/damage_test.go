package history

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// wellFilled has branches, several domains, and pages on the freelist.
func wellFilled(t *testing.T) (*Store, []byte) {
	t.Helper()
	s := newStore(t)
	s.Max = 30
	for n := range 40 {
		e := did(n)
		e.Error = string(slices.Repeat([]byte{'x'}, 600))
		fill(t, s, e, named(e, "db"), idle("other", n))
	}
	data, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	return s, data
}

// survives sees that a damaged file ends no process, and that Append finds a way.
func survives(t *testing.T, what string, s *Store, data []byte) (damaged bool) {
	t.Helper()
	_ = os.Remove(s.Path + ".damaged")
	if err := os.WriteFile(s.Path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *DamagedError
	if _, err := s.Read(Query{}); err != nil && !errors.As(err, &bad) {
		t.Errorf("%s: Read: %v", what, err)
	}
	_, _ = s.Read(Query{Domains: []string{"web"}})
	err := s.Append(named(did(99), "new"))
	if err != nil && !errors.As(err, &bad) {
		t.Errorf("%s: Append: %v", what, err)
	}
	if err != nil {
		kept, readErr := os.ReadFile(s.Path + ".damaged")
		if readErr != nil || len(kept) < len(data) {
			t.Errorf("%s: the damaged file was not kept: %v (%v)", what, readErr, err)
		}
	}
	found, err := s.Read(Query{Domains: []string{"new"}})
	if len(found) != 1 {
		t.Errorf("%s: the new entry is not there: %v, %v", what, found, err)
	}
	return bad != nil
}

func TestATruncatedFileIsSetAside(t *testing.T) {
	s, data := wellFilled(t)
	page := os.Getpagesize()
	used := int(lastMeta(t, s).used) * page
	for _, size := range []int{0, 1, 15, 80, page - 1, page, 2 * page, 2*page + 7, 3 * page, used / 2, used - page, used - 1} {
		if !survives(t, "truncated", s, data[:size]) {
			t.Errorf("truncated to %d of %d bytes: nobody noticed", size, used)
		}
	}
}

func TestGarbageIsSetAside(t *testing.T) {
	s, data := wellFilled(t)
	zeros := make([]byte, len(data))
	text := slices.Repeat([]byte("this is no database\n"), 3000)
	for name, b := range map[string][]byte{"zeros": zeros, "text": text, "short": []byte("x")} {
		if !survives(t, name, s, b) {
			t.Errorf("%s: nobody noticed", name)
		}
	}
	if err := os.WriteFile(s.Path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(did(1)); err == nil || !errors.Is(err, os.ErrExist) {
		t.Errorf("a second damaged file: %v; want it left where it is", err)
	}
}

// A bit here and there, and whole sectors. Five divides no size of the format, so
// every field has its turn.
func TestADamagedBitIsSurvived(t *testing.T) {
	s, data := wellFilled(t)
	s.Patience = 0
	noticed := 0
	meta := lastMeta(t, s)
	end := int(int64(meta.used) * meta.pageSize)
	for i := 0; i < end; i += 5 {
		if i%int(meta.pageSize) >= 600 { // texts: few are enough
			i += 251
		}
		b := slices.Clone(data)
		b[min(i, end-1)] ^= 1 << (i % 8)
		if survives(t, "a bit", s, b) {
			noticed++
		}
	}
	for at := 0; at+512 <= end; at += 512 {
		b := slices.Clone(data)
		clear(b[at : at+512])
		survives(t, "a sector", s, b)
	}
	if noticed == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d pages, %d single bits noticed", meta.used, noticed)
}

func lastMeta(t *testing.T, s *Store) meta {
	t.Helper()
	f, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	c := &checker{r: f, size: info.Size()}
	if err := c.readMeta(); err != nil {
		t.Fatal(err)
	}
	return c.meta
}

// A store that has appended looks again once somebody else has changed the file.
func TestDamageBetweenTwoAppendsIsFound(t *testing.T) {
	s := newStore(t)
	fill(t, s, did(1), did(2))
	if s.sound == nil {
		t.Fatal("every append would read the whole file")
	}
	if err := os.Truncate(s.Path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if err := s.Append(did(3)); !errors.As(err, &damaged) {
		t.Errorf("%v", err)
	}
	fill(t, s, did(4))
	if got := read(t, s, Query{}); !slices.Equal(got, []string{"web 3", "web 4"}) {
		t.Errorf("%v", got)
	}
}

// A branch that leads back to itself would overflow the stack in bbolt, which no
// recover catches.
func TestABranchThatLeadsBackIsFound(t *testing.T) {
	s, data := wellFilled(t)
	meta := lastMeta(t, s)
	patched := 0
	for id := uint64(firstPage); id < meta.used; id++ {
		page := data[int64(id)*meta.pageSize:][:meta.pageSize]
		if binary.NativeEndian.Uint16(page[8:]) == flagBranch && binary.NativeEndian.Uint64(page) == id {
			binary.NativeEndian.PutUint64(page[headerLen+8:], id)
			patched++
		}
	}
	if patched == 0 {
		t.Fatal("the file has no branch")
	}
	if !survives(t, "cycle", s, data) {
		t.Error("nobody noticed")
	}
}

// The check comes first, but what it misses must not end the process either: a
// fault in the mapped file, or what bbolt asserts.
func TestWhatBboltPanicsWithIsAnError(t *testing.T) {
	s := newStore(t)
	fill(t, s, did(1)) // small: the mapping, of 32 KiB at least, has all of its pages
	data, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	pages := firstPage * lastMeta(t, s).pageSize
	noPages := slices.Clone(data)
	clear(noPages[pages:])
	for name, b := range map[string][]byte{"fault": data[:pages], "assertion": noPages} {
		if err := os.WriteFile(s.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &reading{}
		var damaged *DamagedError
		if err := s.with(true, func(db *bolt.DB) error { return db.View(r.all) }); !errors.As(err, &damaged) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestAFileThatIsInOrderPassesTheCheck(t *testing.T) {
	s := newStore(t)
	s.Max = 50
	for n := range 200 {
		e := did(n)
		e.Error = string(slices.Repeat([]byte{'x'}, n*9%2000))
		fill(t, s, e, named(e, string(rune('a'+n%26))))
	}
	if _, err := os.Stat(s.Path + ".damaged"); err == nil {
		t.Error("a sound file was set aside")
	}
	if got := read(t, s, Query{}); len(got) != 50 {
		t.Errorf("%d entries", len(got))
	}
}
