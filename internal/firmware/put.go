package firmware

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// put writes the file under another name, makes it durable and gives it its name. A symbolic
// link stays one: what it leads to is replaced.
func (f *File) put(path string) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".virt-rotate-*.tmp")
	if err != nil {
		return err
	}
	if err := f.fill(temp); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return vfs.SyncDir(filepath.Dir(path))
}

// fill closes the file in any case. Who is not root cannot give it to others.
func (f *File) fill(temp *os.File) error {
	_, err := temp.Write(f.Data)
	if err == nil && os.Geteuid() == 0 {
		err = temp.Chown(f.UID, f.GID)
	}
	if err == nil {
		err = temp.Chmod(f.Mode)
	}
	if err == nil {
		err = temp.Sync()
	}
	return errors.Join(err, temp.Close())
}
