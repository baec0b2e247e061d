package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"
)

// contentChunk is the unit in which a Content leaves out zeros.
const contentChunk = 64 << 10

// A Content is the bytes of a disk or file; chunks of zeros take no memory.
type Content struct {
	Size   int64
	chunks map[int64][]byte
}

var zeroChunk [contentChunk]byte

// ReadContent reads size bytes, by reads of n bytes, where n is at most a chunk.
func ReadContent(r io.ReaderAt, size int64, n func() int64) (*Content, error) {
	c := &Content{size, map[int64][]byte{}}
	buf := make([]byte, contentChunk)
	for off := int64(0); off < size; off += contentChunk {
		b := buf[:min(contentChunk, size-off)]
		for at := int64(0); at < int64(len(b)); {
			end := min(at+n(), int64(len(b)))
			if _, err := r.ReadAt(b[at:end], off+at); err != nil {
				return nil, fmt.Errorf("read %d bytes at %d: %w", end-at, off+at, err)
			}
			at = end
		}
		c.set(off, b)
	}
	return c, nil
}

func (c *Content) set(off int64, b []byte) {
	if !bytes.Equal(b, zeroChunk[:len(b)]) {
		c.chunks[off] = bytes.Clone(b)
	}
}

// FileContent reads a file, without its holes.
func FileContent(path string) (*Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	c := &Content{size, map[int64][]byte{}}
	buf := make([]byte, contentChunk)
	for off := int64(0); off < size; off += contentChunk {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		} // devices have no holes
		if err == nil {
			off = data / contentChunk * contentChunk
		}
		b := buf[:min(contentChunk, size-off)]
		if _, err := f.ReadAt(b, off); err != nil {
			return nil, err
		}
		c.set(off, b)
	}
	return c, nil
}

// WriteFile makes a file with holes where there are zeros.
func (c *Content) WriteFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(c.Size)
	for off, b := range c.chunks {
		if err == nil {
			_, err = f.WriteAt(b, off)
		}
	}
	return errors.Join(err, f.Close())
}

// WriteDevice overwrites a device.
func (c *Content) WriteDevice(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for off := int64(0); off < c.Size && err == nil; off += contentChunk {
		_, err = f.WriteAt(c.chunk(off), off)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Diff returns the first offset where c and o differ, or -1.
func (c *Content) Diff(o *Content) int64 {
	for off := int64(0); off < min(c.Size, o.Size); off += contentChunk {
		a, b := c.chunk(off), o.chunk(off)
		n := min(len(a), len(b))
		if bytes.Equal(a[:n], b[:n]) {
			continue
		}
		for i := range n {
			if a[i] != b[i] {
				return off + int64(i)
			}
		}
	}
	if c.Size != o.Size {
		return min(c.Size, o.Size)
	}
	return -1
}

func (c *Content) chunk(off int64) []byte {
	if b := c.chunks[off]; b != nil {
		return b
	}
	return zeroChunk[:min(contentChunk, c.Size-off)]
}

// At returns up to n bytes at off, for messages.
func (c *Content) At(off int64, n int) []byte {
	if off >= c.Size {
		return nil
	}
	b := c.chunk(off / contentChunk * contentChunk)
	b = b[off%contentChunk:]
	return b[:min(n, len(b))]
}

// With returns the disk with the n bytes at off of another one of its size.
func (c *Content) With(o *Content, off, n int64) *Content {
	out := &Content{c.Size, maps.Clone(c.chunks)}
	for end := off + n; off < end; {
		start := off / contentChunk * contentChunk
		b := bytes.Clone(out.chunk(start))
		k := copy(b[off-start:], o.At(off, int(min(end-off, contentChunk))))
		delete(out.chunks, start)
		out.set(start, b)
		off += int64(k)
	}
	return out
}

// Resized returns the disk with zeros at its end, or cut.
func (c *Content) Resized(size int64) *Content {
	out := &Content{size, map[int64][]byte{}}
	for off, b := range c.chunks {
		if off >= size {
			continue
		}
		n := make([]byte, min(contentChunk, size-off))
		copy(n, b)
		out.set(off, n)
	}
	return out
}

// Same returns an error that tells where got differs from want.
func Same(what string, want, got *Content) error {
	at := want.Diff(got)
	if at < 0 {
		return nil
	}
	return fmt.Errorf("%s: size %d, want %d; differs from byte %d on: % x, want % x",
		what, got.Size, want.Size, at, got.At(at, 16), want.At(at, 16))
}
