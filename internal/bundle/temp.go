package bundle

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A tempDir is where something is made before it gets its name. It is locked by the process
// that made it, for as long as that lives.
type tempDir struct {
	path string
	lock *os.File
}

// newTempDir makes one in parent, whose name is durable.
func newTempDir(parent string) (*tempDir, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	path := filepath.Join(parent, strings.Replace(vfs.TempPattern, "*", hex.EncodeToString(b[:]), 1))
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	t := &tempDir{path: path}
	var err error
	if t.lock, err = os.Open(path); err == nil {
		err = unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = vfs.SyncDir(parent)
	}
	if err != nil {
		return nil, errors.Join(err, t.remove())
	}
	return t, nil
}

// remove removes the directory with all that is in it, if it has not got a name.
func (t *tempDir) remove() error {
	err := os.RemoveAll(t.path)
	if t.lock != nil {
		err = errors.Join(err, t.lock.Close())
	}
	return errors.Join(err, vfs.SyncDir(filepath.Dir(t.path)))
}

// name gives the directory its name, where nothing may be, durably.
func (t *tempDir) name(path string) error {
	if err := vfs.SyncDir(t.path); err != nil {
		return err
	}
	err := vfs.RenameNew(t.path, path)
	if errors.Is(err, fs.ErrExist) {
		return alreadyThere(path)
	}
	return err
}

// A Leftover is what an export or import has left that was killed.
type Leftover struct {
	Path   string // a directory with a temporary name
	Placed        // of an import
}

// Placed is what an import notes before it names images: images with these names are its own.
type Placed struct {
	Domain string        `json:"domain"`
	UUID   string        `json:"uuid"`
	Images []PlacedImage `json:"images"`
}

// A PlacedImage is one image, known by its identity.
type PlacedImage struct {
	Path string `json:"path"`
	ID   vfs.ID `json:"id"`
}

// noteName is where an import keeps its note, in its temporary directory.
const noteName = "import.json"

// Leftovers finds what was left in dir. Directories of processes that live are none.
func Leftovers(dir string) (all []Leftover, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if match, _ := filepath.Match(vfs.TempPattern, e.Name()); !match || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if dead, err := abandoned(path); err != nil || !dead {
			continue // another user's, or just gone
		}
		l := Leftover{Path: path}
		if l.Placed, err = readNote(path); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, err
}

func abandoned(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, f.Close()
	}
	return err == nil, errors.Join(err, f.Close())
}

// readNote is empty where there is none that an import has finished writing.
func readNote(dir string) (p Placed, err error) {
	text, err := readSmall(filepath.Join(dir, noteName), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = decode(text, &p)
	}
	if err != nil {
		return Placed{}, fmt.Errorf("%s: %w", filepath.Join(dir, noteName), err)
	}
	return p, nil
}

func (t *tempDir) note(p Placed) error {
	text, err := json.MarshalIndent(p, "", "    ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(filepath.Join(t.path, noteName), append(text, '\n'), 0o600)
}

// Images are those that an import has named, and that are still the ones that it made.
func (l *Leftover) Images() (paths []string) {
	for _, i := range l.Placed.Images {
		if info, err := vfs.Lstat(i.Path); err == nil && info.ID == i.ID {
			paths = append(paths, i.Path)
		}
	}
	return paths
}

// Remove removes what is left of an import that had come to its end.
func (l *Leftover) Remove() error {
	return (&tempDir{path: l.Path}).remove()
}
