package vfstest

import (
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// inode is one file, whatever its names. Its Mem's mu guards it.
type inode struct {
	ino   uint64
	mode  fs.FileMode
	mtime time.Time
	locks map[*file]vfs.LockMode

	live, disk content
	// What live has and disk has not. Both are oldest first.
	unsynced map[int64][]version // by page
	sizes    []resize
	seq      int // of the newest version or resize
	synced   int // seq at the last Sync: the length is durable since then
}

// version is a page as one change left it.
type version struct {
	page    *page // nil is zeros
	touched uint8 // sectors, one bit each
	seq     int
	size    int64 // length right after a write, 0 after what needs none
	cut     bool  // by Truncate: happens together with the resize of that seq
	lost    bool  // a Sync failed: no later one writes it
}

// resize is a change of the length.
type resize struct {
	seq  int
	size int64
}

func newInode(ino uint64, mode fs.FileMode) *inode {
	return &inode{
		ino: ino, mode: mode, mtime: time.Unix(0, 0).UTC(),
		locks: map[*file]vfs.LockMode{}, unsynced: map[int64][]version{},
		live: content{pages: map[int64]*page{}}, disk: content{pages: map[int64]*page{}},
	}
}

// put replaces page n of live; nil makes it a hole.
func (i *inode) put(n int64, p *page, v version) {
	v.page = p
	i.unsynced[n] = append(i.unsynced[n], v)
	if p == nil {
		delete(i.live.pages, n)
	} else {
		i.live.pages[n] = p
	}
}

// write returns how many bytes fit when free pages can be allocated.
func (i *inode) write(b []byte, off, free int64) int {
	done := 0
	for done < len(b) {
		at := off + int64(done)
		n, in := at/pageSize, at%pageSize
		if _, ok := i.live.pages[n]; !ok {
			if free == 0 {
				break
			}
			free--
		}
		p := i.live.copyOf(n)
		wrote := copy(p[in:], b[done:])
		done += wrote
		end := at + int64(wrote)
		i.resize(max(i.live.size, end))
		i.seq++
		i.put(n, p, version{touched: sectorsOf(n, at, end), seq: i.seq, size: i.live.size})
	}
	return done
}

// punch zeroes [off, end); whole pages become holes.
func (i *inode) punch(off, end int64) {
	i.seq++
	for _, n := range i.live.within(off, end) {
		i.zeroPage(n, off, end, version{seq: i.seq})
	}
}

// zeroPage zeroes what [off, end) covers of page n.
func (i *inode) zeroPage(n, off, end int64, v version) {
	was := i.live.pages[n]
	v.touched = sectorsOf(n, off, end)
	from, to := max(off-n*pageSize, 0), min(end-n*pageSize, pageSize)
	whole := from == 0 && to == pageSize
	switch {
	case was != nil && !whole:
		p := i.live.copyOf(n)
		clear(p[from:to])
		i.put(n, p, v)
	case was != nil || v.cut:
		i.put(n, nil, v)
	case whole: // kept by Reserve
		delete(i.live.pages, n)
	}
}

// truncate cuts pages that were punched before as well: after it none of their
// older versions may come back.
func (i *inode) truncate(size int64) {
	shrinks := size < i.live.size
	i.resize(size)
	if !shrinks {
		return
	}
	pages := i.live.within(size, math.MaxInt64)
	for n := range i.unsynced {
		if (n+1)*pageSize > size && !slices.Contains(pages, n) {
			pages = append(pages, n)
		}
	}
	for _, n := range pages {
		i.zeroPage(n, size, math.MaxInt64, version{seq: i.seq, cut: true})
	}
}

func (i *inode) resize(size int64) {
	if size != i.live.size {
		i.seq++
		i.live.size = size
		i.sizes = append(i.sizes, resize{i.seq, size})
	}
}

// reserve allocates pages for [off, end), or none when they are more than free.
func (i *inode) reserve(off, end, free int64) bool {
	var missing []int64
	for n := off / pageSize; n*pageSize < end; n++ {
		if _, ok := i.live.pages[n]; !ok {
			missing = append(missing, n)
		}
	}
	if int64(len(missing)) > free {
		return false
	}
	for _, n := range missing {
		i.live.pages[n] = nil
	}
	return true
}

// copyFrom copies n bytes of src at from to off, holes as holes, and returns
// how many fit. room is asked for free pages again and again.
func (i *inode) copyFrom(src content, from, off, n int64, room func() int64) int64 {
	if n == 0 {
		return 0
	}
	done := int64(0)
	for _, p := range src.within(from, min(from+n, src.size)) {
		if src.pages[p] == nil {
			continue
		}
		start := max(p*pageSize, from)
		b := make([]byte, min((p+1)*pageSize, from+n, src.size)-start)
		src.read(b, start)
		i.punch(off+done, off+start-from)
		wrote := i.write(b, off+start-from, room())
		done = start - from + int64(wrote)
		if wrote < len(b) {
			return done
		}
	}
	i.punch(off+done, off+n)
	i.resize(max(i.live.size, off+n))
	return n
}
