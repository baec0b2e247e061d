package qcow2

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A BitmapEdit changes the persistent bitmaps of an image, all at once: see
// Image.EditBitmaps.
type BitmapEdit struct {
	m       *Image
	size    int64 // of the disk that the bitmaps are for, in bytes
	all     []*editedBitmap
	removed []*editedBitmap
	changed bool
}

// An editedBitmap is a bitmap as it is in the file, with what is to become of it.
type editedBitmap struct {
	Bitmap
	table table  // in the file; empty for a new one
	bits  []byte // the new content; nil leaves that in the file
}

// EditBitmaps calls do, and then makes durable what it has changed: a crash leaves
// all bitmaps as they were, or all as they are to be. The image must be open for
// writing, of version 3, and neither marked as dirty nor as corrupt.
func (m *Image) EditBitmaps(do func(*BitmapEdit) error) error {
	e, err := m.openBitmaps()
	if err != nil {
		return err
	}
	if err := do(e); err != nil || !e.changed {
		return err
	}
	kept := m.keeping
	m.keeping = true
	defer func() { m.keeping = kept }()
	if err := m.Prepare(); err != nil {
		return err
	}
	return m.fail(e.write())
}

func (m *Image) openBitmaps() (*BitmapEdit, error) {
	if m.version < 3 {
		return nil, unsupported("bitmaps in an image of version 2")
	}
	e := &BitmapEdit{m: m, size: m.onDiskSize()}
	if !m.h.HasBitmaps() {
		return e, nil
	}
	err := eachBitmap(m.f, m.h, func(b Bitmap, t table) error {
		if err := t.check(m.cluster()); err != nil {
			return err
		}
		e.all = append(e.all, &editedBitmap{Bitmap: b, table: t})
		return t.checkWithin(m.size)
	})
	return e, err
}

// List is the bitmaps as they are to be.
func (e *BitmapEdit) List() []Bitmap {
	list := []Bitmap{}
	for _, b := range e.all {
		list = append(list, b.Bitmap)
	}
	return list
}

func (e *BitmapEdit) find(name string) *editedBitmap {
	i := slices.IndexFunc(e.all, func(b *editedBitmap) bool { return b.Name == name })
	if i < 0 {
		return nil
	}
	return e.all[i]
}

// get is find, for a bitmap whose content is to be trusted.
func (e *BitmapEdit) get(name string) (*editedBitmap, error) {
	b := e.find(name)
	switch {
	case b == nil:
		return nil, fmt.Errorf("there is no bitmap %q", name)
	case b.InUse:
		return nil, fmt.Errorf("the bitmap %q was not saved by the program that used it last: it can only be removed", name)
	}
	return b, nil
}

// EachDirty calls visit for the stretches of the disk that a bitmap says to have changed,
// in multiples of its granularity: the last one may reach beyond the end.
func (m *Image) EachDirty(name string, visit func(off, n int64)) error {
	e, err := m.openBitmaps()
	if err != nil {
		return err
	}
	b, err := e.get(name)
	if err != nil {
		return err
	}
	content, err := e.content(b)
	if err != nil {
		return err
	}
	eachDirty(content, b.Granularity, visit)
	return nil
}

// DefaultGranularity is what qemu-img gives bitmaps of such an image, in bytes.
func (m *Image) DefaultGranularity() int64 { return max(4096, m.cluster()) }

// Add makes a bitmap without a bit set, which writers keep up to date. granularity is a power
// of two, 512 … 2 GiB.
func (e *BitmapEdit) Add(name string, granularity int64) error {
	switch {
	case name == "" || len(name) > maxBitmapName || !utf8.ValidString(name):
		return fmt.Errorf("the name %q of a bitmap: want 1 … %d bytes of UTF-8", name, maxBitmapName)
	case e.find(name) != nil:
		return fmt.Errorf("there is a bitmap %q already", name)
	case len(e.all) == maxBitmaps:
		return fmt.Errorf("there are %d bitmaps already", maxBitmaps)
	case granularity < 1<<minGranularityBits || granularity > 1<<maxGranularityBits || bits.OnesCount64(uint64(granularity)) != 1:
		return fmt.Errorf("a granularity of %d bytes: want a power of two from 512 to 2 GiB", granularity)
	}
	b := &editedBitmap{Bitmap: Bitmap{Name: name, Granularity: granularity, Auto: true}}
	if err := e.fits(granularity); err != nil {
		return err
	}
	b.bits = make([]byte, e.bitmapLen(granularity))
	e.all = append(e.all, b)
	e.changed = true
	return nil
}

