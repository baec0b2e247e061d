package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// lateName is a kernel to which a name that another host has made is there once the server has been asked about
// its directory.
func lateName(t *testing.T, path string) kernel {
	k := linux()
	k.refresh = func(dir string, _ int) {
		if dir == filepath.Dir(path) {
			newFile(t, dir, filepath.Base(path), "x")
		}
	}
	return k
}

func TestANameThatAnotherHostHasJustMadeIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	if fi, err := lstatFresh(path, lateName(t, path)); err != nil || fi.Size() != 1 {
		t.Errorf("%v, %v", fi, err)
	}
	path = filepath.Join(t.TempDir(), "new")
	f, err := openLockFile(path, false, false, lateName(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFileThatIsNowhereIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := LstatFresh(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := OpenLockFile(path, true, false); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The times of a directory are those of the server, so that a name which another host has just made is
// listed.
func TestADirectoryIsAskedOfTheServerBeforeItIsListed(t *testing.T) {
	dir := t.TempDir()
	asked := 0
	c := ListCache{racy: -1, refresh: func(d string, _ int) {
		asked++
		if err := os.WriteFile(filepath.Join(d, string(rune('a'+asked))), nil, 0o600); err != nil {
			t.Error(err)
		}
	}}
	for want := 1; want <= 3; want++ {
		l, err := c.List(dir, 0, 100)
		if err != nil || len(l.Entries) != want {
			t.Errorf("%v, %v: want %d names", l.Entries, err, want)
		}
	}
}
