package formats

import (
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func rawFormat() Format {
	return Format{
		Format: chain.Format{
			Name:    "raw", // no Probe: a guest can write any magic into its disk
			Open:    func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return chain.OpenRaw(f) },
			Inspect: inspectRaw,
		},
		Extension: ".raw",
		Rooms:     []chain.Room{chain.RoomFalloc, chain.RoomFull},
		Details:   func(io.ReaderAt, int64) (Details, error) { return Details{}, nil },
		New:       func() Maker { return rawMaker{} },
		Options:   []string{"size", "preallocation"},
		Layer: func(_ string, info vfs.Info) (chain.Image, error) {
			return chain.Image{Format: "raw", VirtualSize: info.Size}, nil
		},
	}
}

func inspectRaw(f vfs.File) (chain.Image, error) {
	r, err := chain.OpenRaw(f)
	if err != nil {
		return chain.Image{}, err
	}
	return r.Image(), nil
}

// A rawMaker makes a raw disk, of which there is nothing to say but its size.
type rawMaker struct{}

func (rawMaker) Set(key, _ string) error { return errors.New("raw disks have no " + key) }

func (rawMaker) Create(f vfs.File, n New) error {
	if err := f.Truncate(n.Size); err != nil {
		return err
	}
	return f.Sync()
}

func (rawMaker) Text(n New, size int64) string {
	return fmt.Sprintf("fmt=raw size=%d", size) + roomText(n)
}
