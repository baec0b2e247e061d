package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// sectors is a file that has never heard of virt-rotate: a map of sectors.
type sectors struct {
	data map[int64]*[512]byte
	size int64
}

func newSectors() *sectors { return &sectors{data: map[int64]*[512]byte{}} }

func (s *sectors) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("a negative offset")
	}
	for n < len(p) && off < s.size {
		k := min(512-off%512, s.size-off, int64(len(p)-n))
		clear(p[n:][:k])
		if b := s.data[off/512]; b != nil {
			copy(p[n:][:k], b[off%512:])
		}
		n, off = n+int(k), off+k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *sectors) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("a negative offset")
	}
	for n < len(p) {
		b := s.data[off/512]
		if b == nil {
			b = new([512]byte)
			s.data[off/512] = b
		}
		k := copy(b[off%512:], p[n:])
		n, off = n+k, off+int64(k)
	}
	s.size = max(s.size, off)
	return n, nil
}

func (s *sectors) Size() (int64, error) { return s.size, nil }

func (s *sectors) Truncate(size int64) error {
	for i, b := range s.data {
		switch {
		case i*512 >= size:
			delete(s.data, i)
		case (i+1)*512 > size:
			clear(b[size%512:])
		}
	}
	s.size = size
	return nil
}

func (s *sectors) Sync() error { return nil }

// One type is a File for both formats.
var (
	_ qcow2.File = (*sectors)(nil)
	_ vhd.File   = (*sectors)(nil)
)

// A directory has images by name, and opens them by the format that is asked for.
type directory map[string]*sectors

// open opens an image; write says which one is to be changed.
func (d directory) open(name, format, write string) (qcow2.Source, error) {
	f := d[name]
	if f == nil {
		return nil, fmt.Errorf("%q is not here", name)
	}
	switch {
	case format == "qcow2" && name == write:
		return qcow2.Open(f, nil)
	case format == "qcow2":
		return qcow2.NewReader(f, f.size, nil)
	case format == "vhd" && name == write:
		return vhd.Open(f)
	case format == "vhd":
		return vhd.NewReader(f, f.size)
	case format == "raw" && name == write:
		return qcow2.OpenRaw(f)
	case format == "raw":
		return qcow2.NewRawReader(f, f.size)
	}
	return nil, fmt.Errorf("format %q", format)
}

// disk opens an image with all that it builds on, in both formats.
func (d directory) disk(name, format, write string) (*qcow2.Disk, error) {
	top, err := d.open(name, format, write)
	if err != nil {
		return nil, err
	}
	return qcow2.OpenDisk(top, func(name, format string) (qcow2.Source, error) {
		return d.open(name, format, write)
	})
}
