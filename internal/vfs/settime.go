package vfs

import (
	"errors"
	"os"
	"time"
)

// SetTime gives a file the time of its last change, durably.
func (osFS) SetTime(path string, at time.Time) error {
	if err := os.Chtimes(path, at, at); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SetTimeOn is SetTime on a file system that may be simulated; see RenameNewOn.
func SetTimeOn(fsys FS, path string, at time.Time) error {
	f, ok := fsys.(interface {
		SetTime(path string, at time.Time) error
	})
	if !ok {
		return osFS{}.SetTime(path, at)
	}
	return f.SetTime(path, at)
}
