package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"strings"
)

// An Entry is a name in a directory, and what it is: the type bits of a mode.
type Entry struct {
	Name string
	Type fs.FileMode
}

// A Listing is what a directory holds, sorted by name.
type Listing struct {
	FS      uint64 // st_dev of the directory
	Entries []Entry
	More    bool // there is more than was asked for
}

// ErrOtherFS says that a directory is on another file system than it was to be.
var ErrOtherFS = errors.New("on another file system")

// A Lister lists directories. Every FS is one.
type Lister interface {
	// List lists dir, most entries at most. With on, a file system (st_dev), dir must be a
	// directory there, and is else ErrOtherFS or a *KindError; nothing is mounted on the
	// way. With on 0 it may be anywhere, and a symbolic link to it is followed.
	List(dir string, on uint64, most int) (Listing, error)
}

// Records is the name of the directory in which virt-rotate keeps what hosts of a storage tell each
// other: no image is in there.
const Records = ".virt-rotate"

// Limits bound a walk, so that it ends wherever it is sent.
type Limits struct {
	Entries int // in all directories together
	Depth   int // levels of directories below the first
	// Skip, if not nil, names directories that are not looked into.
	Skip func(dir string) bool
}

// ScanLimits are those of a search for images.
func ScanLimits() Limits { return Limits{Entries: 200_000, Depth: 32} }

// HoldsDevices tells whether a directory is one of device nodes, and so no place for images.
func HoldsDevices(dir string) bool {
	below := func(top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }
	return below("/dev") && !below("/dev/shm")
}

// BoundError says that there is more below a directory than is looked at.
type BoundError struct {
	Dir    string
	Reason string
}

func (e *BoundError) Error() string { return e.Dir + ": " + e.Reason }

// A Found is what a walk comes by: a regular file, a block device or a symbolic link,
// which may lead anywhere.
type Found struct {
	Path string
	Type fs.FileMode // as in Entry
}

// Below goes through dir and all directories below it on the same file system (what is
// mounted there is another one), in the order of names: the files of a directory come
// before its subdirectories. A directory called Records is left out. Symbolic links to directories are not followed, but for dir.
//
// A directory that cannot be read is an error that names it, and the walk goes on; one
// below dir that goes away meanwhile is nothing. A *BoundError is the last.
func Below(l Lister, dir string, limits Limits) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		w := &walk{Lister: l, limits: limits, top: dir, yield: yield}
		w.directory(dir, 0)
	}
}

// A walk is one call of Below. Its methods return false when it is over.
type walk struct {
	Lister
	limits Limits
	top    string
	on     uint64 // the file system of top
	seen   int    // entries
	yield  func(Found, error) bool
}

func (w *walk) directory(dir string, depth int) bool {
	list, err := w.List(dir, w.on, w.limits.Entries-w.seen)
	if err != nil {
		return w.failed(dir, err)
	}
	w.on = list.FS
	w.seen += len(list.Entries)
	if !w.files(dir, list.Entries) {
		return false
	}
	if list.More {
		return w.bound("there are more than %d files in it and below it", w.limits.Entries)
	}
	return w.subdirectories(dir, list.Entries, depth+1)
}

// files yields the files of dir.
func (w *walk) files(dir string, entries []Entry) bool {
	for _, e := range entries {
		if (e.Type == 0 || e.Type == fs.ModeDevice || e.Type == fs.ModeSymlink) &&
			!w.yield(Found{filepath.Join(dir, e.Name), e.Type}, nil) {
			return false
		}
	}
	return true
}

func (w *walk) subdirectories(dir string, entries []Entry, depth int) bool {
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		switch {
		case e.Type != fs.ModeDir, e.Name == Records, w.limits.Skip != nil && w.limits.Skip(path):
		case depth > w.limits.Depth:
			return w.bound("there are more than %d levels of directories below it", w.limits.Depth)
		case !w.directory(path, depth):
			return false
		}
	}
	return true
}

// failed tells of a directory that could not be read.
func (w *walk) failed(dir string, err error) bool {
	var kind *KindError
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrOtherFS) || errors.As(err, &kind)
	if gone && dir != w.top {
		return true
	}
	return w.yield(Found{Path: dir, Type: fs.ModeDir}, err)
}

func (w *walk) bound(format string, args ...any) bool {
	w.yield(Found{Path: w.top, Type: fs.ModeDir}, &BoundError{w.top, fmt.Sprintf(format, args...)})
	return false
}
