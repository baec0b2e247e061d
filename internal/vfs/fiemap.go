package vfs

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FIEMAP of Linux tells where the data of a file lies on its device: see the kernel's
// Documentation/filesystems/fiemap.rst.

// A place is a stretch of a file and where it lies. Bytes.
type place struct{ logical, physical, length int64 }

const (
	fiemapIoctl = 0xC020660B // _IOWR('f', 11, struct fiemap)
	fiemapSync  = 1          // FIEMAP_FLAG_SYNC
	fiemapLast  = 1          // FIEMAP_EXTENT_LAST
	// fiemapVague are the flags of extents whose place is not told, or means something
	// else than the bytes: UNKNOWN, DELALLOC, ENCODED, ENCRYPTED, NOT_ALIGNED, INLINE,
	// TAIL, UNWRITTEN.
	fiemapVague = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length           uint64
	flags, mapped, count, _ uint32
	extents                 [256]fiemapExtent
}

// A Sharer can tell what its file shares with another one.
type Sharer interface {
	// Shares returns of how many bytes from off on it is certain that they are the same
	// on the device as those of other from at on: 0 where that cannot be told. What is
	// in both files must not change meanwhile, nor later: it is looked at once.
	Shares(off int64, other File, at, n int64) int64
}

// Shares tells how much of the two files is one extent.
func (f *osFile) Shares(off int64, other File, at, n int64) int64 {
	g, ok := other.(*osFile)
	if !ok || f.dev != g.dev || f.block || g.block {
		return 0
	}
	a, b := f.placeOf(off), g.placeOf(at)
	if a.length == 0 || b.length == 0 || a.physical != b.physical {
		return 0
	}
	return min(a.length, b.length, n)
}

// placeOf returns the rest of the extent at off, from there on; of length 0 where
// nothing certain is known.
func (f *osFile) placeOf(off int64) place {
	f.lookOnce.Do(func() { f.places = f.look() })
	i, _ := slices.BinarySearchFunc(f.places, off, func(p place, off int64) int {
		if p.logical+p.length <= off {
			return -1
		}
		return 1
	})
	if i == len(f.places) || f.places[i].logical > off {
		return place{}
	}
	p := f.places[i]
	in := off - p.logical
	return place{off, p.physical + in, p.length - in}
}

// look lists the extents of the file whose places are certain.
func (f *osFile) look() []place {
	var found []place
	m := new(fiemap)
	for start := uint64(0); ; {
		*m = fiemap{start: start, length: ^uint64(0) - start, flags: fiemapSync, count: uint32(len(m.extents))}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd()), fiemapIoctl, uintptr(unsafe.Pointer(m))); errno != 0 || m.mapped == 0 { //nolint:gosec // the ioctl wants its address
			return found
		}
		for _, e := range m.extents[:m.mapped] {
			if e.flags&fiemapVague == 0 {
				found = append(found, place{int64(e.logical), int64(e.physical), int64(e.length)})
			}
			if e.flags&fiemapLast != 0 {
				return found
			}
			start = e.logical + e.length
		}
	}
}
