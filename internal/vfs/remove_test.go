package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRemoveExactRemovesAndSyncs(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "s1.qcow2", "merged")
	newFile(t, dir, "s2.qcow2", "kept")
	l := &syncLog{dir: dir}
	if err := removeExact(path, mustStat(t, path).ID, l.sync); err != nil {
		t.Fatal(err)
	}
	l.want(t, "dir [- s2.qcow2] <nil>")
	if err := RemoveExact(path, ID{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
}

func TestRemoveExactTellsThatSyncFailed(t *testing.T) {
	path := newFile(t, t.TempDir(), "s1.qcow2", "")
	err := removeExact(path, mustStat(t, path).ID, func(*os.File) error { return errSync })
	if !errors.Is(err, errSync) {
		t.Errorf("got %v", err)
	}
}

func TestRemoveExactByRelativeName(t *testing.T) {
	t.Chdir(t.TempDir())
	newFile(t, ".", "s1.qcow2", "")
	if err := RemoveExact("s1.qcow2", mustStat(t, "s1.qcow2").ID); err != nil {
		t.Error(err)
	}
	wantNames(t, ".")
}

// Each case puts something at path that is not what the intent named.
func TestRemoveExactRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, path string)
		reason string
	}{
		{"replaced file", replaceFile, "inode"},
		{"second name", addLink, "2 names"},
		{"symbolic link to the file", toSymlink, "not a regular file"},
		{"directory", toDirectory, "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := newFile(t, dir, "s1.qcow2", "guest data")
			id := mustStat(t, path).ID
			c.change(t, path)
			before := names(t, dir)
			l := &syncLog{dir: dir}
			err := removeExact(path, id, l.sync)
			var changed *ChangedError
			if !errors.As(err, &changed) || changed.Path != path || !strings.Contains(changed.Reason, c.reason) {
				t.Errorf("got %v", err)
			}
			wantNames(t, dir, before...)
			l.want(t)
		})
	}
}

func TestRemoveExactComparesDeviceToo(t *testing.T) {
	path := newFile(t, t.TempDir(), "s1.qcow2", "guest data")
	id := mustStat(t, path).ID
	id.Dev++
	var changed *ChangedError
	if err := RemoveExact(path, id); !errors.As(err, &changed) {
		t.Errorf("got %v", err)
	}
	wantContent(t, path, "guest data")
}

func TestRemoveExactTakesATrailingSlashForNoName(t *testing.T) {
	dir := t.TempDir()
	newFile(t, dir, filepath.Base(dir), "guest data") // dir/dir
	id := mustStat(t, filepath.Join(dir, filepath.Base(dir))).ID
	if err := RemoveExact(dir+"/", id); err == nil {
		t.Error("removed")
	}
	wantNames(t, dir, filepath.Base(dir))
}

// must is for steps that set a test up.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func replaceFile(t *testing.T, path string) {
	other := newFile(t, filepath.Dir(path), "other", "other data")
	must(t, os.Rename(other, path))
}

func addLink(t *testing.T, path string) {
	must(t, os.Link(path, path+".link"))
}

func toSymlink(t *testing.T, path string) {
	must(t, os.Rename(path, path+".moved"))
	must(t, os.Symlink(path+".moved", path))
}

func toDirectory(t *testing.T, path string) {
	must(t, os.Rename(path, path+".moved"))
	must(t, os.Mkdir(path, 0o700))
}
