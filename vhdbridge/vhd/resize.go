package vhd

import (
	"fmt"
)

// CheckResize tells whether Resize would refuse the size. The image need not be
// prepared.
func (i *Image) CheckResize(size int64) error {
	switch {
	case size < 0 || size%sectorSize != 0:
		return fmt.Errorf("vhd: size %d: not a multiple of 512", size)
	case size > maxSize || i.m.head.blocks(size)*4 > maxTableBytes:
		return unsupported(fmt.Sprintf("a disk of %d bytes; VHD has at most 2040 GiB", size))
	}
	return nil
}

// Resize sets the size of the disk in bytes, durably. Blocks beyond the new end are
// given up. What is new reads as holes, from below on; up to there as zeros, for
// something shows through holes.
func (i *Image) Resize(size, below int64) error {
	if err := i.ready(); err != nil {
		return err
	}
	if len(i.w.placed) > 0 {
		return fmt.Errorf("vhd: resize with changes that are not flushed")
	}
	if err := i.CheckResize(size); err != nil {
		return err
	}
	if size < i.size {
		return i.fail(i.shrink(size))
	}
	return i.fail(i.grow(size, below))
}

func (i *Image) shrink(size int64) error {
	gone, err := i.giveUpFrom(size)
	if err != nil {
		return err
	}
	if err := i.setSize(size); err != nil {
		return err
	}
	if !gone || i.device {
		return nil
	}
	for _, g := range i.m.gaps(i.bat) {
		if err := punchGap(i.f, g); err != nil {
			return err
		}
	}
	return nil
}

// setSize writes the size, with the geometry that goes with it, into both footers.
func (i *Image) setSize(size int64) error {
	return i.rewriteFooter(func(f *footer) { f.size, f.geometry = size, geometry(size) })
}

// grow makes room in the table, then the zeros that are to be seen, then the size
// that shows them.
func (i *Image) grow(size, below int64) error {
	old := i.size
	if _, err := i.giveUpFrom(old); err != nil {
		return err
	}
	if need := uint32(i.m.head.blocks(size)); need > i.m.head.entries {
		err := i.rewrite(func(l *layout) {
			l.head.entries = need
			if n := batmapBytes(int64(need)) - int64(len(l.bits)); l.bits != nil && n > 0 {
				l.bits = append(l.bits[:len(l.bits):len(l.bits)], make([]byte, n)...)
			}
		})
		if err != nil {
			return err
		}
	}
	if to := min(size, roundUp(below, sectorSize)); old < to && i.m.foot.kind == Differencing {
		i.size = size // in memory: the footer still has the old one
		if err := i.Zero(old, to-old); err != nil {
			return err
		}
		if err := i.flush(); err != nil {
			return err
		}
	}
	return i.setSize(size)
}

// giveUpFrom makes holes of everything from size on, durably, and tells whether blocks
// of the disk go. What the table has beyond the disk means nothing, and can lead
// anywhere: only the entries go.
func (i *Image) giveUpFrom(size int64) (gone bool, err error) {
	disk := i.m.head.blocks(i.size)
	var blocks []int64
	for n := i.m.head.blocks(size); n < int64(len(i.bat)); n++ {
		if i.bat[n] == unused {
			continue
		}
		blocks, gone = append(blocks, n), gone || n < disk
		i.bat[n] = unused
		delete(i.bitmaps, n)
	}
	bits, err := i.tail(size)
	if err != nil || bits == nil && len(blocks) == 0 {
		return false, err
	}
	if err := i.forgetFull(size / i.m.head.blockSize); err != nil {
		return false, err
	}
	if bits != nil {
		n := size / i.m.head.blockSize
		if _, err := i.f.WriteAt(bits, int64(i.bat[n])*sectorSize); err != nil {
			return false, err
		}
		i.bitmaps[n] = bits
	}
	if err := i.writeEntries(blocks); err != nil {
		return false, err
	}
	return gone, i.f.Sync()
}

// tail returns the bitmap of the block that size is in, without the sectors from
// there on; nil if it has none of them.
func (i *Image) tail(size int64) ([]byte, error) {
	n, in := size/i.m.head.blockSize, size%i.m.head.blockSize/sectorSize
	if in == 0 || i.bat[n] == unused {
		return nil, nil
	}
	have, err := i.bitmap(n)
	if err != nil {
		return nil, err
	}
	if set, k := run(have, in, i.m.head.sectors()); !set && in+k == i.m.head.sectors() {
		return nil, nil
	}
	bits := append([]byte(nil), have...)
	for k := in; k < i.m.head.sectors(); k++ {
		clearBit(bits, k)
	}
	return bits, nil
}

// forgetFull clears the bits of the batmap from block first on, before the blocks
// lose sectors.
func (i *Image) forgetFull(first int64) error {
	changed := false
	for n := first; n < int64(len(i.w.bits))*8; n++ {
		if hasBit(i.w.bits, n) {
			clearBit(i.w.bits, n)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return i.writeBatmap(i.w.bits)
}
