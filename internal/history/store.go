package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// MaxEntries is how many entries a host keeps. A guest that is rotated every hour
// makes 24 a day; runs that have nothing to do share one.
const MaxEntries = 100_000

// A Store is the log of one host. It is for one goroutine at a time.
type Store struct {
	Path     string
	Max      int           // entries
	Patience time.Duration // with another process that has the file locked

	sound fs.FileInfo // the file as it was found sound, or as Append left it: nobody has changed it since, so it need not be checked again
}

// In returns the log in a state directory.
func In(stateDir string) *Store {
	return &Store{Path: filepath.Join(stateDir, "history.db"), Max: MaxEntries, Patience: 3 * time.Second}
}

// ErrBusy says that another process has the log open for longer than was waited.
var ErrBusy = errors.New("another process has it open")

// A DamagedError says that the log cannot be read, or not all of it.
type DamagedError struct {
	Path, Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.Path, e.Reason) }

// The buckets: entries by number, and, in a bucket for each domain, their numbers.
var (
	runsBucket    = []byte("runs")
	domainsBucket = []byte("domains")
)

// Append writes an entry, and takes the oldest away where there are too many.
// Only one process may append at a time, which is so for whoever has the lock of
// a run. A damaged log is renamed to PATH.damaged and a new one begun: that is an
// error, too, but the entry is written.
func (s *Store) Append(e Entry) error {
	e = bounded(e)
	err := s.append(&e)
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		return err
	}
	aside := s.Path + ".damaged"
	if moved := vfs.RenameNew(s.Path, aside); moved != nil {
		return errors.Join(err, moved)
	}
	return errors.Join(fmt.Errorf("%w; it was renamed to %s, and a new one begun", err, aside), s.append(&e))
}

func (s *Store) append(e *Entry) error {
	if err := s.create(); err != nil {
		return err
	}
	f, err := s.checked()
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil { // bbolt wants the lock for itself; nobody else writes
		return err
	}
	err = s.with(false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error { return s.put(tx, e) })
	})
	if s.sound = nil; err == nil {
		s.sound, err = os.Lstat(s.Path)
	}
	return err
}

// unchanged tells whether the file is as it was when it was sound.
func (s *Store) unchanged(now fs.FileInfo) bool {
	return s.sound != nil && os.SameFile(s.sound, now) && s.sound.Size() == now.Size() && s.sound.ModTime().Equal(now.ModTime())
}

// create makes an empty log where there is none, whole or not at all.
func (s *Store) create() error {
	if _, err := os.Lstat(s.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := &Store{Path: filepath.Join(filepath.Dir(s.Path), ".virt-rotate-history.tmp"), Patience: s.Patience}
	if err := os.Remove(fresh.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := fresh.with(false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket(runsBucket)
			if err == nil {
				_, err = tx.CreateBucket(domainsBucket)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return vfs.RenameNew(fresh.Path, s.Path)
}

// checked opens the file, with a lock that keeps writers out, and looks at its pages.
func (s *Store) checked() (*os.File, error) {
	f, err := os.OpenFile(s.Path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err = s.lock(f); err == nil {
		err = s.check(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *Store) lock(f *os.File) error {
	for end := time.Now().Add(s.Patience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "lock", Path: s.Path, Err: err}
		case time.Now().After(end):
			return fmt.Errorf("%s: %w", s.Path, ErrBusy)
		}
	}
}

func (s *Store) check(f *os.File) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file", s.Path)
	case info.Size() > maxFile:
		return fmt.Errorf("%s: %d bytes are more than a history can have", s.Path, info.Size())
	case s.unchanged(info):
		return nil
	}
	if err := checkFile(f, info.Size()); err != nil {
		return &DamagedError{s.Path, err.Error()}
	}
	s.sound = info
	return nil
}

// with opens the file in bbolt, calls do, and closes it. Whatever bbolt panics
// with, a fault in the mapped file included, is an error.
func (s *Store) with(readOnly bool, do func(*bolt.DB) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &DamagedError{s.Path, fmt.Sprint(p)}
		}
	}()
	db, err := bolt.Open(s.Path, 0o600, &bolt.Options{ReadOnly: readOnly, Timeout: max(s.Patience, time.Millisecond)})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%s: %w", s.Path, ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.Path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(db)
}

// put writes e, or lengthens the domain's last entry where that says the same.
func (s *Store) put(tx *bolt.Tx, e *Entry) error {
	runs, domains := tx.Bucket(runsBucket), tx.Bucket(domainsBucket)
	if runs == nil || domains == nil {
		return &DamagedError{s.Path, "a bucket is missing"}
	}
	if err := count(tx, e); err != nil {
		return err
	}
	domain, err := domains.CreateBucketIfNotExists([]byte(e.Domain))
	if err != nil {
		return err
	}
	if key, _ := domain.Cursor().Last(); key != nil {
		if last, err := decode(key, runs.Get(key)); err == nil && saysTheSame(last, e) {
			longer := *e
			longer.Start, longer.Runs = last.Start, last.Runs+e.Runs
			return store(runs, slices.Clone(key), &longer)
		}
	}
	n, err := s.next(runs)
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(nil, n)
	if err := errors.Join(store(runs, key, e), domain.Put(key, nil)); err != nil {
		return err
	}
	return s.trim(tx, n)
}

// next returns the number after that of the newest entry, which must be sound:
// trim goes by it.
func (s *Store) next(runs *bolt.Bucket) (uint64, error) {
	key, value := runs.Cursor().Last()
	if key == nil {
		return 1, nil
	}
	if _, err := decode(key, value); err != nil {
		return 0, &DamagedError{s.Path, "the newest entry: " + err.Error()}
	}
	return binary.BigEndian.Uint64(key) + 1, nil
}

func store(runs *bolt.Bucket, key []byte, e *Entry) error {
	value, err := encode(key, e)
	if err != nil {
		return err
	}
	runs.FillPercent = 0.9 // entries come at the end, one after the other
	return runs.Put(key, value)
}

// maxTrim bounds the work of one Append after Max was lowered.
const maxTrim = 1000

// trim takes the oldest entries away. Numbers have no gaps, since entries go only from
// the front: so they tell how many there are.
func (s *Store) trim(tx *bolt.Tx, last uint64) error {
	runs := tx.Bucket(runsBucket)
	for range maxTrim {
		key, value := runs.Cursor().First()
		if len(key) != keyLen || last-binary.BigEndian.Uint64(key) < uint64(s.Max) {
			return nil
		}
		key = slices.Clone(key)
		if e, err := decode(key, value); err == nil {
			if err := forget(tx, []byte(e.Domain), key); err != nil {
				return err
			}
		}
		if err := runs.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// forget takes an entry out of its domain's bucket, and that away when it is empty, with the
// domain's sums.
func forget(tx *bolt.Tx, name, key []byte) error {
	domains := tx.Bucket(domainsBucket)
	domain := domains.Bucket(name)
	if domain == nil {
		return nil
	}
	if err := domain.Delete(key); err != nil {
		return err
	}
	if first, _ := domain.Cursor().First(); first != nil {
		return nil
	}
	return errors.Join(domains.DeleteBucket(name), forgetTotals(tx, name))
}
