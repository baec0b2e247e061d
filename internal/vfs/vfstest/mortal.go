package vfstest

import (
	"io/fs"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Mortal is a real file system as a process sees it that may die before any of its
// changes. It calls change before each, with what it is and the path; an error of
// change is what the caller gets, and the file stays as it is.
func Mortal(of vfs.FS, change func(what, path string) error) vfs.FS {
	return &mortal{of, change}
}

type mortal struct {
	vfs.FS
	change func(what, path string) error
}

// Alone is for vfs.Alone.
func (m *mortal) Alone(alone func(path string) bool) vfs.FS {
	return &mortal{vfs.Alone(m.FS, alone), m.change}
}

func (m *mortal) Open(path string, write bool) (vfs.File, error) {
	f, err := m.FS.Open(path, write)
	return m.wrap(f, err)
}

func (m *mortal) Create(path string, perm fs.FileMode) (vfs.File, error) {
	if err := m.change("create", path); err != nil {
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
	if err := m.change("write file", path); err != nil {
		return err
	}
	return m.FS.WriteFile(path, data, perm)
}

func (m *mortal) Rename(oldpath, newpath string) error {
	if err := m.change("rename", newpath); err != nil {
		return err
	}
	return m.FS.Rename(oldpath, newpath)
}

func (m *mortal) RemoveExact(path string, id vfs.ID) error {
	if err := m.change("remove", path); err != nil {
		return err
	}
	return m.FS.RemoveExact(path, id)
}

type mortalFile struct {
	vfs.File
	m *mortal
}

func (f *mortalFile) change(what string) error { return f.m.change(what, f.Path()) }

func (f *mortalFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.change("write"); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *mortalFile) Truncate(size int64) error {
	if err := f.change("truncate"); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *mortalFile) Sync() error {
	if err := f.change("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *mortalFile) Reserve(off, n int64) error {
	if err := f.change("reserve"); err != nil {
		return err
	}
	return f.File.Reserve(off, n)
}

func (f *mortalFile) Punch(off, n int64) error {
	if err := f.change("punch"); err != nil {
		return err
	}
	return f.File.Punch(off, n)
}

func (f *mortalFile) Copy(off int64, src vfs.File, from, n int64) (bool, error) {
	if err := f.change("copy"); err != nil {
		return false, err
	}
	if s, ok := src.(*mortalFile); ok {
		src = s.File
	}
	return f.File.Copy(off, src, from, n)
}
