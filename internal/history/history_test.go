package history

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

// childStore makes the test binary a process that appends until it is killed.
const childStore = "HISTORY_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childStore); dir != "" {
		appendForever(In(dir))
	}
	os.Exit(tidy.Run(m.Run))
}

func appendForever(s *Store) {
	for {
		entries, err := s.Read(Query{Limit: 1})
		n := 1
		if len(entries) > 0 {
			n = int(entries[0].Merged) + 1
		}
		if err == nil {
			err = s.Append(did(n))
		}
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s := In(tempDir(t))
	s.Patience = 200 * time.Millisecond
	return s
}

// tempDir is in memory where that can be had: thousands of files are synced.
func tempDir(t *testing.T) string {
	t.Helper()
	return tidy.InMemory(t)
}

func clock(n int) time.Time { return time.Date(2026, 1, 1, 0, n, 0, 0, time.UTC) }

// did is run n of web, in which something was done.
func did(n int) Entry {
	return Entry{Start: clock(n), End: clock(n).Add(time.Second), Command: "run", Domain: "web", UUID: "u", Policy: "p",
		Result: "done", Steps: []Step{{Op: "merge", Disk: "vda", Top: "/img/top", Base: "/img/base", Bytes: int64(n)}}, Merged: int64(n)}
}

func idle(domain string, n int) Entry {
	return Entry{Start: clock(n), End: clock(n), Command: "run", Domain: domain, UUID: "u-" + domain, Policy: "p", Result: "nothing-to-do"}
}

func fill(t *testing.T, s *Store, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := s.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns "domain minute" of each entry.
func read(t *testing.T, s *Store, q Query) []string {
	t.Helper()
	entries, err := s.Read(q)
	if err != nil {
		t.Fatal(err)
	}
	return brief(entries)
}

func brief(entries []Entry) []string {
	list := []string{}
	for _, e := range entries {
		list = append(list, fmt.Sprintf("%s %d", e.Domain, e.Start.Minute()))
	}
	return list
}

func named(e Entry, domain string) Entry {
	e.Domain, e.UUID = domain, "u-"+domain
	return e
}

func TestEntriesComeBackOldestFirst(t *testing.T) {
	s := newStore(t)
	if got := read(t, s, Query{}); len(got) != 0 {
		t.Errorf("before the first run: %v", got)
	}
	fill(t, s, did(1), named(did(2), "db"), did(3), named(did(4), "db"), did(5))
	for _, c := range []struct {
		q    Query
		want []string
	}{
		{Query{}, []string{"web 1", "db 2", "web 3", "db 4", "web 5"}},
		{Query{Limit: 2}, []string{"db 4", "web 5"}},
		{Query{Domains: []string{"db"}}, []string{"db 2", "db 4"}},
		{Query{Domains: []string{"web", "db", "web"}, Limit: 3}, []string{"web 3", "db 4", "web 5"}},
		{Query{Domains: []string{"web", "db"}, Each: 1}, []string{"db 4", "web 5"}},
		{Query{Domains: []string{"web", "db"}, Each: 2, Limit: 3}, []string{"web 3", "db 4", "web 5"}},
		{Query{Domains: []string{"nobody", ""}}, []string{}},
		{Query{Since: clock(3)}, []string{"web 3", "db 4", "web 5"}},
		{Query{Since: clock(3), Domains: []string{"db"}, Limit: 9}, []string{"db 4"}},
	} {
		if got := read(t, s, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.q, got, c.want)
		}
	}
	entries, _ := s.Read(Query{Limit: 1})
	want := did(5)
	want.Runs = 1
	if fmt.Sprint(entries[0]) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", entries[0], want)
	}
}

