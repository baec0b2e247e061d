package vhd

import (
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// What a tapdisk leaves that died while it wrote: the end footer is a mark (512 times
// 0xC7), or under the blocks that came after it; of a file the last block may end where
// nothing was written any more. Data, bitmaps and table are in order, for it writes them
// in that order, and the footer is at 0, too.

// A release is where the end footer goes.
type release struct {
	foot footer
	at   int64
}

// NeedsRelease tells whether Release would change the image r of size bytes, and whether
// it would be refused. Errors are those of ReadInfo, and a *FormatError if a block is not
// where it should be.
func NeedsRelease(r io.ReaderAt, size int64) (bool, error) {
	p, err := planRelease(vfs.FullReader(r, size))
	return p != nil, err
}

// Release writes the end footer that a tapdisk has replaced by its mark, or by blocks,
// durably and at once: before, the copy at 0 counts. Nothing else is changed. That no host
// uses the image is up to the caller, who has locked it.
func Release(f File) error {
	full := vfs.Full(f)
	p, err := planRelease(full)
	if p == nil || err != nil {
		return err
	}
	b := p.foot.encode()
	if _, err := full.WriteAt(b[:], p.at); err != nil {
		return err
	}
	return full.Sync()
}

func planRelease(f vfs.File) (*release, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := load(f, info.Size)
	if err != nil || m.foot.kind == Fixed || m.end == endValid || m.end == endShort {
		return nil, err
	}
	bat, err := m.readTable()
	if err != nil {
		return nil, err
	}
	if m.end == endMissing && !info.IsBlock {
		m.size = max(m.size, m.lastBlockEnd(bat))
	}
	end, err := m.checkBlocks(bat, m.refuse)
	if err != nil {
		return nil, err
	}
	p := &release{m.foot, m.size - footerLen}
	if m.end == endInUse {
		return p, nil
	}
	if info.IsBlock {
		if end > p.at {
			return nil, malformed(p.at, "end of the device", "blocks are where the footer would be")
		}
		return p, nil
	}
	p.at = roundUp(m.size, sectorSize)
	return p, m.checkTail(bat, info.Size)
}

// lastBlockEnd is where the highest block ends of which the file has the bitmap.
func (m *meta) lastBlockEnd(bat []uint32) (end int64) {
	for _, e := range bat {
		at := int64(e) * sectorSize
		if e != unused && at+m.head.bitmapBytes() <= m.size {
			end = max(end, at+m.head.bitmapBytes()+m.head.blockSize)
		}
	}
	return end
}

// checkTail wants no block to have sectors beyond size bytes, where the file ends: these
// would be lost, and not just never written.
func (m *meta) checkTail(bat []uint32, size int64) error {
	i := &Image{m: m, bat: bat, bitmaps: map[int64][]byte{}}
	for n := range m.head.blocks(m.foot.size) {
		if bat[n] == unused || i.data(n)+m.head.blockSize <= size {
			continue
		}
		bits, err := i.bitmap(n)
		if err != nil {
			return err
		}
		first := max(size-i.data(n), 0) / sectorSize
		if set, length := run(bits, first, m.head.sectors()); set || first+length < m.head.sectors() {
			return malformed(size, "block", fmt.Sprintf("block %d has data beyond the end of the file: it is cut off", n))
		}
	}
	return nil
}
