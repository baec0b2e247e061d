package qcow2_test

import (
	"bytes"
	"fmt"

	"github.com/virt-rotate/virt-rotate/qcow2"
)

// memory is a File in memory. A program that writes to files of the operating system
// has OSFile.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(m.b)) {
		_ = m.Truncate(end) // never fails
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Size() (int64, error) { return int64(len(m.b)), nil }

func (m *memory) Truncate(size int64) error {
	if n := int64(len(m.b)); size > n {
		m.b = append(m.b, make([]byte, size-n)...)
	}
	m.b = m.b[:size]
	return nil
}

func (m *memory) Sync() error { return nil }

var _ qcow2.File = (*memory)(nil)

// newImage makes an image that begins with that text.
func newImage(f qcow2.File, text string, o qcow2.CreateOptions) {
	err := qcow2.Create(f, o)
	if err == nil {
		err = fill(f, text)
	}
	if err != nil {
		fmt.Println(err)
	}
}

func fill(f qcow2.File, text string) error {
	image, err := qcow2.Open(f, nil)
	if err != nil {
		return err
	}
	w, err := qcow2.NewWriter(image)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return w.Flush()
}