// fits refuses a bitmap that is too long for the format.
func (e *BitmapEdit) fits(granularity int64) error {
	if n := e.bitmapLen(granularity); roundUp(n, e.m.cluster()) > maxBitmapData {
		return fmt.Errorf("a bitmap of %d bytes with a granularity of %d: more than 512 MiB", n, granularity)
	}
	return nil
}

// Remove drops a bitmap.
func (e *BitmapEdit) Remove(name string) error {
	b := e.find(name)
	if b == nil {
		return fmt.Errorf("there is no bitmap %q", name)
	}
	e.all = slices.DeleteFunc(e.all, func(o *editedBitmap) bool { return o == b })
	e.removed = append(e.removed, b)
	e.changed = true
	return nil
}

// Clear takes all bits back.
func (e *BitmapEdit) Clear(name string) error {
	b, err := e.get(name)
	if err != nil {
		return err
	}
	b.bits = make([]byte, e.bitmapLen(b.Granularity))
	e.changed = true
	return nil
}

// Enable says whether writers keep a bitmap up to date.
func (e *BitmapEdit) Enable(name string, on bool) error {
	b, err := e.get(name)
	if err != nil {
		return err
	}
	e.changed = e.changed || b.Auto != on
	b.Auto = on
	return nil
}

// Merge sets in a bitmap all that is set in one of from, which may be the image itself,
// as it is in its file.
func (e *BitmapEdit) Merge(into string, from *Image, name string) error {
	b, err := e.get(into)
	if err != nil {
		return err
	}
	other, err := from.openBitmaps()
	if err != nil {
		return err
	}
	source, err := other.get(name)
	if err != nil {
		return err
	}
	content, err := other.content(source)
	if err != nil {
		return err
	}
	if err := e.load(b); err != nil {
		return err
	}
	eachDirty(content, source.Granularity, func(off, n int64) { setBits(b.bits, b.Granularity, off, min(n, e.size-off)) })
	e.changed = true
	return nil
}

// MarkDirty sets in all bitmaps that are enabled what says that a stretch of the disk
// was written to.
func (e *BitmapEdit) MarkDirty(off, n int64) error {
	for _, b := range e.all {
		if !b.Auto || b.InUse {
			continue
		}
		if err := e.load(b); err != nil {
			return err
		}
		setBits(b.bits, b.Granularity, off, min(n, e.size-off))
		e.changed = true
	}
	return nil
}

// load has the content of a bitmap in memory.
func (e *BitmapEdit) load(b *editedBitmap) (err error) {
	if b.bits == nil {
		b.bits, err = e.content(b)
	}
	return err
}

// bitmapLen is how many bytes the content of a bitmap has: 64-bit words, as QEMU saves it.
func (e *BitmapEdit) bitmapLen(granularity int64) int64 {
	n := (e.size + granularity - 1) / granularity
	return (n + 63) / 64 * 8
}

