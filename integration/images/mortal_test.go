package images_test

import (
	"errors"
	"io/fs"
	"sync/atomic"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

var errDead = errors.New("the process is dead")

// A mortal is the file system as a process sees it that is killed before its
// n-th change of a file: what was changed before stays.
type mortal struct {
	vfs.FS
	changes atomic.Int64
	last    int64 // how many changes are allowed; negative: all
}

func newMortal(last int64) *mortal { return &mortal{FS: vfs.OS(), last: last} }

func (m *mortal) change() error {
	if n := m.changes.Add(1); m.last >= 0 && n > m.last {
		return errDead
	}
	return nil
}

func (m *mortal) Open(path string, write bool) (vfs.File, error) {
	f, err := m.FS.Open(path, write)
	return m.wrap(f, err)
}

func (m *mortal) Create(path string, perm fs.FileMode) (vfs.File, error) {
	if err := m.change(); err != nil {
		return nil, err
	}
	f, err := m.FS.Create(path, perm)
	return m.wrap(f, err)
}

func (m *mortal) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &mortalFile{f, m}, nil
}

func (m *mortal) WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := m.change(); err != nil {
		return err
	}
	return m.FS.WriteFile(path, data, perm)
}

func (m *mortal) Rename(oldpath, newpath string) error {
	if err := m.change(); err != nil {
		return err
	}
	return m.FS.Rename(oldpath, newpath)
}

func (m *mortal) RemoveExact(path string, id vfs.ID) error {
	if err := m.change(); err != nil {
		return err
	}
	return m.FS.RemoveExact(path, id)
}

type mortalFile struct {
	vfs.File
	m *mortal
}

func (f *mortalFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.m.change(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *mortalFile) Truncate(size int64) error {
	if err := f.m.change(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *mortalFile) Sync() error {
	if err := f.m.change(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *mortalFile) Reserve(off, n int64) error {
	if err := f.m.change(); err != nil {
		return err
	}
	return f.File.Reserve(off, n)
}

func (f *mortalFile) Punch(off, n int64) error {
	if err := f.m.change(); err != nil {
		return err
	}
	return f.File.Punch(off, n)
}

func (f *mortalFile) Copy(off int64, src vfs.File, from, n int64) (bool, error) {
	if err := f.m.change(); err != nil {
		return false, err
	}
	if s, ok := src.(*mortalFile); ok {
		src = s.File
	}
	return f.File.Copy(off, src, from, n)
}
