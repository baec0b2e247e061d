package vhd

import (
	"fmt"
	"io"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// cachedBitmaps is how many bitmaps are remembered, 512 bytes each with the usual
// block size.
const cachedBitmaps = 4096

// An Image is one open dynamic or differencing disk: its own sectors, not what is
// below it. It is a Source and, if Open opened it, a Target. Its errors do not name
// the file; who opened it does. It is not safe for concurrent use.
type Image struct {
	f       vfs.File
	m       *meta
	size    int64 // of the disk: what the footer says, or is about to say
	bat     []uint32
	bitmaps map[int64][]byte // by block; nobody may change them
	holes   *holes           // nil while the image is written to
	device  bool
	end     int64 // behind all blocks and metadata of the file but the end footer
	w       *writer
}

// Open reads footers, header and table of an image that is to be changed. It refuses
// blocks outside the file, over each other or over metadata, and images that are
// marked as in use. What it returns is an *Image or a *FixedImage.
//
// The image takes f over: Close closes it, if it is an io.Closer. After an error it is
// still the caller's. That nobody else uses the image is up to the caller, too.
func Open(f File) (Target, error) { return open(vfs.Full(f)) }

// NewReader reads footers, header and table of an image of size bytes that is only to
// be read. Otherwise it is as Open.
func NewReader(r io.ReaderAt, size int64) (Source, error) {
	return open(vfs.FullReader(r, size))
}

func open(f vfs.File) (Target, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := load(f, info.Size)
	if err == nil {
		err = m.usable()
	}
	if err != nil {
		return nil, err
	}
	if m.foot.kind == Fixed {
		return &FixedImage{f: f, m: m}, nil
	}
	i := &Image{f: f, holes: &holes{f: f}, device: info.IsBlock}
	if err := i.take(m); err != nil {
		return nil, err
	}
	return i, nil
}

// take makes the image what m says.
func (i *Image) take(m *meta) (err error) {
	i.m, i.size, i.bitmaps = m, m.foot.size, map[int64][]byte{}
	if i.bat, err = m.readTable(); err != nil {
		return err
	}
	i.end, err = m.checkBlocks(i.bat, m.refuse)
	for _, r := range m.regions() {
		i.end = max(i.end, r.to)
	}
	return err
}

// Info is what footer and header say.
func (i *Image) Info() Info { return i.m.info() }

// Image is what the image says of itself.
func (i *Image) Image() Summary {
	image := i.m.info().Image()
	image.VirtualSize = i.size
	return image
}

// Host is the file.
func (i *Image) Host() File { return i.f }

// Close closes the file. Without Flush, what was placed is lost.
func (i *Image) Close() error { return i.f.Close() }

// bitmapBytes is the length of the bitmap in front of each block: whole sectors.
func (h *header) bitmapBytes() int64 {
	return roundUp((h.blockSize/sectorSize+7)/8, sectorSize)
}

// sectors is how many sectors a block has.
func (h *header) sectors() int64 { return h.blockSize / sectorSize }

// A region is a part of the file that holds metadata. Bytes.
type region struct {
	from, to int64
	what     string
}

// regions lists the metadata, but for the end footer.
func (m *meta) regions() []region {
	all := []region{
		{0, footerLen, "the copy of the footer"},
		{m.at, m.at + headerLen, "the header"},
		{m.head.table, m.head.table + m.head.tableBytes(), "the block allocation table"},
	}
	if b := m.batmap; b.at != 0 {
		all = append(all, region{b.at, b.at + sectorSize, "the batmap header"})
		if b.wrong == "" {
			all = append(all, region{b.offset, b.offset + b.bytes, "the batmap"})
		}
	}
	if m.foot.kind == Differencing {
		for _, l := range m.head.locators {
			if l.code != codeNone && l.length > 0 {
				all = append(all, region{l.offset, l.offset + int64(l.length), "a parent locator"})
			}
		}
	}
	return all
}

// A badEntry is an entry of the block allocation table whose block is where it must not be.
type badEntry struct {
	index int
	over  string // what of the metadata it is over
	other int64  // the block that it is over, or -1
}

func (e badEntry) String() string {
	switch {
	case e.other >= 0:
		return fmt.Sprintf("the block overlaps block %d", e.other)
	case e.over != "":
		return "the block overlaps " + e.over
	}
	return "the block is beyond the end of the file, or over its beginning"
}

// entry is where the entry is in the file.
func (m *meta) entry(index int) int64 { return m.head.table + int64(index)*4 }

const tableName = "block allocation table"

// refuse is the error of a bad entry.
func (m *meta) refuse(bad badEntry) error {
	return malformed(m.entry(bad.index), tableName, bad.String())
}

// checkBlocks looks for blocks of the disk that are not within the file, or over
// metadata or another block. Bad gets each and may end the search by an error. It
// returns where the last block ends, whether the disk has it or not.
func (m *meta) checkBlocks(bat []uint32, bad func(badEntry) error) (end int64, err error) {
	h := &m.head
	length := h.bitmapBytes() + h.blockSize
	limit := m.limit()
	disk := h.blocks(m.foot.size)
	order := make([]uint64, 0, used(bat)) // sector and index
	for i, e := range bat {
		off := int64(e) * sectorSize
		switch {
		case e == unused:
			continue
		case off+length > limit || off < footerLen:
			if int64(i) < disk {
				err = bad(badEntry{index: i, other: -1})
			}
		default:
			end = max(end, off+length)
			order = append(order, uint64(e)<<32|uint64(i))
		}
		if err != nil {
			return end, err
		}
	}
	slices.Sort(order)
	return end, m.checkOverlaps(order, length, disk, bad)
}

// used counts the blocks that a table has.
func used(bat []uint32) (n int) {
	for _, e := range bat {
		if e != unused {
			n++
		}
	}
	return n
}

// checkOverlaps looks at the blocks in their order in the file.
func (m *meta) checkOverlaps(order []uint64, length, disk int64, bad func(badEntry) error) error {
	for k := 1; k < len(order); k++ {
		a, b := order[k-1], order[k]
		if int64(b>>32)*sectorSize < int64(a>>32)*sectorSize+length && (int64(uint32(a)) < disk || int64(uint32(b)) < disk) {
			if err := bad(badEntry{index: int(uint32(b)), other: int64(uint32(a))}); err != nil {
				return err
			}
		}
	}
	for _, r := range m.regions() {
		first := max(0, (r.from-length)/sectorSize)
		k, _ := slices.BinarySearch(order, uint64(first)<<32)
		for ; k < len(order) && int64(order[k]>>32)*sectorSize < r.to; k++ {
			if int64(order[k]>>32)*sectorSize+length <= r.from || int64(uint32(order[k])) >= disk {
				continue
			}
			if err := bad(badEntry{index: int(uint32(order[k])), over: r.what, other: -1}); err != nil {
				return err
			}
		}
	}
	return nil
}

// data is where block n, which the table has, begins in the file.
func (i *Image) data(n int64) int64 {
	return int64(i.bat[n])*sectorSize + i.m.head.bitmapBytes()
}

// bitmap returns the bitmap of block n, which the table has. It is not to be changed.
func (i *Image) bitmap(n int64) ([]byte, error) {
	if b := i.bitmaps[n]; b != nil {
		return b, nil
	}
	b := make([]byte, i.m.head.bitmapBytes())
	if err := readFull(i.m.r, b, int64(i.bat[n])*sectorSize, "sector bitmap"); err != nil {
		return nil, err
	}
	if int64(len(i.bitmaps)) >= max(1, cachedBitmaps*sectorSize/int64(len(b))) {
		clear(i.bitmaps)
	}
	i.bitmaps[n] = b
	return b, nil
}

// Extent returns the extent that begins at off. Source: chain.Source.
func (i *Image) Extent(off, end int64) (Extent, error) {
	if off < 0 || off >= end || end > i.size {
		return chain.Extent{}, fmt.Errorf("extent %d..%d of a disk of %d bytes", off, end, i.size)
	}
	x := chain.Extent{Offset: off, Kind: chain.Hole, Host: chain.NoHost}
	n := off / i.m.head.blockSize
	if i.bat[n] == unused {
		for n*i.m.head.blockSize < end && i.bat[n] == unused {
			n++
		}
		x.Length = min(n*i.m.head.blockSize, end) - off
		return x, nil
	}
	return i.within(x, n, min(end, (n+1)*i.m.head.blockSize))
}

// within is Extent in a block that the table has.
func (i *Image) within(x chain.Extent, n, end int64) (chain.Extent, error) {
	bits, err := i.bitmap(n)
	if err != nil {
		return x, err
	}
	in := x.Offset - n*i.m.head.blockSize
	last := (end - n*i.m.head.blockSize + sectorSize - 1) / sectorSize
	set, sectors := run(bits, in/sectorSize, last)
	x.Length = min((in/sectorSize+sectors)*sectorSize, end-n*i.m.head.blockSize) - in
	if !set {
		return x, nil
	}
	x.Kind, x.Host = chain.Data, i.data(n)+in
	if i.holes == nil {
		return x, nil
	}
	zero, length, err := i.holes.at(x.Host, x.Length)
	if zero {
		x.Kind = chain.Zero
	}
	x.Length = min(x.Length, length) // a part of a sector may have been asked for
	return x, err
}

// holes tells where a file has holes: sectors there are zeros, and need not be
// copied. It remembers the last answer.
type holes struct {
	f                 vfs.File
	asked, start, end int64 // in [asked, start) there is a hole, in [start, end) data
}

// at tells whether [off, off+n) begins with a hole, and how far that goes.
func (h *holes) at(off, n int64) (hole bool, length int64, err error) {
	if off < h.asked || off >= h.end {
		start, end, err := h.f.NextData(off)
		if err != nil {
			return false, n, err
		}
		h.asked, h.start, h.end = off, start, end
		if start >= end { // nothing but a hole up to the end of the file
			h.start, h.end = off+n, off+n
		}
	}
	if off < h.start {
		return h.sectors(true, min(n, h.start-off))
	}
	return h.sectors(false, min(n, h.end-off))
}

// sectors makes a length one of whole sectors. Where a hole ends or begins within a
// sector the sector is data.
func (h *holes) sectors(hole bool, n int64) (bool, int64, error) {
	if n%sectorSize == 0 {
		return hole, n, nil
	}
	if hole && n > sectorSize {
		return true, n &^ (sectorSize - 1), nil
	}
	return false, roundUp(n, sectorSize), nil
}

// ReadAt fills p with the image's own sectors; holes and what is beyond the disk
// are zeros.
func (i *Image) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= i.size {
			clear(p[done:])
			return len(p), nil
		}
		x, err := i.Extent(at, min(i.size, off+int64(len(p))))
		if err != nil {
			return done, err
		}
		b := p[done:][:x.Length]
		if x.Kind != chain.Data {
			clear(b)
		} else if err := i.readData(b, x.Host); err != nil {
			return done, err
		}
		done += len(b)
	}
	return len(p), nil
}

func (i *Image) readData(b []byte, off int64) error {
	if i.m.batmap.encrypted {
		return unsupported("reading encrypted data")
	}
	return readFull(i.f, b, off, "block")
}
