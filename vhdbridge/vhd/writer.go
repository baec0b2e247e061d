package vhd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A writer is what an Image needs to be changed. The order of writes follows from
// one rule: what an entry or a bit of a bitmap shows is durable before it. A crash
// may lose space, never data.
type writer struct {
	placed  map[int64]*block // what Flush will show
	fresh   []*block         // those of them that are new, in the order of the file
	bits    []byte           // of the batmap; nil if there is none
	sharing bool             // what is placed will share extents
	scratch int64            // from here on, nothing in the file shows before Flush
	strewn  bool             // something may be there that no bit of a bitmap tells
	broken  error            // after it, what is in memory and on disk may differ
}

// A block is one that gets sectors.
type block struct {
	at    int64 // of its bitmap in the file
	fresh bool  // the table does not have it yet
	bits  []byte
	// copyOf, unless it is nil, is the file whose bytes at copyAt its bitmap has now.
	copyOf io.ReaderAt
	copyAt int64
}

var (
	errNotPrepared = errors.New("vhd: the image is not prepared for writing")
	errNoRoom      = syscall.ENOSPC
)

// Writable refuses, by what the header says, what changing the data would lose or
// break. Prepare finds the rest.
func (i *Image) Writable() error {
	switch {
	case i.m.batmap.encrypted:
		return unsupported("changing data of an encrypted image (the batmap has a key hash)")
	case i.m.copied && i.m.copy.size != i.m.foot.size:
		return malformed(offCurrentSize, "current size", "the two footers differ: a resize was interrupted")
	}
	return nil
}

// Prepare gets the image ready to be changed: footers that a crash has left behind
// are made whole, and a batmap that says too much is made right.
func (i *Image) Prepare() error {
	if i.w != nil {
		return i.w.broken
	}
	if err := i.Writable(); err != nil {
		return err
	}
	if err := i.start(); err != nil {
		return err
	}
	return i.fail(i.mendBatmap())
}

// start makes the file's ends whole and lets the metadata be changed.
func (i *Image) start() error {
	if i.w != nil {
		return i.w.broken
	}
	if err := i.settle(); err != nil {
		return err
	}
	i.holes = nil
	i.w = &writer{placed: map[int64]*block{}, scratch: i.end}
	return nil
}

// Scratch tells of what lies between the blocks that are new, and in them. A bitmap that
// comes along need not be written if it is the right one: Flush sees to that.
func (i *Image) Scratch(off, n int64, src io.ReaderAt, from int64) bool {
	if i.w == nil || off < i.w.scratch || off+n > i.end {
		return false
	}
	i.w.strewn = true
	k, _ := slices.BinarySearchFunc(i.w.fresh, off, func(b *block, off int64) int { return cmp.Compare(b.at, off) })
	for ; k < len(i.w.fresh) && i.w.fresh[k].at+i.m.head.bitmapBytes() <= off+n; k++ {
		i.w.fresh[k].copyOf, i.w.fresh[k].copyAt = src, from+i.w.fresh[k].at-off
	}
	return true
}

func (i *Image) ready() error {
	if i.w == nil {
		return errNotPrepared
	}
	return i.w.broken
}

// fail makes the image refuse all further changes.
func (i *Image) fail(err error) error {
	if err != nil && i.w != nil && i.w.broken == nil {
		i.w.broken = fmt.Errorf("an earlier change failed: %w", err)
	}
	return err
}

// Granule is a sector: each has a bit of its own.
func (i *Image) Granule() int64 { return sectorSize }

// RoundUnit is in what a round of changes is counted: sectors would make short ones.
func (i *Image) RoundUnit() int64 { return dataAlign }

// Reserve leaves it to Place, which knows where the pieces go.
func (i *Image) Reserve(int64, int) error { return i.ready() }

// Relocate means nothing: a sector has its place in its block.
func (i *Image) Relocate(bool) {}

// Sharing is noted for Place.
func (i *Image) Sharing(yes bool) {
	if i.w != nil {
		i.w.sharing = yes
	}
}

// Place finds room for the pieces: in the blocks that there are, or in new ones at
// the end of the file.
func (i *Image) Place(pieces []Piece) ([]Piece, error) {
	if err := i.ready(); err != nil {
		return nil, err
	}
	parts, err := i.split(pieces)
	if err != nil {
		return nil, err
	}
	out, err := i.place(parts, true)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Zero makes [off, off+n) read as zeros: sectors that are there and hold nothing, so
// that a parent does not show. They take up no space but that of the bitmap.
func (i *Image) Zero(off, n int64) error {
	if err := i.ready(); err != nil {
		return err
	}
	parts, err := i.split([]chain.Piece{{Offset: off, Length: n}})
	if err != nil {
		return err
	}
	pieces, err := i.place(parts, false)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if i.w.placed[p.Offset/i.m.head.blockSize].fresh && !i.w.strewn {
			continue // nothing has been written there
		}
		if err := i.f.Punch(p.Host, p.Length); err != nil {
			return i.fail(err)
		}
	}
	return nil
}

