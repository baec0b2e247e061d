package inside

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"golang.org/x/sys/unix"
)

// Images looks at images by internal/vfs.
type Images struct{ open *things }

// QEMUWriter opens an image, and takes the locks of a QEMU whose guest writes to it: read locks, and
// nothing is tested. See QEMU block/file-posix.c; the bytes are those of internal/vfs.
func (i *Images) QEMUWriter(path string, number *int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for _, off := range []int64{100, 101, 103, 201, 203} {
		lk := unix.Flock_t{Type: unix.F_RDLCK, Start: off, Len: 1}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
			return errors.Join(&os.PathError{Op: "lock", Path: path, Err: err}, f.Close())
		}
	}
	*number = i.open.add(f)
	return nil
}

// Open opens an image as the engine does.
func (i *Images) Open(path string, number *int) error {
	f, err := vfs.OS().Open(path, true)
	if err != nil {
		return err
	}
	*number = i.open.add(f)
	return nil
}

// Lock takes the locks of the engine that writes.
func (i *Images) Lock(number int, _ *None) error {
	f, err := thing[vfs.File](i.open, number)
	if err != nil {
		return err
	}
	return f.Lock(vfs.LockWrite)
}

// Close gives back what is locked.
func (i *Images) Close(number int, _ *None) error {
	c, err := thing[io.Closer](i.open, number)
	if err != nil {
		return err
	}
	return c.Close()
}

// A Part is some bytes of an open file.
type Part struct {
	Number int
	Off    int64
	Size   int
	Data   []byte // to write
}

// ReadAt reads from an open file.
func (i *Images) ReadAt(p Part, data *[]byte) error {
	f, err := thing[io.ReaderAt](i.open, p.Number)
	if err != nil {
		return err
	}
	*data = make([]byte, p.Size)
	n, err := f.ReadAt(*data, p.Off)
	*data = (*data)[:n]
	return err
}

// WriteAt writes to an open file.
func (i *Images) WriteAt(p Part, _ *None) error {
	f, err := thing[io.WriterAt](i.open, p.Number)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p.Data, p.Off)
	return err
}

// Sync puts what was written to an open file on stable storage.
func (i *Images) Sync(number int, _ *None) error {
	f, err := thing[interface{ Sync() error }](i.open, number)
	if err != nil {
		return err
	}
	return f.Sync()
}

// A Use is what is told of an image: by the test that takes locks, and by asking alone.
type Use struct{ Tested, Asked vfs.Use }

// Use tells who uses an image.
func (*Images) Use(path string, u *Use) (err error) {
	if u.Asked, err = vfs.AskUse(path); err != nil {
		return err
	}
	u.Tested, err = vfs.InUse(path)
	return err
}

// A Kind is what is told of the file system of an image.
type Kind struct{ Shared, Local string }

// Kind tells whether other hosts can have it, and whether locks stay here.
func (*Images) Kind(path string, k *Kind) (err error) {
	if k.Shared, err = vfs.SharedKind(path); err != nil {
		return err
	}
	k.Local, err = vfs.LocksStayLocal(path)
	return err
}

// Stat tells when a file was changed last, without a lock.
func (*Images) Stat(path string, mtime *time.Time) error {
	info, err := os.Stat(path)
	if err == nil {
		*mtime = info.ModTime()
	}
	return err
}

// Under tells the same of the open file, once it has a lock on it.
func (*Images) Under(path string, mtime *time.Time) error {
	f, err := vfs.OpenLockFile(path, true, false)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.TryLock(1<<40, false); err != nil {
		return err
	}
	info, err := f.Stat()
	*mtime = info.ModTime
	return err
}
