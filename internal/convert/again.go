package convert

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

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
	// Whole tells that all that is in the repository is converted: what is on record besides
	// is of nodes that are gone, or have become part of others.
	Whole bool
	// Exact tells that each image is to build on the one that a conversion says, and on no other
	// that reads the same.
	Exact bool
	// Covered are nodes, by path, that are not converted since others have their content: images
	// of theirs are removed.
	Covered []string
	// Defined tells whether a domain is there; nil: nobody can tell.
	Defined func(domain string) (bool, error)

	all      []*Conversion
	old      map[*Conversion]old
	obsolete []string // images that are needed no more, and build on what is changed
	drop     []string // those that have no name any more
}

// A Source is what an image is made of.
type Source struct {
	From   string // path of the node
	Node   any    // as it is, for people
	Hidden bool   // its content is nobody's
	Sum    string // of all; "": unlike anything
	// Empty tells that the node has no data of its own, and View what it reads as: a sum of what
	// has some. "": unlike anything but by Sum.
	Empty bool
	View  string
}

func (s Source) view() string { return cmp.Or(s.View, s.Sum) }

// old is what is there already of a conversion.
type old struct {
	at   place
	kept bool // it needs nothing
	file FileID
}

// Plan finds out what needs nothing, and what is written into an image that is there. The
// conversions are in the order of chains, bases first. Nothing is changed.
func (a *Again) Plan(all []*Conversion) error {
	a.all, a.old = all, map[*Conversion]old{}
	if err := a.adopt(all); err != nil {
		return err
	}
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
	if e == nil && a.leaves(name) {
		return nil
	}
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
	case isWhole(at, e) && e.Sources != "" && e.Sources == a.Sources[c].Sum && firm && (!a.Exact || e.Backing == c.New.Backing):
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

// isWhole tells whether an image has what it had when it was made.
func isWhole(at place, e *Entry) bool { return at == elsewhere || at == there && !e.Unfinished }

// firm tells whether all that an image builds on is as it was left, and stays so. A layer that
// has nothing may be missing: it is made.
func (a *Again) firm(e *Entry, all []*Conversion) (bool, error) {
	for range len(a.Record.Images) + len(all) + 1 {
		if e.Backing == "" {
			return true, nil
		}
		name := e.Backing
		e = a.Record.Images[name]
		i := slices.IndexFunc(all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
		if e == nil && a.Exact && i >= 0 && a.Sources[all[i]].Empty {
			e = &Entry{Backing: all[i].New.Backing}
			continue
		}
		if e == nil || i >= 0 && !a.Kept(all[i]) {
			return false, nil
		}
		if at, err := a.Record.settle(name); err != nil || !isWhole(at, e) {
			return false, err
		}
	}
	return false, nil
}

func buildsOn(all []*Conversion, c *Conversion) bool {
	return slices.ContainsFunc(all, func(o *Conversion) bool { return o.On == c })
}

// unused refuses to change an image that another one builds on, but for those that are made
// anew, too, and for inner layers that are needed by nothing any more.
func (a *Again) unused(all []*Conversion) error {
	var changed []chain.Node
	ours := map[string]bool{}
	for _, c := range all {
		o, known := a.old[c]
		if !known {
			continue
		}
		for _, path := range []string{c.Path, c.Path + asideSuffix, a.knownAs(c)} {
			ours[absolutePath(path)] = true
		}
		if o.kept && o.at == there || o.at == gone { // what is kept builds on what is kept
			continue
		}
		n, err := a.held(c)
		if err != nil {
			return err
		}
		changed = append(changed, n)
	}
	covered, err := a.uncover()
	if err != nil {
		return err
	}
	dropped, err := a.dropped()
	if err != nil {
		return err
	}
	for _, n := range append(covered, dropped...) {
		ours[n.Path] = true
		changed = append(changed, n)
	}
	for len(changed) > 0 {
		users, err := a.usersOf(changed)
		if err != nil {
			return err
		}
		changed = changed[:0]
		for _, u := range users {
			if ours[absolutePath(u.Path)] {
				continue
			}
			if err := a.giveUp(u); err != nil {
				return err
			}
			ours[absolutePath(u.Path)] = true
			u.Path = absolutePath(u.Path)
			changed = append(changed, u)
		}
	}
	return nil
}

// usersOf lists what builds on nodes. What of ours builds on an image that has lost its name
// is known by the record.
func (a *Again) usersOf(nodes []chain.Node) ([]chain.Node, error) {
	ignored, err := a.temporary()
	if err != nil {
		return nil, err
	}
	for name := range a.Record.Images {
		ignored = append(ignored, a.Record.image(name), a.Record.aside(name))
	}
	s := *a.Store
	s.Ignore = append(slices.Clone(s.Ignore), ignored...)
	users, err := s.UsersOf(nodes, nil)
	if err != nil {
		return nil, err
	}
	for name, e := range a.Record.Images {
		on := slices.ContainsFunc(nodes, func(n chain.Node) bool { return e.Backing != "" && n.Path == absolutePath(a.Record.image(e.Backing)) })
		f, err := a.Record.fileAt(a.Record.image(name))
		if err != nil {
			return nil, err
		}
		if !on || f == (FileID{}) {
			continue
		}
		n, err := a.Store.Node(a.Record.image(name), "qcow2")
		if err != nil {
			return nil, err
		}
		users = append(users, n)
	}
	return users, nil
}

// temporary are the files that a run which was broken off has left, or that have no name yet.
func (a *Again) temporary() (paths []string, err error) {
	names, err := a.Store.FS.ReadDir(filepath.Dir(a.Record.path))
	for _, name := range names {
		if temp, _ := filepath.Match(vfs.TempPattern, name); temp {
			paths = append(paths, a.Record.image(name))
		}
	}
	return paths, err
}

// giveUp takes an image for one that is needed by nothing any more, or refuses.
func (a *Again) giveUp(u chain.Node) error {
	name := filepath.Base(u.Path)
	if left, err := filepath.Match(vfs.TempPattern, name); err == nil && left {
		return nil // of a run that was broken off, or of an image that has no name yet
	}
	e := a.Record.Images[name]
	if e == nil || absolutePath(a.Record.image(name)) != absolutePath(u.Path) {
		return refusedf(u.Path, "it builds on an image that is to be changed, and was not made by a conversion; move it away if it is not needed, or convert into another directory")
	}
	at, err := a.Record.settle(name)
	switch {
	case err != nil:
		return err
	case a.superseded(name) && at == there:
		a.obsolete = append(a.obsolete, name)
		return nil
	case !a.Whole:
		return refusedf(u.Path, "it builds on an image that is to be changed, and is not made anew: leave out --vdi, and put right what of the repository is left out, or convert into another directory")
	case !e.Hidden:
		return refusedf(u.Path, "it is of %s, which is not in the repository any more, and builds on an image that is to be changed: "+
			"delete it if it is not needed, or convert into another directory", filepath.Base(e.From))
	case at == there:
		a.obsolete = append(a.obsolete, name)
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
func (a *Again) pathOf(c *Conversion) (string, error) {
	switch name := filepath.Base(c.Path); a.old[c].at {
	case aside:
		return a.Record.aside(name), nil
	case elsewhere:
		path, _, err := a.Record.where(name)
		return path, err
	}
	return c.Path, nil
}

// knownAs is the path by which others know what is there of a conversion.
func (a *Again) knownAs(c *Conversion) string {
	if a.old[c].at == elsewhere {
		return a.Record.image(a.Record.Images[filepath.Base(c.Path)].Was)
	}
	return c.Path
}

// held is what is there of a conversion. Nobody has it open now; it is locked once more when it is
// changed.
func (a *Again) held(c *Conversion) (n chain.Node, err error) {
	path, err := a.pathOf(c)
	if err != nil {
		return n, err
	}
	if n, err = a.Store.Node(path, c.Format.Name); err != nil {
		return n, err
	}
	f, err := a.Store.Hold(n, true)
	if err != nil {
		return n, err
	}
	n.Path = absolutePath(a.knownAs(c))
	return n, f.Close()
}

// Idle lists images on record that nothing of what is converted now needs to be, by their
// names: nodes that are gone, or whose images have other names now.
func (a *Again) Idle(all []*Conversion, from string) (names []string) {
	for name, e := range a.Record.Images {
		used := slices.ContainsFunc(all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
		if !used && filepath.Dir(e.From) == from && !slices.Contains(a.Removed(), name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
