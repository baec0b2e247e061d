package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newTree makes files, each with its directories, and returns the directory of all.
func newTree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, nil, 0o600))
	}
	return dir
}

// found lists what a walk comes by, relative to dir, and its errors.
func found(l Lister, dir string, limits Limits) (names []string, errs []error) {
	for f, err := range Below(l, dir, limits) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rel, _ := filepath.Rel(dir, f.Path)
		names = append(names, rel)
	}
	return names, errs
}

func wantFound(t *testing.T, l Lister, dir string, want ...string) {
	t.Helper()
	if got, errs := found(l, dir, ScanLimits()); !slices.Equal(got, want) || errs != nil {
		t.Errorf("%q, %v; want %q", got, errs, want)
	}
}

func TestBelowFindsFilesAtAllLevelsInOrder(t *testing.T) {
	dir := newTree(t, "b", "a", "z/1/2/deep", "c/y", "c/x")
	must(t, os.Symlink("a", filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	wantFound(t, OS(), dir, "a", "b", "link", "c/x", "c/y", "z/1/2/deep")
}

// Loops of symbolic links: none is followed, but for the directory itself.
func TestBelowFollowsNoLinkToADirectory(t *testing.T) {
	dir := newTree(t, "sub/a")
	must(t, os.Symlink(dir, filepath.Join(dir, "sub", "up")))
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	wantFound(t, OS(), dir, "loop", "sub/a", "sub/up")
	link := filepath.Join(t.TempDir(), "dir")
	must(t, os.Symlink(dir, link))
	wantFound(t, OS(), link, "loop", "sub/a", "sub/up")
}

// lister is directories that are only thought of, some of which fail or are elsewhere.
type lister struct {
	dirs   map[string][]Entry
	fs     map[string]uint64
	broken map[string]error
}

func (l lister) List(dir string, on uint64, most int) (Listing, error) {
	if err := l.broken[dir]; err != nil {
		return Listing{}, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	dev := max(l.fs[dir], 1)
	if on != 0 && on != dev {
		return Listing{}, ErrOtherFS
	}
	all := l.dirs[dir]
	return Listing{dev, all[:min(most, len(all))], len(all) > most}, nil
}

func TestBelowStaysOnItsFileSystem(t *testing.T) {
	l := lister{
		dirs: map[string][]Entry{
			"/d": {{"mnt", fs.ModeDir}, {"sub", fs.ModeDir}}, "/d/mnt": {{"other", 0}}, "/d/sub": {{"mine", 0}},
		},
		fs: map[string]uint64{"/d": 7, "/d/mnt": 8, "/d/sub": 7},
	}
	wantFound(t, l, "/d", "sub/mine")
	wantFound(t, l, "/d/mnt", "other")
}

// What the fake above has for its device is what the kernel says of real ones.
func TestListKnowsOtherFileSystems(t *testing.T) {
	here, err := OS().List("/", 0, 1000)
	must(t, err)
	if _, err := OS().List("/proc", here.FS, 10); !errors.Is(err, ErrOtherFS) {
		t.Errorf("/proc: %v", err)
	}
	if again, err := OS().List("/", here.FS, 1000); err != nil || again.FS != here.FS {
		t.Errorf("%v, %v", again.FS, err)
	}
}

func TestBelowNamesWhatItCannotRead(t *testing.T) {
	l := lister{
		dirs:   map[string][]Entry{"/d": {{"a", fs.ModeDir}, {"b", fs.ModeDir}}, "/d/b": {{"file", 0}}},
		broken: map[string]error{"/d/a": fs.ErrPermission},
	}
	names, errs := found(l, "/d", ScanLimits())
	if !slices.Equal(names, []string{"b/file"}) || len(errs) != 1 || !errors.Is(errs[0], fs.ErrPermission) || !strings.Contains(errs[0].Error(), "/d/a") {
		t.Errorf("%q, %v", names, errs)
	}
}

func TestBelowTakesWhatVanishesForNothing(t *testing.T) {
	l := lister{
		dirs:   map[string][]Entry{"/d": {{"gone", fs.ModeDir}, {"file", fs.ModeDir}, {"kept", 0}}},
		broken: map[string]error{"/d/gone": fs.ErrNotExist, "/d/file": &KindError{"/d/file", "regular file"}},
	}
	wantFound(t, l, "/d", "kept")
	_, errs := found(OS(), filepath.Join(t.TempDir(), "none"), ScanLimits())
	if len(errs) != 1 || !errors.Is(errs[0], fs.ErrNotExist) {
		t.Errorf("the directory itself: %v", errs)
	}
}

// A directory that has become a link, or a file, after its parent was read.
func TestListFollowsNoLinkBelow(t *testing.T) {
	dir := newTree(t, "sub/a", "file")
	must(t, os.Symlink("sub", filepath.Join(dir, "link")))
	top, err := OS().List(dir, 0, 10)
	must(t, err)
	for _, name := range []string{"link", "file"} {
		_, err := OS().List(filepath.Join(dir, name), top.FS, 10)
		var kind *KindError
		if !errors.As(err, &kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBelowTellsItsBounds(t *testing.T) {
	dir := newTree(t, "a", "b", "c/d", "c/e/f/g")
	for _, c := range []struct {
		limits Limits
		want   string // "" for all
	}{
		{Limits{Entries: 8, Depth: 3}, ""},
		{Limits{Entries: 7, Depth: 3}, ""},
		{Limits{Entries: 6, Depth: 3}, "more than 6 files"},
		{Limits{Entries: 2, Depth: 3}, "more than 2 files"},
		{Limits{Entries: 0, Depth: 3}, "more than 0 files"},
		{Limits{Entries: 8, Depth: 2}, "more than 2 levels"},
		{Limits{Entries: 8, Depth: 0}, "more than 0 levels"},
		{Limits{Entries: 8, Depth: 1, Skip: func(dir string) bool { return filepath.Base(dir) == "e" }}, ""},
	} {
		names, errs := found(OS(), dir, c.limits)
		var bound *BoundError
		switch {
		case c.want == "" && errs == nil:
		case len(errs) != 1 || !errors.As(errs[0], &bound) || bound.Dir != dir || c.want == "" || !strings.Contains(bound.Reason, c.want):
			t.Errorf("%+v: %q, %v; want %q", c.limits, names, errs, c.want)
		}
	}
}

func TestBelowEndsWithItsCaller(t *testing.T) {
	dir := newTree(t, "a", "b/c", "b/d")
	for n := range 4 {
		seen := 0
		for range Below(OS(), dir, ScanLimits()) {
			if seen++; seen > n {
				break
			}
		}
		if seen != min(n+1, 3) {
			t.Errorf("%d after %d", seen, n)
		}
	}
}

func BenchmarkBelow(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d", i)), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for range Below(OS(), dir, ScanLimits()) {
		}
	}
}
