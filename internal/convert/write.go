package convert

import (
	"errors"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A writer is a Maker of one image, which fill writes.
type writer struct {
	formats.Maker
	fill func(f vfs.File) error
}

func (w writer) Create(f vfs.File, _ formats.New) error { return w.fill(f) }

// Write makes an image at path, where nothing may be: fill writes it, durably, into a file
// that gets its name in the end.
func Write(fsys vfs.FS, path string, fill func(f vfs.File) error) error {
	if err := CheckFree(fsys, path); err != nil {
		return err
	}
	n, err := Make(fsys, TempName(filepath.Dir(path)), writer{fill: fill}, formats.New{})
	if err != nil {
		return err
	}
	if err = n.Close(); err == nil {
		err = n.rename(path)
	}
	if err != nil {
		return errors.Join(err, n.Discard())
	}
	return nil
}
