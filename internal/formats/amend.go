package formats

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// An Amendment is what is changed in an image that is there.
type Amendment struct {
	DryRun  bool
	version uint32 // 0: it stays
	lazy    *bool  // nil: it stays
}

// Set takes over an option of Format.Options.
func (a *Amendment) Set(key, value string) (err error) {
	switch key {
	case "compat":
		a.version, err = parseCompat(value)
	case "lazy_refcounts":
		var on bool
		on, err = parseSwitch(value)
		a.lazy = &on
	case "size":
		err = errors.New("image resize changes the size")
	case "backing_file", "backing_fmt":
		err = errors.New("image rebase changes the backing file")
	default:
		err = errors.New("it cannot be changed in an image that is there; image convert makes a copy that has it")
	}
	return err
}

func amendQcow2(f vfs.File, a Amendment) error {
	m, err := qcow2.Open(f, nil)
	if err != nil {
		return err
	}
	if a.DryRun {
		return errors.Join(m.Writable(), m.CheckAmend(a.version, a.lazy))
	}
	if err := m.PrepareSnapshots(); err != nil {
		return err
	}
	return m.Amend(a.version, a.lazy)
}
