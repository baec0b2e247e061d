package vhdbridge

import (
	"io/fs"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/lvm2"
)

// A volumeFile is a logical volume, open for reading. The physical volumes are open, and
// locked, as long as Volumes is.
type volumeFile struct {
	of   *Volumes
	lv   *lvm2.Volume
	path string
}

func (f *volumeFile) ReadAt(b []byte, off int64) (int, error) { return f.lv.ReadAt(b, off) }

func (f *volumeFile) Path() string { return f.path }

func (f *volumeFile) Size() (int64, error) { return f.lv.Size, nil }

func (f *volumeFile) Close() error { return nil }

// Stat makes a device of the volume, with a number of its own.
func (f *volumeFile) Stat() (vfs.Info, error) {
	if f.lv.Err != nil {
		return vfs.Info{}, f.lv.Err
	}
	mode := fs.FileMode(0o600)
	if f.lv.ReadOnly {
		mode = 0o400
	}
	return vfs.Info{ID: vfs.ID{Dev: f.of.id.Dev, Ino: f.of.id.Ino<<20 + uint64(f.number())}, Size: f.lv.Size, Allocated: f.lv.Size, Links: 1, Mode: mode, IsBlock: true}, nil
}

// number is that of the volume in its group, from 1.
func (f *volumeFile) number() int {
	for i, lv := range f.of.Group.Volumes {
		if lv == f.lv {
			return i + 1
		}
	}
	return 0
}

// NextData knows of the holes of a copy.
func (f *volumeFile) NextData(off int64) (start, end int64, err error) {
	for off < f.lv.Size {
		pv, at, n, err := f.lv.Where(off)
		if err != nil {
			return 0, 0, err
		}
		from, to, err := f.of.files[pv].NextData(at)
		if err != nil {
			return 0, 0, err
		}
		if from < at+n {
			return off + from - at, off + min(to, at+n) - at, nil
		}
		off += n
	}
	return f.lv.Size, f.lv.Size, nil
}

// Lock is that of the physical volumes, which is taken already.
func (f *volumeFile) Lock(mode vfs.LockMode) error {
	if mode == vfs.LockWrite {
		return readOnly("lock", f.path)
	}
	return nil
}

func (f *volumeFile) WriteAt([]byte, int64) (int, error) { return 0, readOnly("write", f.path) }

func (f *volumeFile) Truncate(int64) error { return readOnly("truncate", f.path) }

func (f *volumeFile) Sync() error { return nil }

func (f *volumeFile) Reserve(_, _ int64) error { return readOnly("write", f.path) }

func (f *volumeFile) Punch(_, _ int64) error { return readOnly("write", f.path) }

func (f *volumeFile) Copy(int64, vfs.File, int64, int64) (bool, error) {
	return false, readOnly("write", f.path)
}

var _ vfs.File = (*volumeFile)(nil)
