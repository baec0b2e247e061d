package vfs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestAListingIsRememberedUntilANameComesOrGoes(t *testing.T) {
	dir := t.TempDir()
	c := &ListCache{racy: time.Nanosecond}
	names := func(on uint64, most int) []string {
		t.Helper()
		l, err := c.List(dir, on, most)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, e := range l.Entries {
			found = append(found, e.Name)
		}
		return found
	}
	write := func(name string) {
		t.Helper()
		time.Sleep(20 * time.Millisecond) // a tick of the file system's clock
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	for range 2 {
		if got := names(0, 9); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%q", got)
		}
	}
	c.known[dir].Entries[0].Name = "remembered"
	if got := names(0, 9); !slices.Equal(got, []string{"remembered"}) {
		t.Errorf("listed again: %q", got)
	}
	write("b")
	if got := names(0, 9); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("a new name: %q", got)
	}
	if got := names(0, 1); len(got) != 1 {
		t.Errorf("more were remembered than asked for: %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if got := names(0, 9); !slices.Equal(got, []string{"b"}) {
		t.Errorf("one that is gone: %q", got)
	}
	if _, err := c.List(dir, 1, 9); err == nil {
		t.Error("a directory of another file system was listed")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(dir, 0, 9); err == nil {
		t.Error("a directory that is gone was listed")
	}
}

func TestADirectoryThatHasJustChangedIsNotRemembered(t *testing.T) {
	dir := t.TempDir()
	var c ListCache
	if _, err := c.List(dir, 0, 9); err != nil || len(c.known) > 0 {
		t.Errorf("%v, remembered: %v", err, c.known)
	}
}
