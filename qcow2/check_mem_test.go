package qcow2

import (
	"bytes"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// checkMem is an image in memory that minds how it is used. What Check must not
// do panics.
type checkMem struct {
	vfs.File
	b       []byte
	device  bool  // it cannot grow
	read    int64 // bytes, by all reads together
	changes int
}

func newCheckMem(b []byte) *checkMem { return &checkMem{b: b} }

func (m *checkMem) ReadAt(p []byte, off int64) (int, error) {
	if len(p) > 2<<20 || off < 0 || off+int64(len(p)) > int64(len(m.b)) && len(p) > headerLen {
		panic(fmt.Sprintf("read of %d bytes at %d in a file of %d", len(p), off, len(m.b)))
	}
	m.read += int64(len(p))
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *checkMem) WriteAt(p []byte, off int64) (int, error) {
	m.changes++
	if m.device && off+int64(len(p)) > int64(len(m.b)) {
		panic(fmt.Sprintf("write of %d bytes at %d to a device of %d", len(p), off, len(m.b)))
	}
	if off+int64(len(p)) > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, off+int64(len(p))-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *checkMem) Stat() (vfs.Info, error) {
	return vfs.Info{Size: int64(len(m.b)), IsBlock: m.device}, nil
}

func (m *checkMem) NextData(off int64) (start, end int64, err error) {
	for start = off; start < int64(len(m.b)) && m.b[start] == 0; start++ {
	}
	return start, int64(len(m.b)), nil
}

func (m *checkMem) Reserve(int64, int64) error { return nil }

func (m *checkMem) Sync() error { return nil }

var _ io.ReaderAt = (*checkMem)(nil)
