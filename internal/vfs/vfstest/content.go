package vfstest

import (
	"maps"
	"slices"
)

const (
	pageSize   = 4096 // what is allocated at once
	sectorSize = 512  // what survives or not
	sectors    = pageSize / sectorSize
)

// A page is never changed once it is in a content.
type page [pageSize]byte

// content is the bytes of a file. Pages that are missing are holes; nil is room
// that Reserve has kept. All is zero at size and beyond.
type content struct {
	size  int64
	pages map[int64]*page
}

func (c *content) clone() content {
	return content{c.size, maps.Clone(c.pages)}
}

// copyOf returns a copy of page n to be changed.
func (c *content) copyOf(n int64) *page {
	if p := c.pages[n]; p != nil {
		q := *p
		return &q
	}
	return new(page)
}

// read fills b, with zeros beyond the end.
func (c *content) read(b []byte, off int64) {
	for len(b) > 0 {
		in := off % pageSize
		n := min(int64(len(b)), pageSize-in)
		if p := c.pages[off/pageSize]; p != nil {
			copy(b[:n], p[in:])
		} else {
			clear(b[:n])
		}
		b, off = b[n:], off+n
	}
}

// nextData is vfs.File.NextData; data is whole pages.
func (c *content) nextData(off int64) (start, end int64) {
	first := int64(-1)
	for n, p := range c.pages {
		if p != nil && n >= off/pageSize && (first < 0 || n < first) {
			first = n
		}
	}
	if first < 0 || off >= c.size {
		return c.size, c.size
	}
	last := first
	for c.pages[last] != nil {
		last++
	}
	return max(off, first*pageSize), min(last*pageSize, c.size)
}

// within lists the pages that [off, end) touches, sorted.
func (c *content) within(off, end int64) []int64 {
	if end <= off {
		return nil
	}
	var all []int64
	if first, last := off/pageSize, (end-1)/pageSize; last-first < int64(len(c.pages)) {
		for n := first; n <= last; n++ {
			if _, ok := c.pages[n]; ok {
				all = append(all, n)
			}
		}
		return all
	}
	for n := range c.pages {
		if n*pageSize < end && (n+1)*pageSize > off {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// trim makes all beyond the size zeros.
func (c *content) trim() {
	for n := range c.pages {
		if n*pageSize >= c.size {
			delete(c.pages, n)
		}
	}
	if last := c.size / pageSize; c.pages[last] != nil {
		p := c.copyOf(last)
		clear(p[c.size%pageSize:])
		c.pages[last] = p
	}
}

// setSector replaces sector s by that of from; nil is zeros.
func (p *page) setSector(s int, from *page) {
	sector := p[s*sectorSize : (s+1)*sectorSize]
	if from == nil {
		clear(sector)
	} else {
		copy(sector, from[s*sectorSize:])
	}
}

// sectorsOf returns the sectors of page n that [off, end) touches, one bit each.
func sectorsOf(n, off, end int64) uint8 {
	from := max(off-n*pageSize, 0) / sectorSize
	to := (min(end-n*pageSize, pageSize) + sectorSize - 1) / sectorSize
	return uint8(1<<to - 1<<from)
}
