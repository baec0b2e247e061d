package formats

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// A BitmapChange says what is to become of one persistent bitmap; what is set is done in the
// order of the fields.
type BitmapChange struct {
	Name         string
	Remove, Add  bool
	Granularity  int64 // of a new one, in bytes; 0 for what qemu-img gives it
	Clear        bool
	Enable, Idle bool     // writers keep it up to date, or not
	Merge        []string // bitmaps whose bits are set in it, too
}

// A Bitmap is a persistent bitmap as qemu-img info tells of it.
type Bitmap struct {
	Flags       []string `json:"flags"`
	Name        string   `json:"name"`
	Granularity int64    `json:"granularity"` // bytes
}

// ChangeBitmap changes a persistent bitmap of the qcow2 image f, and tells which there are
// then. What is merged is in from, or in f itself where from is nil. The files stay open.
func ChangeBitmap(f, from vfs.File, c BitmapChange) ([]Bitmap, error) {
	m, err := qcow2.Open(unclosed{f}, nil)
	if err != nil {
		return nil, err
	}
	source := m
	if from != nil {
		if source, err = qcow2.Open(unclosed{from}, nil); err != nil {
			return nil, fmt.Errorf("%s: %w", from.Path(), err)
		}
	}
	list := []Bitmap{}
	err = m.EditBitmaps(func(e *qcow2.BitmapEdit) error {
		if err := c.carryOut(e, m.DefaultGranularity(), source); err != nil {
			return err
		}
		for _, b := range e.List() {
			list = append(list, Bitmap{bitmapFlags(b), b.Name, b.Granularity})
		}
		return nil
	})
	return list, err
}

// InUse tells whether the program that used it last has not saved it: nothing can trust it.
func (b *Bitmap) InUse() bool { return slices.Contains(b.Flags, "in-use") }

func listBitmapsQcow2(r io.ReaderAt, size int64) ([]Bitmap, error) {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil {
		return nil, err
	}
	all, err := qcow2.ReadBitmaps(r, h)
	list := []Bitmap{}
	for _, b := range all {
		list = append(list, Bitmap{bitmapFlags(b), b.Name, b.Granularity})
	}
	return list, err
}

func (c *BitmapChange) carryOut(e *qcow2.BitmapEdit, granularity int64, source *qcow2.Image) error {
	if c.Granularity != 0 {
		granularity = c.Granularity
	}
	for _, step := range []struct {
		wanted bool
		do     func() error
	}{
		{c.Remove, func() error { return e.Remove(c.Name) }},
		{c.Add, func() error { return e.Add(c.Name, granularity) }},
		{c.Clear, func() error { return e.Clear(c.Name) }},
		{c.Enable, func() error { return e.Enable(c.Name, true) }},
		{c.Idle, func() error { return e.Enable(c.Name, false) }},
	} {
		if !step.wanted {
			continue
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range c.Merge {
		errs = append(errs, e.Merge(c.Name, source, name))
	}
	return errors.Join(errs...)
}

// unclosed is a file that whoever opened it closes.
type unclosed struct{ vfs.File }

func (unclosed) Close() error { return nil }
