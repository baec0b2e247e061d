package images

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// Store is the engine with the formats raw and qcow2, which follows backing
// names within dir.
func Store(fs vfs.FS, dir string) *chain.Store {
	return &chain.Store{FS: fs, Allow: []string{dir}, RealPath: filepath.EvalSymlinks, Formats: []chain.Format{
		{
			Name:    "qcow2",
			Probe:   qcow2.Probe,
			Open:    func(f vfs.File, data chain.DataOpener) (chain.Source, error) { return open(qcow2.Open(f, data)) },
			Inspect: inspectQcow2,
		},
		{
			Name:    "raw",
			Open:    func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return open(chain.OpenRaw(f)) },
			Inspect: inspectRaw,
		},
	}}
}

// open keeps a nil pointer from becoming an interface that is not nil.
func open[S chain.Source](s S, err error) (chain.Source, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func inspectQcow2(f vfs.File) (chain.Image, error) {
	info, err := f.Stat()
	if err != nil {
		return chain.Image{}, err
	}
	h, err := qcow2.ReadHeader(f, info.Size)
	return chain.Image{
		Format: "qcow2", VirtualSize: h.Size, Backing: h.BackingFile, BackingFormat: h.BackingFormat,
		Snapshots: int(h.Snapshots), Bitmaps: int(h.Bitmaps), Encrypted: h.Encrypted(),
		DataFile: h.HasDataFile(), Corrupt: h.Corrupt(),
	}, err
}

func inspectRaw(f vfs.File) (chain.Image, error) {
	r, err := chain.OpenRaw(f)
	if err != nil {
		return chain.Image{}, err
	}
	return r.Image(), nil
}

// Read reads the disk of the image at path with our engine, in reads of all
// sizes, and looks whether its extents tell the truth.
func Read(s *chain.Store, path, format string, rng *rand.Rand) (c *Content, err error) {
	nodes, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	var layers []chain.Source
	defer func() {
		for _, l := range layers {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, n := range nodes {
		l, err := OpenImage(s, n.Path, n.Image.Format, false)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	stack, err := chain.NewStack(layers...)
	if err != nil {
		return nil, err
	}
	if c, err = ReadContent(stack, stack.Size(), func() int64 { return readSize(rng) }); err != nil {
		return nil, err
	}
	return c, checkExtents(stack, layers, c)
}

// readSize is mostly a whole chunk: that is fast.
func readSize(rng *rand.Rand) int64 {
	if rng.IntN(4) > 0 {
		return contentChunk
	}
	return 1 + rng.Int64N(contentChunk)
}

// OpenImage opens one image as the engine does, with its lock.
func OpenImage(s *chain.Store, path, format string, write bool) (chain.Source, error) {
	f, err := s.FS.Open(path, write)
	if err != nil {
		return nil, err
	}
	mode := vfs.LockRead
	if write {
		mode = vfs.LockWrite
	}
	if err := f.Lock(mode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, known := range s.Formats {
		if known.Name == format {
			src, err := known.Open(f, nil)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
			}
			return src, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("%s: format %q", path, format), f.Close())
}

// checkExtents compares what the extents of a disk say with its bytes: data is
// copied from where they say it is.
func checkExtents(stack *chain.Stack, layers []chain.Source, c *Content) error {
	stack.Forget()
	for off := int64(0); off < c.Size; {
		x, err := stack.Find(off, c.Size)
		if err != nil {
			return err
		}
		if x.Offset != off || x.Length <= 0 || x.End() > c.Size {
			return fmt.Errorf("extent %+v at %d of a disk of %d bytes", x, off, c.Size)
		}
		if err := checkExtent(x, layers, c); err != nil {
			return err
		}
		off = x.End()
	}
	return nil
}

func checkExtent(x chain.Found, layers []chain.Source, c *Content) error {
	var host io.ReaderAt
	switch x.Kind {
	case chain.Compressed:
		return nil
	case chain.Data:
		host = layers[x.Layer].Host()
	}
	buf := make([]byte, contentChunk)
	for off := x.Offset; off < x.End(); {
		n := min(contentChunk-off%contentChunk, x.End()-off)
		b := buf[:n]
		clear(b)
		if host != nil {
			if _, err := host.ReadAt(b, x.Host+off-x.Offset); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		if want := c.At(off, int(n)); string(want) != string(b) {
			return fmt.Errorf("extent %+v of layer %d: host bytes differ from the disk between %d and %d", x.Extent, x.Layer, off, off+n)
		}
		off += n
	}
	return nil
}
