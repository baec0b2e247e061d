package formats

import (
	"fmt"
	"io"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Inspect is the chain.Inspector of all formats that libvirt's chains have. Without a
// format only what the image builds on is told, by what its magic says it is.
func Inspect(path, format string) (chain.Image, error) {
	info, err := vfs.Stat(path)
	if err != nil {
		return chain.Image{}, err
	}
	if format == "" {
		return glance(path, info.Size)
	}
	for _, f := range All() {
		if f.Name == format && f.Layer != nil {
			return f.Layer(path, info)
		}
	}
	return chain.Image{}, fmt.Errorf("%s: format %q is not one that virt-rotate reads", path, format)
}

// glance tells what any file builds on, as far as that can be a layer of a guest. One
// without a magic is taken for raw.
func glance(path string, size int64) (chain.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return chain.Image{}, err
	}
	defer f.Close()
	g, err := chain.GlanceAt(f)
	if err != nil {
		return chain.Image{}, fmt.Errorf("%s: %w", path, err)
	}
	if g.Format == "" {
		return chain.Image{Format: "raw", VirtualSize: size}, nil
	}
	for _, known := range All() {
		if known.Name == g.Format && known.Glance != nil {
			return known.Glance(f, size), nil
		}
	}
	return chain.Image{Format: g.Format, Backing: g.Backing, BackingFormat: g.BackingFormat}, nil
}

// readSteady opens the file at path, and reads it as steady does.
func readSteady(path string, read func(r io.ReaderAt, size int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size := func() (int64, error) {
		now, err := vfs.Stat(path)
		return now.Size, err
	}
	if err := steady(size, func(size int64) error { return read(f, size) }); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// ReadSteady reads a file that a guest may be writing to: read is given the file's size,
// and called once more, twice at most, when that has changed meanwhile.
func ReadSteady(f vfs.File, read func(size int64) error) error {
	return steady(func() (int64, error) {
		info, err := f.Stat()
		return info.Size, err
	}, read)
}

// steady reads a file of which it knows the size, and once more when that has
// changed meanwhile: a guest that runs may make the file grow under our eyes.
func steady(size func() (int64, error), read func(size int64) error) error {
	n, err := size()
	if err != nil {
		return err
	}
	err = read(n)
	for range 2 {
		now, changed := size()
		if err == nil || changed != nil || now == n {
			break
		}
		n = now
		err = read(n)
	}
	return err
}