// split cuts pieces where blocks end.
func (i *Image) split(pieces []chain.Piece) ([]chain.Piece, error) {
	out := make([]chain.Piece, 0, len(pieces))
	for _, p := range pieces {
		if p.Offset < 0 || p.Length <= 0 || p.Offset%sectorSize != 0 || p.Length%sectorSize != 0 || p.Offset > i.size-p.Length {
			return nil, fmt.Errorf("vhd: place %d+%d: not in whole sectors of the disk", p.Offset, p.Length)
		}
		for off, end := p.Offset, p.Offset+p.Length; off < end; {
			n := min(end, (off/i.m.head.blockSize+1)*i.m.head.blockSize) - off
			out = append(out, chain.Piece{Offset: off, Length: n})
			off += n
		}
	}
	return out, nil
}

// place fills in where the parts, none of which crosses blocks, are in the file,
// and marks them as there. With data, room is reserved for them.
func (i *Image) place(parts []chain.Piece, data bool) ([]chain.Piece, error) {
	end := i.end
	var added []int64
	for k := range parts {
		n := parts[k].Offset / i.m.head.blockSize
		b, fresh, err := i.blockFor(n, &end)
		if err != nil {
			return nil, err
		}
		if fresh {
			added = append(added, n)
		}
		parts[k].Host = b.at + i.m.head.bitmapBytes() + parts[k].Offset%i.m.head.blockSize
	}
	if err := i.room(parts, added, end, data); err != nil {
		for _, n := range added {
			delete(i.w.placed, n)
		}
		i.w.fresh = i.w.fresh[:len(i.w.fresh)-len(added)]
		return nil, err
	}
	for _, p := range parts {
		from := p.Offset % i.m.head.blockSize / sectorSize
		setBits(i.w.placed[p.Offset/i.m.head.blockSize].bits, from, from+p.Length/sectorSize)
	}
	return parts, nil
}

// blockFor returns block n as it is to be changed; a new one goes behind end.
func (i *Image) blockFor(n int64, end *int64) (b *block, fresh bool, err error) {
	if b := i.w.placed[n]; b != nil {
		return b, false, nil
	}
	if i.bat[n] != unused {
		bits, err := i.bitmap(n)
		if err != nil {
			return nil, false, err
		}
		b = &block{at: int64(i.bat[n]) * sectorSize, bits: append([]byte(nil), bits...)}
		i.w.placed[n] = b
		return b, false, nil
	}
	at, err := i.nextBlock(end)
	if err != nil {
		return nil, false, err
	}
	b = &block{at: at, fresh: true, bits: make([]byte, i.m.head.bitmapBytes())}
	i.w.placed[n] = b
	i.w.fresh = append(i.w.fresh, b)
	return b, true, nil
}

// nextBlock is where a block behind end begins: its data is aligned, its bitmap is
// in front of that.
func (i *Image) nextBlock(end *int64) (int64, error) {
	bitmap := i.m.head.bitmapBytes()
	data := roundUp(*end+bitmap, dataAlign)
	if (data-bitmap)/sectorSize >= unused {
		return 0, fmt.Errorf("vhd: the file would be larger than its table can tell: %w", errNoRoom)
	}
	*end = data + i.m.head.blockSize
	return data - bitmap, nil
}

// room sees to it that there is room: in the file system for parts, if they are data,
// and for bitmaps; then in the file up to end.
func (i *Image) room(parts []chain.Piece, added []int64, end int64, data bool) error {
	if i.device && end > i.m.size-footerLen {
		return fmt.Errorf("the device has %d bytes, and %d are needed: %w", i.m.size, end+footerLen, errNoRoom)
	}
	err := i.reserve(parts, added, data)
	if err != nil && !i.device {
		return errors.Join(err, i.f.Truncate(i.m.size)) // it may have got a part
	}
	if err != nil || end == i.end {
		return err
	}
	return i.fail(i.extend(end))
}

func (i *Image) reserve(parts []chain.Piece, added []int64, data bool) error {
	for k := 0; data && k < len(parts); {
		from, to := parts[k].Host, parts[k].Host+parts[k].Length
		for k++; k < len(parts) && parts[k].Host == to; k++ {
			to += parts[k].Length
		}
		if i.w.sharing && chain.Shareable(from, to-from) {
			continue
		}
		if err := i.f.Reserve(from, to-from); err != nil {
			return err
		}
	}
	for _, n := range added {
		if i.w.sharing {
			break // most come with the data
		}
		if err := i.f.Reserve(i.w.placed[n].at, i.m.head.bitmapBytes()); err != nil {
			return err
		}
	}
	return nil
}

// extend makes the file end behind end. The footer is durable in its new place
// before the old one is given up; whatever was there is zeros then.
func (i *Image) extend(end int64) error {
	from, to := i.end, min(end, i.m.size) // what there may be something in
	if end+footerLen > i.m.size {
		b := i.m.foot.encode()
		if _, err := i.f.WriteAt(b[:], end); err != nil {
			return err
		}
		if err := i.f.Sync(); err != nil {
			return err
		}
		i.m.size = end + footerLen
	}
	i.end = end
	if from >= to {
		return nil
	}
	return i.f.Punch(from, to-from)
}
