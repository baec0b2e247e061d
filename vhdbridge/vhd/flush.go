package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
)

// Flush makes the changes durable and visible, in this order:
//
//	data, bitmaps of new blocks            fsync
//	bitmaps of old blocks, table entries   fsync
//	bits of the batmap                     fsync, only if there are any
func (i *Image) Flush() error {
	if err := i.ready(); err != nil {
		return err
	}
	return i.fail(i.flush())
}

func (i *Image) flush() error {
	order := slices.Sorted(maps.Keys(i.w.placed))
	if err := i.writeBitmaps(order, true); err != nil {
		return err
	}
	if err := i.f.Sync(); err != nil || len(order) == 0 {
		return err
	}
	if err := i.writeBitmaps(order, false); err != nil {
		return err
	}
	for _, n := range order {
		if b := i.w.placed[n]; b.fresh {
			i.bat[n] = uint32(b.at / sectorSize)
		}
	}
	fresh := slices.DeleteFunc(slices.Clone(order), func(n int64) bool { return !i.w.placed[n].fresh })
	if err := i.writeEntries(fresh); err != nil {
		return err
	}
	if err := i.f.Sync(); err != nil {
		return err
	}
	var filled []int64
	for _, n := range order {
		b := i.w.placed[n]
		i.bitmaps[n] = b.bits
		if full(b.bits, i.m.head.sectors()) {
			filled = append(filled, n)
		}
	}
	clear(i.w.placed)
	i.w.fresh, i.w.scratch, i.w.strewn = nil, i.end, false
	i.forgetSome()
	return i.noteFull(filled)
}

// forgetSome keeps the memory for bitmaps bounded.
func (i *Image) forgetSome() {
	if int64(len(i.bitmaps))*i.m.head.bitmapBytes() > cachedBitmaps*sectorSize {
		clear(i.bitmaps)
	}
}

// writeBitmaps writes those of new blocks, or of old ones.
func (i *Image) writeBitmaps(order []int64, fresh bool) error {
	for _, n := range order {
		b := i.w.placed[n]
		if b.fresh != fresh || b.isThere() {
			continue
		}
		if _, err := i.f.WriteAt(b.bits, b.at); err != nil {
			return err
		}
	}
	return nil
}

// isThere tells whether a copy has brought the bitmap along.
func (b *block) isThere() bool {
	if b.copyOf == nil {
		return false
	}
	there := make([]byte, len(b.bits))
	n, err := b.copyOf.ReadAt(there, b.copyAt)
	return n == len(there) && (err == nil || errors.Is(err, io.EOF)) && bytes.Equal(there, b.bits)
}

// writeEntries writes the sectors of the table that have the entries of these
// blocks, which are in order.
func (i *Image) writeEntries(blocks []int64) error {
	const perSector = sectorSize / 4
	for k := 0; k < len(blocks); {
		first, last := blocks[k]/perSector, blocks[k]/perSector
		for k++; k < len(blocks) && blocks[k]/perSector <= last+1; k++ {
			last = blocks[k] / perSector
		}
		b := make([]byte, 0, (last-first+1)*sectorSize)
		for n := first * perSector; n < min((last+1)*perSector, int64(len(i.bat))); n++ {
			b = binary.BigEndian.AppendUint32(b, i.bat[n])
		}
		if _, err := i.f.WriteAt(b, i.m.head.table+first*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

// noteFull sets the bits of blocks in the batmap. Those that the disk does not have
// yet, while it grows, go without.
func (i *Image) noteFull(blocks []int64) error {
	changed := false
	for _, n := range blocks {
		if n < i.m.head.blocks(i.m.foot.size) && n < int64(len(i.w.bits))*8 && !hasBit(i.w.bits, n) {
			setBit(i.w.bits, n)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return i.writeBatmap(i.w.bits)
}

// writeBatmap writes the map and its checksum. A crash in between leaves a map
// that does not match it: bits are only set, or only cleared, in one go.
func (i *Image) writeBatmap(bits []byte) error {
	if _, err := i.f.WriteAt(bits, i.m.batmap.offset); err != nil {
		return err
	}
	i.m.batmap.checksum = i.m.batmap.sum(bits)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], i.m.batmap.checksum)
	if _, err := i.f.WriteAt(b[:], i.m.batmap.at+offBatmapChecksum); err != nil {
		return err
	}
	return i.f.Sync()
}

// mendBatmap reads the batmap and sees whether the blocks that it calls full are.
// If one is not, or the checksum does not match, all of it is made anew.
func (i *Image) mendBatmap() error {
	if i.m.batmap.at == 0 || i.m.batmap.wrong != "" {
		return nil
	}
	bits, err := i.m.readBatmap()
	if err != nil {
		return err
	}
	wrong, err := i.falseBits(bits)
	if err == nil && (wrong >= 0 || i.m.batmap.sum(bits) != i.m.batmap.checksum) {
		if bits, err = i.fullBlocks(i.m.batmap.bytes); err == nil {
			err = i.writeBatmap(bits)
		}
	}
	i.w.bits = bits
	return err
}

// falseBits returns the first block that the batmap calls full and that is not, or -1.
func (i *Image) falseBits(bits []byte) (int64, error) {
	for n := range min(int64(len(bits))*8, int64(len(i.bat))) {
		if !hasBit(bits, n) {
			continue
		}
		is, err := i.isFull(n)
		if err != nil || !is {
			return n, err
		}
	}
	return -1, nil
}

func (i *Image) isFull(n int64) (bool, error) {
	if n >= i.m.head.blocks(i.size) || i.bat[n] == unused {
		return false, nil
	}
	b, err := i.bitmap(n)
	return err == nil && full(b, i.m.head.sectors()), err
}

// fullBlocks is a batmap of so many bytes, made of the bitmaps.
func (i *Image) fullBlocks(bytes int64) ([]byte, error) {
	bits := make([]byte, bytes)
	for n := range min(bytes*8, i.m.head.blocks(i.size)) {
		is, err := i.isFull(n)
		if err != nil {
			return nil, err
		}
		if is {
			setBit(bits, n)
		}
	}
	return bits, nil
}