// content is that of a bitmap, new or in the file. One that is not as long as the disk wants
// it is QEMU's to refuse as well.
func (e *BitmapEdit) content(b *editedBitmap) ([]byte, error) {
	if b.bits != nil {
		return b.bits, nil
	}
	m := e.m
	out := make([]byte, e.bitmapLen(b.Granularity))
	if want := roundUp(int64(len(out)), m.cluster()) >> m.clusterBits; want != b.table.count {
		return nil, malformed(b.table.fieldOffset+offBitmapTableSize, "bitmap_table_size", fmt.Sprintf("%d, want %d for this disk", b.table.count, want))
	}
	entries := make([]byte, b.table.len())
	if err := readFull(m.f, entries, b.table.offset, "bitmap table"); err != nil {
		return nil, err
	}
	for i := range b.table.count {
		part := out[i<<m.clusterBits:]
		part = part[:min(int64(len(part)), m.cluster())]
		if err := m.bitmapCluster(part, binary.BigEndian.Uint64(entries[8*i:]), b.table.offset+8*i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (m *Image) bitmapCluster(part []byte, entry uint64, at int64) error {
	off := int64(entry & entryOffset)
	switch {
	case entry&bitmapEntryReserved != 0 || off != 0 && entry&bitmapEntryOnes != 0 || off&(m.cluster()-1) != 0:
		return malformed(at, "bitmap table entry", "makes no sense")
	case entry&bitmapEntryOnes != 0:
		for i := range part {
			part[i] = 0xff
		}
	case off != 0:
		return readFull(m.f, part, off, "bitmap data")
	}
	return nil
}

// setBits sets the bits for [off, off+n) of the disk; the lowest bit of a byte comes first.
func setBits(b []byte, granularity, off, n int64) {
	if n <= 0 {
		return
	}
	first, last := off/granularity, (off+n-1)/granularity
	for i := first; i <= last; {
		if i%8 == 0 && i+7 <= last {
			b[i/8] = 0xff
			i += 8
			continue
		}
		b[i/8] |= 1 << (i % 8)
		i++
	}
}

// eachDirty calls visit for the stretches of the disk whose bits are set.
func eachDirty(b []byte, granularity int64, visit func(off, n int64)) {
	start := int64(-1)
	end := int64(len(b)) * 8
	for i := int64(0); i <= end; i++ {
		set := i < end && b[i/8]>>(i%8)&1 != 0
		if i < end && i%8 == 0 && start < 0 && b[i/8] == 0 {
			i += 7
			continue
		}
		switch {
		case set && start < 0:
			start = i
		case !set && start >= 0:
			visit(start*granularity, (i-start)*granularity)
			start = -1
		}
	}
}

// CanKeepBitmaps tells whether KeepBitmaps could keep the bitmaps of this image, and take those
// of the others, while the disk gets so many bytes. The image may be changed then.
func (m *Image) CanKeepBitmaps(size int64, others []chain.Source) error {
	m.keeping = true
	e, err := m.openBitmaps()
	if err != nil {
		return err
	}
	if err := e.resize(size); err != nil {
		return err
	}
	return e.takeAll(others)
}

// KeepBitmaps marks as dirty, in all bitmaps that are enabled, what is about to be written,
// and brings in what is set in the bitmaps of the same name of the others, whose data this image
// gets. A bitmap that only another has is added. All of that is durable before anything is
// written: after a crash the bitmaps say too much, never too little.
func (m *Image) KeepBitmaps(dirty []chain.Piece, others []chain.Source) error {
	m.keeping = true
	return m.EditBitmaps(func(e *BitmapEdit) error {
		for _, p := range dirty {
			if err := e.MarkDirty(p.Offset, p.Length); err != nil {
				return err
			}
		}
		return e.takeAll(others)
	})
}

// takeAll merges all bitmaps of other images that can be trusted.
func (e *BitmapEdit) takeAll(others []chain.Source) error {
	for _, o := range others {
		from, ok := o.(*Image)
		if !ok || !from.h.HasBitmaps() {
			continue
		}
		list, err := ReadBitmaps(from.f, from.h)
		if err != nil {
			return err
		}
		for _, b := range list {
			if err := e.take(from, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *BitmapEdit) take(from *Image, b Bitmap) error {
	if b.InUse {
		return nil
	}
	switch mine := e.find(b.Name); {
	case mine == nil:
		if err := e.Add(b.Name, b.Granularity); err != nil {
			return err
		}
		if err := e.Enable(b.Name, b.Auto); err != nil {
			return err
		}
	case mine.InUse:
		return nil
	}
	return e.Merge(b.Name, from, b.Name)
}
