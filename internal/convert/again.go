package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// An Again is a conversion into a directory of which it is known what its images were made
// of: what has not changed since is left as it is.
//
// An image that is not what it should be has no name that somebody would take it by: it is
// called ….unfinished before the first byte of it is changed, and so is one below which another
// image takes its place. The record says so before, and what each will be before it gets its
// name back. So at a crash there is the old image, the new one, or one that is unfinished.
type Again struct {
	Store  *chain.Store
	Record *Record
	// Sources are what images are made of now, by conversion.
	Sources map[*Conversion]Source

	old map[*Conversion]old
}

// A Source is what an image is made of.
type Source struct {
	From string // path of the node
	Node any    // as it is, for people
	Sum  string // of all; "": unlike anything
}

// old is what is there already of a conversion.
type old struct {
	at   place
	kept bool // it needs nothing
	file FileID
}

// Plan finds out what needs nothing, and what is written into an image that is there. The
// conversions are in the order of chains, bases first. Nothing is changed.
func (a *Again) Plan(all []*Conversion) error {
	a.old = map[*Conversion]old{}
	for _, c := range all {
		if c.Err != nil {
			continue
		}
		if err := a.plan(c, all); err != nil {
			return err
		}
	}
	return a.unused(all)
}

// Kept tells whether a conversion needs nothing.
func (a *Again) Kept(c *Conversion) bool { return a.old[c].kept }

func (a *Again) plan(c *Conversion, all []*Conversion) error {
	name := filepath.Base(c.Path)
	e := a.Record.Images[name]
	if e == nil {
		if err := CheckFree(a.Store.FS, c.Path); err != nil {
			return fmt.Errorf("%w, and nothing is on record of it", err)
		}
		return nil
	}
	at, err := a.Record.settle(name)
	if err != nil {
		return err
	}
	o := old{at: at, file: e.File}
	firm, err := a.firm(e, all)
	if err != nil {
		return err
	}
	switch {
	case at == there && !e.Unfinished && e.Sources != "" && e.Sources == a.Sources[c].Sum && firm:
		o.kept = true
	case at != gone && firm && e.Size == c.New.Size && e.Backing == c.New.Backing && !buildsOn(all, c):
		c.Renew = &chain.Renewal{Disk: c.Nodes, Layers: len(c.Nodes)}
		if c.Own {
			c.Renew.Layers = max(1, c.Layers)
		}
	}
	a.old[c] = o
	return nil
}

// firm tells whether all that an image builds on is as it was left, and stays so.
func (a *Again) firm(e *Entry, all []*Conversion) (bool, error) {
	for range len(a.Record.Images) + 1 {
		if e.Backing == "" {
			return true, nil
		}
		name := e.Backing
		if e = a.Record.Images[name]; e == nil || e.Unfinished {
			return false, nil
		}
		i := slices.IndexFunc(all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
		if i >= 0 && !a.Kept(all[i]) {
			return false, nil
		}
		if at, err := a.Record.settle(name); err != nil || at != there {
			return false, err
		}
	}
	return false, nil
}

func buildsOn(all []*Conversion, c *Conversion) bool {
	return slices.ContainsFunc(all, func(o *Conversion) bool { return o.On == c })
}

// unused refuses to change an image that another one builds on, but for those that are made
// anew, too.
func (a *Again) unused(all []*Conversion) error {
	var changed []chain.Node
	ours := map[string]bool{}
	for _, c := range all {
		o, known := a.old[c]
		if !known || o.kept || o.at == gone {
			continue
		}
		n, err := a.Store.Node(a.pathOf(c), c.Format.Name)
		if err != nil {
			return err
		}
		n.Path = c.Path // by which others know it
		changed = append(changed, n)
	}
	if len(changed) == 0 {
		return nil
	}
	for _, c := range all {
		if _, known := a.old[c]; known && !a.Kept(c) {
			ours[absolutePath(c.Path)], ours[absolutePath(c.Path)+asideSuffix] = true, true
		}
	}
	users, err := a.Store.UsersOf(changed, nil)
	if err != nil {
		return err
	}
	for _, u := range users {
		if !ours[absolutePath(u.Path)] {
			return refusedf(u.Path, "it builds on an image that is to be changed, and is none of those; move it away if it is not needed, or convert into another directory")
		}
	}
	return nil
}

func absolutePath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// pathOf is where what is there of a conversion is.
func (a *Again) pathOf(c *Conversion) string {
	if a.old[c].at == aside {
		return a.Record.aside(filepath.Base(c.Path))
	}
	return c.Path
}

// Begin takes the names from images that are written into. What follows is for Naming, and
// Done.
func (a *Again) Begin(all []*Conversion) error {
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
		nodes, err := a.Store.Chain(a.Record.aside(filepath.Base(c.Path)), c.Format.Name)
		if err != nil {
			return err
		}
		c.Renew.Below, c.Renew.Image = nodes[:len(nodes)-1], nodes[len(nodes)-1]
	}
	return nil
}

// setAside notes that images are not finished, and renames them.
func (a *Again) setAside(all []*Conversion) error {
	if len(all) == 0 {
		return nil
	}
	for _, c := range all {
		a.Record.Images[filepath.Base(c.Path)].Unfinished = true
	}
	if err := a.Record.save(); err != nil {
		return err
	}
	for _, c := range all {
		if a.old[c].at != there {
			continue
		}
		if err := a.lockedAside(c); err != nil {
			return err
		}
	}
	return nil
}

// lockedAside renames an image that nobody has open.
func (a *Again) lockedAside(c *Conversion) error {
	n, err := a.Store.Node(c.Path, c.Format.Name)
	if err != nil {
		return err
	}
	f, err := a.Store.Hold(n, true)
	if err != nil {
		return err
	}
	o := a.old[c]
	if err = named(c.Path, a.Record.aside(filepath.Base(c.Path))); err == nil {
		o.at = aside
		a.old[c] = o
	}
	return errors.Join(err, f.Close())
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
	if err := a.setAside(replaced); err != nil {
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
	next, err := aged(path)
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
	*e = Entry{From: s.From, Node: node, Sources: s.Sum, Backing: c.New.Backing, Size: c.New.Size, File: was, Unfinished: true, Next: next}
	return nil
}

// aged is the file at path, which is given a time that lies back: a later write within the
// same tick of the clock would not be seen otherwise.
func aged(path string) (FileID, error) {
	at := time.Now().Add(-2 * vfs.Racy).Truncate(time.Second)
	if err := os.Chtimes(path, at, at); err != nil {
		return FileID{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return FileID{}, err
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return FileID{}, err
	}
	return fileAt(path)
}

// Done notes that all images have their names, and removes those that had been in their
// place.
func (a *Again) Done(all []*Conversion) error {
	for _, c := range all {
		if e := a.Record.Images[filepath.Base(c.Path)]; e != nil && c.Err == nil && e.Next != (FileID{}) {
			e.File, e.Next, e.Unfinished = e.Next, FileID{}, false
		}
	}
	if err := a.Record.save(); err != nil {
		return err
	}
	for _, c := range all {
		if a.old[c].at == aside && c.Renew == nil && c.Err == nil {
			a.Record.litter[filepath.Base(c.Path)] = a.old[c].file.ID.Ino
		}
	}
	return a.Record.sweep(a.Store.FS)
}

// Idle lists images on record that nothing of what is converted now needs to be, by their
// names: nodes that are gone, or whose images have other names now.
func (a *Again) Idle(all []*Conversion, from string) (names []string) {
	for name, e := range a.Record.Images {
		used := slices.ContainsFunc(all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
		if !used && filepath.Dir(e.From) == from {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
