package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Whoever reads layers for long (serve, export, ls, cp, mount, diff) is on record while it does,
// so that a run knows why it cannot merge them, and whom to ask. The record is locked as long as
// the reader lives: one that is not locked was left by a process that died.

// A Reader reads the layers of a snapshot.
type Reader struct {
	Version int       `json:"version"`
	Command string    `json:"command"` // serve
	PID     int       `json:"pid"`
	Domain  string    `json:"domain"`
	Started time.Time `json:"started"`
	Images  []File    `json:"images"`          // that it reads
	Mount   string    `json:"mount,omitempty"` // where others see its files
	Dir     string    `json:"dir,omitempty"`   // its own, which goes when it does
}

// readersVersion is the layout of the records.
const readersVersion = 1

// String names it.
func (r *Reader) String() string {
	at := ""
	if r.Mount != "" {
		at = " at " + r.Mount
	}
	return fmt.Sprintf("virt-rotate %s%s (pid %d)", r.Command, at, r.PID)
}

// Reads tells whether it reads this image.
func (r *Reader) Reads(path string, id vfs.ID) bool {
	for _, f := range r.Images {
		if f.Path == path || f.ID == id && id != (vfs.ID{}) {
			return true
		}
	}
	return false
}

// A Reading is a reader on record.
type Reading struct {
	file *os.File
	path string
}

// BeginReading puts a reader on record.
func BeginReading(stateDir string, r Reader) (*Reading, error) {
	r.Version = readersVersion
	dir := readersDir(stateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return nil, err
	}
	reading := &Reading{f, f.Name()}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	path := filepath.Join(dir, strings.TrimPrefix(filepath.Base(f.Name()), "new-")+".json")
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, reading.End())
	}
	reading.path = path
	return reading, nil
}

// End takes it off the record. Of a nil one nothing is on record.
func (r *Reading) End() error {
	if r == nil {
		return nil
	}
	err := os.Remove(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, r.file.Close())
}

func readersDir(stateDir string) string { return filepath.Join(stateDir, "readers") }

// Readers lists who reads. What cannot be read of the records is left out: QEMU's locks on the
// images stand without them.
func Readers(stateDir string) []Reader {
	var reading []Reader
	for _, path := range readerFiles(stateDir) {
		if r, alive, ok := readReader(path); ok && alive {
			reading = append(reading, r)
		}
	}
	return reading
}

func readerFiles(stateDir string) []string {
	paths, _ := filepath.Glob(filepath.Join(escaped(readersDir(stateDir)), "*.json")) // the pattern is right
	return paths
}

// escaped is a directory in a pattern.
func escaped(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func readReader(path string) (r Reader, alive, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return r, false, false
	}
	defer f.Close()
	alive = errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	err = json.NewDecoder(f).Decode(&r)
	return r, alive, err == nil && r.Version == readersVersion
}

// ForgetReaders calls tidy for each reader that died, and takes it off the record if that
// succeeds.
func ForgetReaders(stateDir string, tidy func(*Reader) error) error {
	var errs []error
	for _, path := range readerFiles(stateDir) {
		r, alive, ok := readReader(path)
		if !ok || alive {
			continue
		}
		err := tidy(&r)
		if err == nil {
			err = os.Remove(path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
