package convert

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// What was planned is carried out in three steps: Begin, Naming and Done. The record says before each what
// comes, so that a run which is broken off anywhere goes on.

// Begin gives images their names, and takes them from those that are written into. What follows
// is for Naming, and Done.
func (a *Again) Begin(all []*Conversion) error {
	if err := a.move(); err != nil {
		return err
	}
	var renewed []*Conversion
	for _, c := range all {
		if c.Renew != nil && c.Err == nil {
			renewed = append(renewed, c)
		}
	}
	if err := a.setAside(renewed); err != nil {
		return err
	}
	for _, c := range renewed {
		if err := a.findChain(c); err != nil {
			return err
		}
	}
	return nil
}

// findChain finds an image that is written into, and what it builds on. Of that, layers without
// data may not be there yet.
func (a *Again) findChain(c *Conversion) error {
	c.fs = a.Store.FS
	path, below := a.Record.aside(filepath.Base(c.Path)), []chain.Node{}
	if !a.Exact {
		nodes, err := a.Store.Chain(path, c.Format.Name)
		if err != nil {
			return err
		}
		c.Renew.Below, c.Renew.Image = nodes[:len(nodes)-1], nodes[len(nodes)-1]
		return nil
	}
	for on := c.On; on != nil; on = on.On {
		if a.Record.Images[filepath.Base(on.Path)] == nil {
			continue
		}
		n, err := a.Store.Node(on.Path, on.Format.Name)
		if err != nil {
			return err
		}
		below = append(below, n)
	}
	slices.Reverse(below)
	n, err := a.Store.Node(path, c.Format.Name)
	c.Renew.Below, c.Renew.Image = below, n
	return err
}

// setAside notes that images are not finished, and renames them. Nobody may have one open.
func (a *Again) setAside(all []*Conversion) error {
	var names []string
	for _, c := range all {
		a.Record.Images[filepath.Base(c.Path)].Unfinished = true
		if a.old[c].at == there {
			names = append(names, filepath.Base(c.Path))
		}
	}
	if err := a.moveAside(names); err != nil {
		return err
	}
	for _, c := range all {
		o := a.old[c]
		o.at = aside
		a.old[c] = o
	}
	return nil
}

// moveAside renames images, when all of them are locked and the record says so.
func (a *Again) moveAside(names []string) (err error) {
	var held []vfs.File
	defer func() {
		for _, f := range held {
			err = errors.Join(err, f.Close())
		}
	}()
	from := map[string]string{}
	for _, name := range names {
		path, err := a.Record.now(name)
		if err != nil {
			return err
		}
		n, err := a.Store.Node(path, strings.TrimPrefix(filepath.Ext(name), "."))
		if err != nil {
			return err
		}
		f, err := a.Store.Hold(n, true)
		if err != nil {
			return err
		}
		held, from[name] = append(held, f), path
	}
	if err := a.Record.save(); err != nil {
		return err
	}
	for _, name := range names {
		if from[name] == a.Record.aside(name) {
			continue
		}
		if err := named(a.Store.FS, from[name], a.Record.aside(name)); err != nil {
			return err
		}
	}
	return nil
}

// dropObsolete takes the names from layers that will not be right any more, and are needed by
// nothing; Done removes them.
func (a *Again) dropObsolete() error {
	for _, name := range a.obsolete {
		a.Record.Images[name].Unfinished = true
	}
	return a.moveAside(a.obsolete)
}

// Naming is a Converter's: it notes how each image is, and makes way for those that take the
// place of another. What builds on such a one, and could not be made anew, loses its name.
func (a *Again) Naming(all, sound []*Conversion) error {
	var replaced []*Conversion
	for _, c := range all {
		o, known := a.old[c]
		if !known || o.kept || o.at == gone || c.Renew != nil {
			continue
		}
		if c.Err == nil || slices.Contains(replaced, c.On) {
			replaced = append(replaced, c)
		}
	}
	if err := errors.Join(a.setAside(replaced), a.dropObsolete()); err != nil {
		return err
	}
	for _, c := range sound {
		if err := a.note(c); err != nil {
			return err
		}
	}
	return a.Record.save()
}

// note notes what an image will be when it has its name.
func (a *Again) note(c *Conversion) error {
	path := ""
	if c.Renew != nil {
		path = c.Renew.Image.Path
	} else {
		path = c.Made.path
	}
	next, err := a.Record.aged(path)
	if err != nil {
		return err
	}
	name := filepath.Base(c.Path)
	e := a.Record.Images[name]
	if e == nil {
		e = &Entry{}
		a.Record.Images[name] = e
	}
	s := a.Sources[c]
	node, err := json.Marshal(s.Node)
	if err != nil {
		return err
	}
	was := e.File
	*e = Entry{From: s.From, Node: node, Hidden: s.Hidden, Sources: s.Sum, View: s.View, Backing: c.New.Backing, Size: c.New.Size, File: was, Unfinished: true, Next: next}
	return nil
}

// aged is the file at path, which is given a time that lies back: a later write within the
// same tick of the clock would not be seen otherwise.
func (r *Record) aged(path string) (FileID, error) {
	at := time.Now().Add(-2 * vfs.Racy).Truncate(time.Second)
	if err := vfs.SetTimeOn(r.fs, path, at); err != nil {
		return FileID{}, err
	}
	return r.fileAt(path)
}

// Done notes that all images have their names, and removes those that had been in their
// place.
func (a *Again) Done(all []*Conversion) error {
	for _, c := range all {
		if e := a.Record.Images[filepath.Base(c.Path)]; e != nil && c.Err == nil && e.Next != (FileID{}) {
			e.File, e.Next, e.Unfinished = e.Next, FileID{}, false
		}
	}
	for name, e := range a.Record.Images { // what a run that was broken off has begun to drop as well
		used := slices.ContainsFunc(all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
		idle := a.Whole && e.Hidden || slices.Contains(a.Removed(), name)
		if idle && e.Unfinished && !used && e.Next == (FileID{}) {
			a.Record.Litter[name] = e.File.ID.Ino
			delete(a.Record.Images, name)
		}
	}
	for _, c := range all {
		if a.old[c].at == aside && c.Renew == nil && c.Err == nil {
			a.Record.Litter[filepath.Base(c.Path)] = a.old[c].file.ID.Ino
		}
	}
	if err := a.Record.save(); err != nil {
		return err
	}
	return a.Record.sweep()
}
