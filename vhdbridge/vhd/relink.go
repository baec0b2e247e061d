package vhd

import (
	"bytes"
	"fmt"
	"time"
)

// settle carries out what a crash has left: a record that is durable, the footer
// at the end, its copy.
func (i *Image) settle() error {
	if err := i.m.usable(); err != nil {
		return err
	}
	if i.m.pending != nil {
		if err := i.finish(i.m.pending); err != nil {
			return err
		}
		if err := i.reload(); err != nil {
			return err
		}
	}
	if i.m.torn || i.m.end != endValid {
		if err := i.restoreEnd(); err != nil {
			return err
		}
	}
	if i.m.agrees() {
		return nil
	}
	b := i.m.foot.encode()
	if _, err := i.f.WriteAt(b[:], 0); err != nil {
		return err
	}
	i.m.copy, i.m.copied = i.m.foot, true
	return i.f.Sync()
}

// restoreEnd writes the end footer, and cuts off what is behind it.
func (i *Image) restoreEnd() error {
	at := i.m.size - footerLen
	if !i.device && (i.m.end != endValid || !i.m.torn) {
		at = roundUp(i.end, sectorSize)
	}
	b := i.m.foot.encode()
	if _, err := i.f.WriteAt(b[:], at); err != nil {
		return err
	}
	if !i.device {
		if err := i.f.Truncate(at + footerLen); err != nil {
			return err
		}
	}
	i.m.size, i.m.end, i.m.torn = at+footerLen, endValid, false
	return i.f.Sync()
}

func (i *Image) finish(c *record) error {
	if i.device {
		return c.finishDevice(i.f)
	}
	return c.finish(i.f)
}

// reload reads everything anew.
func (i *Image) reload() error {
	info, err := i.f.Stat()
	if err != nil {
		return err
	}
	m, err := load(i.f, info.Size)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return i.take(m)
}

// current is the metadata as it is.
func (i *Image) current() (*layout, error) {
	l := &layout{foot: i.m.foot, head: i.m.head, bat: i.bat}
	for _, loc := range i.m.head.locators {
		if i.m.foot.kind != Differencing || loc.code == codeNone {
			continue
		}
		b := make([]byte, min(loc.length, maxLocatorBytes))
		if err := readFull(i.m.r, b, loc.offset, "parent locator"); err != nil {
			return nil, err
		}
		l.names = append(l.names, parentName{loc.code, b})
	}
	return l, i.currentBatmap(l)
}

// currentBatmap takes over header and bits, or makes the bits anew.
func (i *Image) currentBatmap(l *layout) (err error) {
	if i.m.batmap.at == 0 {
		return nil
	}
	l.batmap, l.version = make([]byte, sectorSize), min(i.m.batmap.version, batmapVersion)
	if err := readFull(i.m.r, l.batmap, i.m.batmap.at, "batmap header"); err != nil {
		return err
	}
	if l.bits = i.w.bits; l.bits != nil {
		return nil
	}
	if i.m.batmap.wrong != "" {
		l.bits, err = i.fullBlocks(max(sectorSize, batmapBytes(int64(i.m.head.entries))))
		return err
	}
	if l.bits, err = i.m.readBatmap(); err == nil && i.m.batmap.sum(l.bits) != i.m.batmap.checksum {
		l.bits, err = i.fullBlocks(i.m.batmap.bytes)
	}
	return err
}

// rewrite changes the metadata, all at once. Nothing may be placed that is not
// flushed. Blocks where the metadata is to be are moved to the end of the file
// before.
func (i *Image) rewrite(change func(*layout)) error {
	l, err := i.current()
	if err != nil {
		return err
	}
	change(l)
	l.place()
	if err := i.clear(l.end); err != nil {
		return err
	}
	l.bat = fresh(i.bat, l.head.entries)
	c := &record{oldSize: i.m.size, newSize: max(i.m.size, roundUp(l.end, sectorSize)+footerLen), end: l.foot.encode()}
	if c.patches, err = i.differing(l.bytes()); err != nil {
		return err
	}
	if err := i.carryOut(c, max(i.end, l.end)); err != nil {
		return err
	}
	if i.w.bits != nil {
		i.w.bits = l.bits
	}
	return i.reload()
}

