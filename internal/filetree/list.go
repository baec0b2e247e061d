package filetree

import (
	"context"
	"io/fs"
	"os"
)

// Walk calls found with what is at a path, and, where that is a directory, with what is in it,
// in order of the names; with all that is below where it is recursive. A link at the path
// itself is followed if it leads to a directory. What cannot be read is told to failed, and
// left out.
func (t *Tree) Walk(ctx context.Context, name string, recursive bool, found func(*Entry) error, failed func(error)) error {
	p, err := t.look(name)
	if err != nil {
		return err
	}
	defer p.Close()
	if !p.IsDir() {
		return found(&p.Entry)
	}
	w := walker{ctx, recursive, found, failed}
	return w.dir(p, 0)
}

// look finds what is at a path: a directory that a link leads to, or else the link.
func (t *Tree) look(name string) (*place, error) {
	p, err := t.find(name, true)
	if err == nil && p.IsDir() {
		return p, nil
	}
	if err == nil {
		p.Close()
	}
	return t.find(name, false)
}

type walker struct {
	ctx       context.Context
	recursive bool
	found     func(*Entry) error
	failed    func(error)
}

// dir walks through one directory.
func (w *walker) dir(p *place, depth int) error {
	dir, err := p.openDir()
	if err != nil {
		w.failed(err)
		return nil
	}
	defer dir.Close()
	all, err := sortedNames(dir)
	if err != nil {
		w.failed(&fs.PathError{Op: "read", Path: p.Path, Err: err})
	}
	for _, name := range all {
		if err := w.one(dir, join(p.Path, name), name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) one(dir *os.File, as, name string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	e, err := stat(dir, name, as)
	if err != nil {
		w.failed(err)
		return nil
	}
	if err := w.found(&e); err != nil || !w.recursive || !e.IsDir() {
		return err
	}
	if depth+1 >= maxDepth {
		w.failed(&fs.PathError{Op: "read", Path: as, Err: errTooDeep})
		return nil
	}
	return w.dir(&place{e, dir, name}, depth+1)
}
