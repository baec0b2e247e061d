package filetree

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A Change is a file that is not the same in two trees.
type Change struct {
	Path string
	Old  *Entry   // nil where it was added
	New  *Entry   // nil where it was removed
	What []string // of one that is in both: type, content, mode, owner, target, times
}

// A Differ says how two trees are compared.
type Differ struct {
	Times    bool // another time of the last write is a change, too
	Contents bool // all files are read, also those whose size and times are the same

	Found  func(*Change) error
	Failed func(error)
}

// Diff compares what is at a path in two trees, in order of the names. Files of the same size
// that were last written to and changed at the same times are taken to be the same.
func (d *Differ) Diff(ctx context.Context, old, now *Tree, name string) error {
	a, errA := old.look(name)
	if errA == nil {
		defer a.Close()
	}
	b, errB := now.look(name)
	if errB == nil {
		defer b.Close()
	}
	isThere := func(err error) bool { return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) }
	switch {
	case errA != nil && (errB != nil || isThere(errA)):
		return errA
	case errB != nil && isThere(errB):
		return errB
	}
	c := &comparing{d, ctx, make([]byte, 256<<10), make([]byte, 256<<10)}
	return c.pair(a, b, 0)
}

type comparing struct {
	*Differ
	ctx  context.Context
	a, b []byte
}

// pair compares one file; one of the two may be nil.
func (c *comparing) pair(a, b *place, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	change, err := c.compare(a, b)
	if err != nil {
		c.Failed(err)
	}
	if change != nil {
		if err := c.Found(change); err != nil {
			return err
		}
	}
	return c.below(directory(a), directory(b), depth)
}

// directory is p, or nil where it is none.
func directory(p *place) *place {
	if p != nil && p.IsDir() {
		return p
	}
	return nil
}

// below compares what is in directories; nil is none.
func (c *comparing) below(a, b *place, depth int) error {
	p := a
	if p == nil {
		p = b
	}
	if p == nil {
		return nil
	}
	if depth >= maxDepth {
		c.Failed(&fs.PathError{Op: "read", Path: p.Path, Err: errTooDeep})
		return nil
	}
	return c.dirs(a, b, depth)
}

// compare tells what is different; nil for nothing.
func (c *comparing) compare(a, b *place) (*Change, error) {
	switch {
	case a == nil:
		return &Change{Path: b.Path, New: &b.Entry}, nil
	case b == nil:
		return &Change{Path: a.Path, Old: &a.Entry}, nil
	}
	x := &Change{Path: a.Path, Old: &a.Entry, New: &b.Entry}
	add := func(different bool, what string) {
		if different {
			x.What = append(x.What, what)
		}
	}
	if a.Mode.Type() != b.Mode.Type() {
		x.What = []string{"type"}
		return x, nil
	}
	add(a.Link != b.Link, "target")
	add(a.device != b.device && a.Mode&fs.ModeDevice != 0, "device")
	differ, err := c.content(a, b)
	add(differ, "content")
	add(a.Mode&^fs.ModeType != b.Mode&^fs.ModeType, "mode")
	add(a.UID != b.UID || a.GID != b.GID, "owner")
	add(c.Times && !a.Time.Equal(b.Time), "times")
	if len(x.What) == 0 {
		return nil, err
	}
	return x, err
}

// content tells whether two regular files differ in what is in them.
func (c *comparing) content(a, b *place) (bool, error) {
	switch {
	case !a.Mode.IsRegular() || !b.Mode.IsRegular():
		return false, nil
	case a.Size != b.Size:
		return true, nil
	case !c.Contents && a.Time.Equal(b.Time) && a.changed == b.changed:
		return false, nil
	}
	f, err := a.openRegular()
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := b.openRegular()
	if err != nil {
		return false, err
	}
	defer g.Close()
	return c.read(f, g)
}

func (c *comparing) read(f, g *os.File) (bool, error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		n, errF := io.ReadFull(f, c.a)
		m, errG := io.ReadFull(g, c.b)
		if !bytes.Equal(c.a[:n], c.b[:m]) {
			return true, nil
		}
		for _, err := range []error{errF, errG} {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
		}
	}
}

// dirs compares what is in two directories, one of which may be nil. One that cannot be read
// is told, and nothing is said of what is in the other.
func (c *comparing) dirs(a, b *place, depth int) error {
	x, y := list(a), list(b)
	defer x.Close()
	defer y.Close()
	if err := errors.Join(x.err, y.err); err != nil {
		c.Failed(err)
		return nil
	}
	all := slices.Concat(x.names, y.names)
	slices.Sort(all)
	for _, name := range slices.Compact(all) {
		p, q := c.at(x, name), c.at(y, name)
		if p == nil && q == nil {
			continue
		}
		if err := c.pair(p, q, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A listing is an open directory with its names.
type listing struct {
	*os.File // nil where there is none
	path     string
	names    []string // in order
	err      error    // it could not be read
}

func (l *listing) Close() {
	if l.File != nil {
		l.File.Close()
	}
}

// list opens a directory and reads its names; nil has none.
func list(p *place) *listing {
	if p == nil {
		return &listing{}
	}
	dir, err := p.openDir()
	if err != nil {
		return &listing{err: err}
	}
	l := &listing{File: dir, path: p.Path}
	if l.names, err = sortedNames(dir); err != nil {
		l.err = &fs.PathError{Op: "read", Path: p.Path, Err: err}
	}
	return l
}

// at is the file of that name, or nil.
func (c *comparing) at(l *listing, name string) *place {
	if _, there := slices.BinarySearch(l.names, name); !there {
		return nil
	}
	e, err := stat(l.File, name, join(l.path, name))
	if err != nil {
		c.Failed(err)
		return nil
	}
	return &place{e, l.File, name}
}