// rewriteFooter changes what only the footers say. All else stays where it is,
// also in files of other programs.
func (i *Image) rewriteFooter(change func(*footer)) error {
	foot := i.m.foot
	change(&foot)
	c := &record{oldSize: i.m.size, newSize: i.m.size, end: foot.encode()}
	c.patches = []patch{{0, c.end[:]}}
	if err := i.carryOut(c, i.end); err != nil {
		return err
	}
	return i.reload()
}

func (i *Image) carryOut(c *record, free int64) error {
	if !i.device {
		if err := c.begin(i.f, i.m.foot); err != nil {
			return err
		}
		return c.finish(i.f)
	}
	if c.newSize != c.oldSize {
		return fmt.Errorf("the device has %d bytes, and %d are needed: %w", c.oldSize, c.newSize, errNoRoom)
	}
	if err := c.beginDevice(i.f, i.m.foot, free); err != nil {
		return err
	}
	return c.finishDevice(i.f)
}

// differing returns the sectors of the file's beginning that are not as in b.
func (i *Image) differing(b []byte) (patches []patch, err error) {
	have := make([]byte, len(b))
	known := min(int64(len(b)), i.m.size)
	if err := readFull(i.m.r, have[:known], 0, "metadata"); err != nil {
		return nil, err
	}
	for off := 0; off < len(b); off += sectorSize {
		next := b[off : off+sectorSize]
		if int64(off) < known && bytes.Equal(next, have[off:off+sectorSize]) {
			continue
		}
		if k := len(patches) - 1; k >= 0 && patches[k].off+int64(len(patches[k].data)) == int64(off) {
			patches[k].data = append(patches[k].data, next...)
		} else {
			patches = append(patches, patch{int64(off), append([]byte(nil), next...)})
		}
	}
	return patches, nil
}

// clear moves the blocks that begin before end to the end of the file.
func (i *Image) clear(end int64) error {
	var moved, from []int64
	next := max(i.end, end)
	disk := i.m.head.blocks(i.size)
	length := i.m.head.bitmapBytes() + i.m.head.blockSize
	bat := append([]uint32(nil), i.bat...)
	for n, e := range i.bat {
		at := int64(e) * sectorSize
		if e == unused || at >= end {
			continue
		}
		moved, from = append(moved, int64(n)), append(from, at)
		if bat[n] = unused; int64(n) < disk {
			to, err := i.nextBlock(&next)
			if err != nil {
				return err
			}
			bat[n] = uint32(to / sectorSize)
		}
	}
	if len(moved) == 0 {
		return nil
	}
	if err := i.room(nil, nil, next, false); err != nil {
		return err
	}
	for k, n := range moved {
		if bat[n] == unused {
			continue
		}
		if _, err := i.f.Copy(int64(bat[n])*sectorSize, i.f, from[k], length); err != nil {
			return err
		}
	}
	if err := i.f.Sync(); err != nil {
		return err
	}
	i.bat = bat
	clear(i.bitmaps)
	if err := i.writeEntries(moved); err != nil {
		return err
	}
	return i.f.Sync()
}

// SetParent lets the image build on another parent: a path relative to its
// directory or absolute, its format (vhd or raw) and, of a VHD, its ID. No name
// makes it a dynamic disk of its own. Durable and at once: a crash leaves the old
// parent or the new one. The image need not be prepared, and may be encrypted.
func (i *Image) SetParent(name, format, id string) error {
	names, uuid, err := i.parent(name, format, id)
	if err != nil {
		return err
	}
	if err := i.start(); err != nil {
		return err
	}
	stamp := stampOf(time.Time{})
	return i.fail(i.rewrite(func(l *layout) { l.setParent(names, name, uuid, stamp) }))
}

func (i *Image) parent(name, format, id string) ([]parentName, UUID, error) {
	if name == "" {
		return nil, UUID{}, nil
	}
	return parentOf(i.f.Path(), name, format, id)
}

// CheckParent tells whether SetParent would refuse that.
func (i *Image) CheckParent(name, format, id string) error {
	_, _, err := i.parent(name, format, id)
	return err
}

// SetBacking is SetParent without an ID: enough for raw parents and for none.
func (i *Image) SetBacking(name, format string) error { return i.SetParent(name, format, "") }

// SetHidden sets XenServer's flag of images whose own content nobody needs, in both
// footers, durably and at once.
func (i *Image) SetHidden(yes bool) error {
	if err := i.start(); err != nil {
		return err
	}
	return i.fail(i.rewriteFooter(func(f *footer) { f.setHidden(yes) }))
}
