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

	"golang.org/x/sys/unix"
)

var errSync = errors.New("sync failed")

// names lists what is in dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", path, b, err, want)
	}
}

// syncLog notes at each sync what a crash right after it could not undo: the
// content of a file, or the names in a directory. It fails sync number failAt.
type syncLog struct {
	dir    string
	failAt int
	seen   []string
}

func (l *syncLog) sync(f *os.File) error {
	l.seen = append(l.seen, l.describe(f))
	if len(l.seen) == l.failAt {
		return errSync
	}
	return f.Sync()
}

func (l *syncLog) describe(f *os.File) string {
	fi, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	if !fi.IsDir() {
		b, err := os.ReadFile(f.Name())
		return fmt.Sprintf("file %v %q %v", fi.Mode(), b, err)
	}
	entries, err := os.ReadDir(l.dir)
	return fmt.Sprintf("dir %v %v", entries, err)
}

func (l *syncLog) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(l.seen, want) {
		t.Errorf("synced:\n%s\nwant:\n%s", strings.Join(l.seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestWriteFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "state", "old and longer")
	old := mustStat(t, path)
	if err := WriteFile(path, []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	wantContent(t, path, "new")
	wantNames(t, dir, "state")
	if got := mustStat(t, path); got.Mode != 0o640 || got.ID == old.ID {
		t.Errorf("%+v, before %+v", got, old)
	}
}

func TestWriteFileSyncsFileThenDirectory(t *testing.T) {
	dir := t.TempDir()
	l := &syncLog{dir: dir}
	if err := writeFile(filepath.Join(dir, "state"), []byte("new"), 0o644, l.sync); err != nil {
		t.Fatal(err)
	}
	l.want(t, `file -rw-r--r-- "new" <nil>`, `dir [- state] <nil>`)
}

func TestWriteFileReplacesSymlink(t *testing.T) {
	dir := t.TempDir()
	victim := newFile(t, dir, "victim", "precious")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantContent(t, victim, "precious")
	wantContent(t, link, "new")
}

// link/../state is beside the directory that link names, not beside link.
func TestWriteFileBesideTargetOfLink(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(elsewhere, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere, "sub"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	l := &syncLog{dir: elsewhere}
	if err := writeFile(dir+"/link/../state", []byte("new"), 0o600, l.sync); err != nil {
		t.Fatal(err)
	}
	wantContent(t, filepath.Join(elsewhere, "state"), "new")
	l.want(t, `file -rw------- "new" <nil>`, `dir [- state d sub/] <nil>`)
}

func TestWriteFileFailsCleanly(t *testing.T) {
	t.Run("target is a directory", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "state")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(path, []byte("new"), 0o600); err == nil {
			t.Error("no error")
		}
		wantNames(t, dir, "state")
	})
	t.Run("file does not sync", func(t *testing.T) {
		dir := t.TempDir()
		path := newFile(t, dir, "state", "old")
		l := &syncLog{dir: dir, failAt: 1}
		if err := writeFile(path, []byte("new"), 0o600, l.sync); !errors.Is(err, errSync) {
			t.Errorf("got %v", err)
		}
		wantContent(t, path, "old")
		wantNames(t, dir, "state")
	})
	t.Run("directory does not sync", func(t *testing.T) {
		dir := t.TempDir()
		path := newFile(t, dir, "state", "old")
		l := &syncLog{dir: dir, failAt: 2}
		if err := writeFile(path, []byte("new"), 0o600, l.sync); !errors.Is(err, errSync) {
			t.Errorf("got %v", err)
		}
		wantContent(t, path, "new")
		wantNames(t, dir, "state")
	})
	t.Run("no such directory", func(t *testing.T) {
		err := WriteFile(filepath.Join(t.TempDir(), "none", "state"), nil, 0o600)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTempPatternMatchesTheTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	var during []string
	sync := func(*os.File) error {
		during = names(t, dir)
		return errSync
	}
	if err := writeFile(filepath.Join(dir, "state"), nil, 0o600, sync); !errors.Is(err, errSync) {
		t.Fatal(err)
	}
	if len(during) != 1 {
		t.Fatalf("while writing: %q", during)
	}
	if ok, err := filepath.Match(TempPattern, during[0]); !ok || err != nil {
		t.Errorf("%q does not match: %v", during[0], err)
	}
}

func TestCreateExclusiveModeInSpiteOfUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	for _, perm := range []fs.FileMode{0o600, 0o660, 0o666, 0o444} {
		path := filepath.Join(dir, perm.String())
		l := &syncLog{dir: dir}
		got, err := createExclusive(path, perm, l.sync)
		if err != nil {
			t.Fatal(err)
		}
		if got.Mode != perm || got.Size != 0 || got.Links != 1 || got.ID != mustStat(t, path).ID {
			t.Errorf("%v: %+v", perm, got)
		}
		if len(l.seen) != 2 || !strings.HasPrefix(l.seen[0], "file "+perm.String()) ||
			!strings.Contains(l.seen[1], perm.String()) {
			t.Errorf("%v: synced %q", perm, l.seen)
		}
	}
}

func TestCreateExclusiveLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "guest data")
	if err := os.Symlink("none", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("disk", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"disk", "dangling", "link", "."} {
		if _, err := CreateExclusive(filepath.Join(dir, name), 0o600); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantContent(t, path, "guest data")
	wantNames(t, dir, "dangling", "disk", "link")
}

func TestCreateExclusiveFailsCleanly(t *testing.T) {
	for failAt := 1; failAt <= 2; failAt++ {
		dir := t.TempDir()
		l := &syncLog{dir: dir, failAt: failAt}
		_, err := createExclusive(filepath.Join(dir, "disk"), 0o600, l.sync)
		if !errors.Is(err, errSync) {
			t.Errorf("sync %d fails: %v", failAt, err)
		}
		wantNames(t, dir)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	victim := newFile(t, dir, "victim", "precious")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	l := &syncLog{dir: dir}
	if err := remove(link, l.sync); err != nil {
		t.Fatal(err)
	}
	l.want(t, "dir [- victim] <nil>")
	if err := Remove(link); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
	if err := Remove(dir); err == nil {
		t.Error("removed a directory")
	}
	wantNames(t, dir, "victim")
}

func TestSyncDir(t *testing.T) {
	dir := t.TempDir()
	if err := SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := SyncDir(newFile(t, dir, "file", "")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("file: %v", err)
	}
	if err := syncDir(dir, func(*os.File) error { return errSync }); !errors.Is(err, errSync) {
		t.Errorf("got %v", err)
	}
}
