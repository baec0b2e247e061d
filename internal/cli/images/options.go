package images

import (
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// Options say what a new image is to be.
type Options struct {
	formats.New
	Maker formats.Maker
	Sized bool  // Size was told
	Told  int64 // the size that was told, not yet in sectors

	format *formats.Format
}

// DefaultOptions are those of an image of whose options nothing was said.
func DefaultOptions(format *formats.Format) *Options {
	return &Options{Maker: format.New(), format: format}
}

// Set takes over one of -o.
func (o *Options) Set(key, v string) (err error) {
	switch key {
	case "size":
		o.Size, err = formats.ParseSize(v)
		o.Sized = true
	case "preallocation":
		o.Room, err = o.format.Room(v)
	case "backing_file":
		o.Backing = v
	case "backing_fmt":
		o.BackingFormat = v
	default:
		err = o.Maker.Set(key, v)
	}
	if err != nil {
		return term.Usagef("-o %s=%s: %w", key, v, err)
	}
	return nil
}