func TestRunsThatTellTheSameShareAnEntry(t *testing.T) {
	s := newStore(t)
	refused := idle("web", 8)
	refused.Result, refused.Refused = "refused", []Refusal{{"no-space", "/img", "full"}}
	later := refused
	later.Start, later.End = clock(9), clock(9)
	fill(t, s, idle("web", 1), idle("db", 2), idle("web", 3), idle("web", 4), did(5), did(6), idle("web", 7), refused, later)
	entries, err := s.Read(Query{Domains: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %d-%d %d", e.Result, e.Start.Minute(), e.End.Minute(), e.Runs))
	}
	want := []string{"nothing-to-do 1-4 3", "done 5-5 1", "done 6-6 1", "nothing-to-do 7-7 1", "refused 8-9 2"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheOldestEntriesGoAndTheirDomainsWithThem(t *testing.T) {
	s := newStore(t)
	s.Max = 5
	fill(t, s, named(did(1), "gone"))
	for n := 2; n <= 12; n++ {
		fill(t, s, did(n))
	}
	want := []string{"web 8", "web 9", "web 10", "web 11", "web 12"}
	if got := read(t, s, Query{}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := read(t, s, Query{Domains: []string{"web", "gone"}}); !slices.Equal(got, want) {
		t.Errorf("by domain: %v, want %v", got, want)
	}
	err := s.with(true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			if tx.Bucket(domainsBucket).Bucket([]byte("gone")) != nil {
				t.Error("the index still has a domain without entries")
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	s.Max = 2
	fill(t, s, did(13))
	if got := read(t, s, Query{}); !slices.Equal(got, []string{"web 12", "web 13"}) {
		t.Errorf("after the bound was lowered: %v", got)
	}
}

func TestAnEntryIsBounded(t *testing.T) {
	s := newStore(t)
	big := did(1)
	big.Steps = slices.Repeat(big.Steps, 3000)
	big.Error = strings.Repeat("ä", 10_000)
	big.Refused = slices.Repeat([]Refusal{{"c", "/p", strings.Repeat("x", 5000)}}, 500)
	big.Warnings = slices.Repeat([]string{strings.Repeat("x", 5000)}, 500)
	fill(t, s, big)
	entries, err := s.Read(Query{})
	if err != nil {
		t.Fatal(err)
	}
	e := entries[0]
	if len(e.Steps) != maxSteps || e.LeftOut != 3000-maxSteps || len(e.Error) > maxText+3 || len(e.Refused) != maxTexts || len(e.Warnings) != maxTexts {
		t.Errorf("%d steps, %d left out, error of %d bytes, %d refusals, %d warnings", len(e.Steps), e.LeftOut, len(e.Error), len(e.Refused), len(e.Warnings))
	}
	if len(big.Refused[0].Detail) != 5000 || len(big.Steps) != 3000 {
		t.Error("the caller's entry was changed")
	}
	if info, _ := os.Stat(s.Path); info.Size() > 1<<20 {
		t.Errorf("one entry makes a file of %d bytes", info.Size())
	}
}

// A reader that hangs must not hold up a run, nor a run that hangs a reader.
func TestALockedFileCostsPatienceAndNoMore(t *testing.T) {
	s := newStore(t)
	fill(t, s, did(1))
	f, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for how, call := range map[int]func() error{
		unix.LOCK_SH: func() error { return s.Append(did(2)) },
		unix.LOCK_EX: func() error { _, err := s.Read(Query{}); return err },
	} {
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := call(); !errors.Is(err, ErrBusy) {
			t.Errorf("lock %d: %v, want ErrBusy", how, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("lock %d: it took %s", how, took)
		}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, Query{}); !slices.Equal(got, []string{"web 1"}) {
		t.Errorf("beside another reader: %v", got)
	}
	if _, err := os.Stat(s.Path + ".damaged"); err == nil {
		t.Error("a busy file was taken for a damaged one")
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		s := newStore(t)
		if err := make(s.Path); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if err := s.Append(did(1)); err == nil || errors.As(err, &damaged) {
			t.Errorf("%s: Append: %v", name, err)
		}
		if _, err := s.Read(Query{}); err == nil {
			t.Errorf("%s: Read: no error", name)
		}
	}
	missing := In(filepath.Join(t.TempDir(), "none"))
	if err := missing.Append(did(1)); err == nil {
		t.Error("a directory that is not there: no error")
	}
}

// A process that appends is killed at any moment: all that it was told to be
// written is there, and the next one goes on.
func TestAKilledAppendLosesNothingThatWasWritten(t *testing.T) {
	s := newStore(t)
	s.Patience = 3 * time.Second
	last := 0
	for round := range 25 {
		last = max(last, appendAndKill(t, filepath.Dir(s.Path), time.Duration(2+round*7)*time.Millisecond))
		entries, err := s.Read(Query{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i, e := range entries {
			if e.Merged != int64(i+1) {
				t.Fatalf("round %d: entry %d is %d", round, i+1, e.Merged)
			}
		}
		if len(entries) < last || len(entries) > last+1 {
			t.Fatalf("round %d: %d entries, %d were acknowledged", round, len(entries), last)
		}
		last = len(entries)
	}
	if last < 25 {
		t.Errorf("only %d entries in 25 rounds: the child does not write", last)
	}
}

// appendAndKill returns the last number that the child has told.
func appendAndKill(t *testing.T, dir string, after time.Duration) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childStore+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last, lines := 0, bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(lines.Text())
		}
		if last == 0 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		last = n
	}
	_ = cmd.Wait()
	return last
}
