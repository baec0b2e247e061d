package chain

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Raw is a disk whose bytes are those of a file or a block device. It has no
// holes in the sense of a chain: it is always a base.
type Raw struct {
	f      vfs.File
	size   int64 // virtual: of the file, rounded up to sectors
	length int64 // of the file
	device bool
	// sharing says that what is placed will share extents.
	sharing bool
}

// rawGranule is the unit in which raw disks are written: a block of most file
// systems, so that extents can be shared.
const rawGranule = 4096

const sectorSize = 512

// OpenRaw takes p for a raw disk and closes it in the end.
func OpenRaw(p vfs.Plain) (*Raw, error) {
	f := vfs.Full(p)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &Raw{f: f, size: roundUp(info.Size, sectorSize), length: info.Size, device: info.IsBlock}, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// Image says the little that is known of a raw disk.
func (r *Raw) Image() Image { return Image{Format: "raw", VirtualSize: r.size} }

// Host is the file.
func (r *Raw) Host() vfs.Plain { return r.f }

// Close closes the file.
func (r *Raw) Close() error { return r.f.Close() }

// Extent tells data from what the file system says are holes, which read as
// zeros.
func (r *Raw) Extent(off, end int64) (Extent, error) {
	if off < 0 || off >= end || end > r.size {
		return Extent{}, fmt.Errorf("extent %d..%d of a disk of %d bytes", off, end, r.size)
	}
	start, stop, err := r.f.NextData(off)
	if err != nil {
		return Extent{}, err
	}
	if start >= r.length {
		start = r.size // nothing but a hole, and what fills up the last sector
	}
	if start > off {
		return Extent{off, min(start, end) - off, Zero, off}, nil
	}
	if stop >= r.length {
		stop = r.size // the last sector may be cut
	}
	return Extent{off, min(stop, end) - off, Data, off}, nil
}

// ReadAt reads the disk; beyond its end are zeros.
func (r *Raw) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), r.length-off)))
	clear(p[n:])
	if n == 0 {
		return len(p), nil
	}
	got, err := r.f.ReadAt(p[:n], off)
	if got == n {
		return len(p), nil
	}
	return got, err
}

// Granule is the unit of Place and Zero.
func (r *Raw) Granule() int64 { return rawGranule }

// Prepare has nothing to verify.
func (r *Raw) Prepare() error { return nil }

// Reserve leaves it to Place, which knows where the pieces go.
func (r *Raw) Reserve(int64, int) error { return nil }

// Relocate means nothing: each byte has its place.
func (r *Raw) Relocate(bool) {}

// Sharing is noted for Place.
func (r *Raw) Sharing(yes bool) { r.sharing = yes }

// Place gives each byte its own place, and sees to it that a sparse file has
// room for all of them before the first is written, but for what shares its extents.
func (r *Raw) Place(pieces []Piece) ([]Piece, error) {
	out := make([]Piece, len(pieces))
	for i, p := range pieces {
		if p.Offset < 0 || p.Length <= 0 || p.Offset+p.Length > r.size {
			return nil, fmt.Errorf("place %d+%d: beyond the disk of %d bytes", p.Offset, p.Length, r.size)
		}
		out[i] = Piece{p.Offset, p.Length, p.Offset}
	}
	for _, p := range joinPieces(out) {
		if r.sharing && Shareable(p.Host, p.Length) {
			continue
		}
		if err := r.f.Reserve(p.Offset, p.Length); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Zero punches a hole.
func (r *Raw) Zero(off, n int64) error { return r.f.Punch(off, n) }

// Flush makes what was written durable. There is nothing between written and
// visible in a raw disk.
func (r *Raw) Flush() error { return r.f.Sync() }

// CheckResize tells whether Resize would refuse the size.
func (r *Raw) CheckResize(size int64) error {
	if r.device && size > r.size {
		return fmt.Errorf("a device of %d bytes cannot hold a disk of %d", r.size, size)
	}
	return nil
}

// Resize sets the length of the file. A device has the length it has: it can only
// be cleared from the new end on.
func (r *Raw) Resize(size, _ int64) error {
	if err := r.CheckResize(size); err != nil {
		return err
	}
	if r.device {
		if err := r.f.Punch(size, r.size-size); err != nil {
			return err
		}
		return r.f.Sync()
	}
	if err := r.f.Truncate(size); err != nil {
		return err
	}
	r.size, r.length = size, size
	return r.f.Sync()
}

// errRawBacking says that raw disks have no header.
var errRawBacking = errors.New("a raw disk cannot have a backing file")

// SetBacking fails but for no name.
func (r *Raw) SetBacking(name, _ string) error {
	if name != "" {
		return fmt.Errorf("%s: %w", r.f.Path(), errRawBacking)
	}
	return nil
}
