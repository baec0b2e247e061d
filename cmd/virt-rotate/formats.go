package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// A format is what the image commands can do with images of one kind.
type format struct {
	chain.Format
	extension string
	overlays  bool // images can have backing files
	packs     bool // clusters can be compressed
	// details fills in what info tells of this kind only.
	details func(r io.ReaderAt, size int64, to *imageInfo) error
	// create writes an empty image into an empty file. Options that the format
	// does not have were refused before.
	create func(f vfs.File, o *createOptions) error
	// options are the names that create takes with -o.
	options []string
	// check is nil where there is nothing to check.
	check func(f vfs.File, r qcow2.Repair) (checkResult, error)
}

// formats is the table of all kinds of images that virt-rotate knows.
func formats() []format {
	return []format{{
		Format: chain.Format{
			Name:    "qcow2",
			Probe:   qcow2.Probe,
			Open:    openQcow2,
			Inspect: inspectQcow2File,
		},
		extension: ".qcow2",
		overlays:  true,
		packs:     true,
		details:   qcow2Details,
		create:    createQcow2,
		options: []string{"size", "cluster_size", "compat", "refcount_bits", "extended_l2", "lazy_refcounts",
			"compression_type", "backing_file", "backing_fmt"},
		check: checkQcow2,
	}, {
		Format: chain.Format{
			Name:    "vhd", // Probe knows dynamic disks only: a fixed one has to be named
			Probe:   vhd.Probe,
			Open:    openVHD,
			Inspect: inspectVHDFile,
		},
		extension: ".vhd",
		overlays:  true,
		details:   vhdDetails,
		create:    createVHD,
		options:   []string{"size", "subformat", "backing_file", "backing_fmt"},
		check:     checkVHD,
	}, {
		Format: chain.Format{
			Name:    "raw", // no Probe: a guest can write any magic into its disk
			Open:    openRaw,
			Inspect: inspectRawFile,
		},
		extension: ".raw",
		details:   func(io.ReaderAt, int64, *imageInfo) error { return nil },
		create:    createRaw,
		options:   []string{"size"},
	}}
}

// formatNamed finds a format in the table.
func formatNamed(name string) (*format, error) {
	all := formats()
	for i := range all {
		if all[i].Name == name || chain.QEMUName(all[i].Name) == name {
			return &all[i], nil
		}
	}
	return nil, usagef("%q is not a format that virt-rotate reads and writes (qcow2, vhd, raw)", name)
}

// newStore knows all formats. Backing names may lead to allow, besides the
// directory of the image that the user names.
func newStore(allow []string) *chain.Store {
	s := &chain.Store{FS: fileSystem(), Allow: allow, RealPath: filepath.EvalSymlinks}
	for _, f := range formats() {
		s.Formats = append(s.Formats, f.Format)
	}
	return s
}

func openQcow2(f vfs.File, data chain.DataOpener) (chain.Source, error) {
	return qcow2.Open(f, data)
}

func openRaw(f vfs.File, _ chain.DataOpener) (chain.Source, error) {
	return chain.OpenRaw(f)
}

// newOverlay writes a qcow2 image without data into an empty file, with the features
// of the image at like, if one is named.
func newOverlay(f vfs.File, like string, size int64, backing, format string) error {
	o := qcow2.CreateOptions{Size: size, Backing: backing, BackingFormat: format}
	if like == "" {
		return qcow2.Create(f, o)
	}
	was, err := fileSystem().Open(like, false)
	if err != nil {
		return err
	}
	var h qcow2.Header
	err = steady(sizeOf(was), func(size int64) (err error) {
		h, err = qcow2.ReadHeader(was, size)
		return err
	})
	if err = errors.Join(err, was.Close()); err != nil {
		return fmt.Errorf("%s: %w", like, err)
	}
	o.ClusterSize, o.Version, o.RefcountBits = h.ClusterSize(), h.Version, 1<<h.RefcountOrder
	o.ExtendedL2, o.LazyRefcounts, o.CompressionType = h.ExtendedL2(), h.LazyRefcounts(), h.CompressionType
	return qcow2.Create(f, o)
}

func inspectQcow2File(f vfs.File) (image chain.Image, err error) {
	err = steady(sizeOf(f), func(size int64) error {
		h, err := qcow2.ReadHeader(f, size)
		image = h.Image()
		return err
	})
	return image, err
}

func inspectRawFile(f vfs.File) (chain.Image, error) {
	r, err := chain.OpenRaw(f)
	if err != nil {
		return chain.Image{}, err
	}
	return r.Image(), nil
}

func sizeOf(f vfs.File) func() (int64, error) {
	return func() (int64, error) {
		info, err := f.Stat()
		return info.Size, err
	}
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

// isRefusal tells whether err means that something would not be safe, or is not
// what this program works on, and was left alone.
func isRefusal(err error) bool {
	var refused *chain.RefusedError
	var busy *vfs.BusyError
	var kind *vfs.KindError
	var changed *vfs.ChangedError
	var local *vfs.LocalLocksError
	var unsupported *qcow2.UnsupportedError
	var unknown *chain.UnknownFormatError
	var destroyed *decide.DestroyedError
	return errors.As(err, &refused) || errors.As(err, &destroyed) || errors.As(err, &unknown) || errors.As(err, &busy) || errors.As(err, &kind) ||
		errors.As(err, &changed) || errors.As(err, &local) || errors.As(err, &unsupported) || errors.Is(err, xva.ErrNotXVA)
}
