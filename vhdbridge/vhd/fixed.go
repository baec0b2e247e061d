package vhd

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A FixedImage is an open fixed disk: its bytes lie in the file as they are, with
// a footer behind them. It is a Source and a Target; its size cannot
// change, since there is no copy of its footer that would outlive a crash meanwhile.
type FixedImage struct {
	f       vfs.File
	m       *meta
	sharing bool // what is placed will share extents
}

// fixedGranule is a block of most file systems, so that extents can be shared.
const fixedGranule = 4096

// Info is what the footer says.
func (i *FixedImage) Info() Info { return i.m.info() }

// Image is what the image says of itself.
func (i *FixedImage) Image() Summary { return i.m.info().Image() }

// Host is the file.
func (i *FixedImage) Host() File { return i.f }

// Close closes the file.
func (i *FixedImage) Close() error { return i.f.Close() }

func (i *FixedImage) checkRange(off, n int64) error {
	if off < 0 || n <= 0 || off > i.m.foot.size-n {
		return fmt.Errorf("range %d+%d of a disk of %d bytes", off, n, i.m.foot.size)
	}
	return nil
}

// Extent tells data from holes of the file, which read as zeros.
func (i *FixedImage) Extent(off, end int64) (Extent, error) {
	if err := i.checkRange(off, end-off); err != nil {
		return chain.Extent{}, err
	}
	start, stop, err := i.f.NextData(off)
	if err != nil {
		return chain.Extent{}, err
	}
	if start > off {
		return chain.Extent{Offset: off, Length: min(start, end) - off, Kind: chain.Zero, Host: off}, nil
	}
	return chain.Extent{Offset: off, Length: min(stop, end) - off, Kind: chain.Data, Host: off}, nil
}

// ReadAt reads the disk; beyond its end are zeros.
func (i *FixedImage) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), i.m.foot.size-off)))
	clear(p[n:])
	if n == 0 {
		return len(p), nil
	}
	return len(p), readFull(i.f, p[:n], off, "disk")
}

// Granule is the unit of Place and Zero.
func (i *FixedImage) Granule() int64 { return fixedGranule }

// Prepare has nothing to verify but the footer, which Open has read.
func (i *FixedImage) Prepare() error { return nil }

// Reserve leaves it to Place, which knows where the pieces go.
func (i *FixedImage) Reserve(int64, int) error { return nil }

// Relocate means nothing: each byte has its place.
func (i *FixedImage) Relocate(bool) {}

// Sharing is noted for Place.
func (i *FixedImage) Sharing(yes bool) { i.sharing = yes }

// Place gives each byte its own place, and sees to it that a sparse file has room
// for all of them before the first is written, but for what shares its extents.
func (i *FixedImage) Place(pieces []Piece) ([]Piece, error) {
	out := make([]chain.Piece, len(pieces))
	for k, p := range pieces {
		if err := i.checkRange(p.Offset, p.Length); err != nil {
			return nil, err
		}
		if !i.sharing || !chain.Shareable(p.Offset, p.Length) {
			if err := i.f.Reserve(p.Offset, p.Length); err != nil {
				return nil, err
			}
		}
		out[k] = chain.Piece{Offset: p.Offset, Length: p.Length, Host: p.Offset}
	}
	return out, nil
}

// Zero punches a hole.
func (i *FixedImage) Zero(off, n int64) error {
	if err := i.checkRange(off, n); err != nil {
		return err
	}
	return i.f.Punch(off, n)
}

// Flush makes what was written durable.
func (i *FixedImage) Flush() error { return i.f.Sync() }

// CheckResize refuses every other size.
func (i *FixedImage) CheckResize(size int64) error {
	if size != i.m.foot.size {
		return unsupported(fmt.Sprintf("another size of a fixed disk: it has %d bytes, and %d are needed; convert it into a dynamic one first", i.m.foot.size, size))
	}
	return nil
}

// Resize refuses every other size.
func (i *FixedImage) Resize(size, _ int64) error { return i.CheckResize(size) }

// CheckBacking refuses every name.
func (i *FixedImage) CheckBacking(name, _ string) error {
	if name != "" {
		return unsupported("a parent of a fixed disk")
	}
	return nil
}

// SetBacking refuses every name.
func (i *FixedImage) SetBacking(name, format string) error { return i.CheckBacking(name, format) }

// SetHidden sets XenServer's flag, durably: it is in one sector.
func (i *FixedImage) SetHidden(yes bool) error {
	next := i.m.foot
	next.setHidden(yes)
	b := next.encode()
	if _, err := i.f.WriteAt(b[:i.m.footerLen()], i.m.size-i.m.footerLen()); err != nil {
		return err
	}
	if err := i.f.Sync(); err != nil {
		return err
	}
	i.m.foot = next
	return nil
}

func (f *footer) setHidden(yes bool) {
	f.hidden = 0
	if yes {
		f.hidden = 1
	}
}
