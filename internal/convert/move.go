package convert

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// Images are found by the nodes that they were made of. One that is to have another name, or
// builds on one that is, is not made anew: it is renamed, and the name of what it builds on is
// written into its header. Meanwhile it is called ….unfinished, and all of them get their names
// when all of them are right: before a conversion changes any content.

// supersededStem is added to the name of an image that has another one's, and is made anew.
const supersededStem = ".old"

// A mover decides which images of the record get which names.
type mover struct {
	*Again
	all    []*Conversion
	before map[string]*Entry      // as they are called now
	from   map[*Conversion]string // the name that the image of a conversion has now
	drop   []string               // images that are made anew, and have the name of one that is moved
}

// adopt gives entries of the record the names that their images are to have. On the disk
// nothing is changed.
func (a *Again) adopt(all []*Conversion) error {
	m := &mover{a, all, maps.Clone(a.Record.Images), map[*Conversion]string{}, nil}
	for _, c := range all {
		if c.Err != nil {
			continue
		}
		if err := m.look(c); err != nil {
			return err
		}
	}
	for m.leaveOut() {
	}
	if err := m.nobodysDisks(); err != nil {
		return err
	}
	m.apply()
	return a.begun()
}

// nobodysDisks refuses to rename images of which a domain knows the names.
func (m *mover) nobodysDisks() error {
	name := m.Record.Domain
	if len(m.from) == 0 || name == "" {
		return nil
	}
	if m.Defined != nil {
		if there, err := m.Defined(name); err != nil || !there {
			return err
		}
	}
	return refusedf(m.Record.path, "images would get other names, on which the domain %q was defined: "+
		"undefine it (virsh undefine %[1]s --snapshots-metadata) and convert with --define, or convert into another directory", name)
}

// begun finds images that a run which was broken off was to rename, and that are made anew.
func (a *Again) begun() error {
	for _, name := range slices.Sorted(maps.Keys(a.Record.Images)) {
		if a.Record.Images[name].Was == "" || a.isConversion(name) || slices.Contains(a.drop, name) {
			continue
		}
		at, err := a.Record.settle(name)
		if err != nil {
			return err
		}
		if at == elsewhere {
			a.drop = append(a.drop, name)
		} else {
			delete(a.Record.Images, name)
		}
	}
	return nil
}

// look finds the image of a conversion under another name.
func (m *mover) look(c *Conversion) error {
	s := m.Sources[c]
	if e := m.before[filepath.Base(c.Path)]; e != nil && e.From == s.From {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.before)) {
		e := m.before[name]
		if e.From != s.From || filepath.Ext(name) != filepath.Ext(c.Path) || e.Size != c.New.Size || !m.standsOnTheSame(c, e) {
			continue
		}
		at, err := m.Record.settle(name)
		if err == nil && (at == aside || at == elsewhere) {
			err = refusedf(m.Record.image(name), "a run that was broken off has left it unfinished: let the same command, with the same options, go on first")
		}
		if err != nil {
			return err
		}
		if at == there {
			m.from[c] = name
			return nil
		}
	}
	return nil
}

// standsOnTheSame tells whether what the image builds on reads as what it is to build on.
func (m *mover) standsOnTheSame(c *Conversion, e *Entry) bool {
	if c.On == nil || e.Backing == "" {
		return c.On == nil && e.Backing == ""
	}
	below := m.before[e.Backing]
	return below != nil && below.view() != "" && below.view() == m.Sources[c.On].view()
}

// leaveOut gives up moves to a name that another image keeps, and tells whether there were any.
func (m *mover) leaveOut() (some bool) {
	leaving := slices.Collect(maps.Values(m.from))
	m.drop = nil
	for _, c := range m.all {
		name := filepath.Base(c.Path)
		if _, moves := m.from[c]; !moves || m.before[name] == nil || slices.Contains(leaving, name) {
			continue
		}
		if at, err := m.Record.settle(name); err == nil && at == there && m.superseded(name) {
			m.drop = append(m.drop, name)
			continue
		}
		delete(m.from, c)
		some = true
	}
	return some
}

// superseded tells whether an image is needed no more when all conversions are done: its node is
// made anew, or its content is that of another one.
func (a *Again) superseded(name string) bool {
	e := a.Record.Images[name]
	if e == nil {
		return false
	}
	for _, s := range a.Sources {
		if s.From == e.From {
			return true
		}
	}
	return slices.Contains(a.Covered, e.From)
}

// apply changes the record.
func (m *mover) apply() {
	for _, name := range append(slices.Collect(maps.Values(m.from)), m.drop...) {
		delete(m.Record.Images, name)
	}
	for c, was := range m.from {
		e := m.before[was]
		e.Was, e.Backing = was, c.New.Backing
		m.Record.Images[filepath.Base(c.Path)] = e
	}
	for _, was := range m.drop {
		e, ext := m.before[was], filepath.Ext(was)
		e.Was, e.Hidden = was, true
		name := strings.TrimSuffix(was, ext) + supersededStem + ext
		m.Record.Images[name] = e
		m.Again.drop = append(m.Again.drop, name)
	}
}

// leaves tells whether the file of that name is going to have another one.
func (a *Again) leaves(name string) bool {
	for _, e := range a.Record.Images {
		if e.Was == name {
			return true
		}
	}
	return false
}

// Moved are the images that get other names, in the order of chains.
func (a *Again) Moved(all []*Conversion) (moved []*Conversion) {
	for _, c := range all {
		if e := a.Record.Images[filepath.Base(c.Path)]; e != nil && e.Was != "" {
			moved = append(moved, c)
		}
	}
	return moved
}

// move gives images their names, and the right names of what they build on.
func (a *Again) move() error {
	moved := a.Moved(a.all)
	var names []string
	for _, c := range moved {
		names = append(names, filepath.Base(c.Path))
	}
	if names = append(names, a.drop...); len(names) == 0 {
		return nil
	}
	for _, name := range names {
		a.Record.Images[name].Unfinished = true
	}
	if err := a.moveAside(names); err != nil {
		return err
	}
	for _, c := range moved {
		if err := a.relink(c); err != nil {
			return err
		}
	}
	for _, name := range a.drop {
		a.Record.Images[name].Was = ""
	}
	if err := a.Record.save(); err != nil {
		return err
	}
	return a.nameMoved(moved)
}

// relink writes into the header what the image is to build on, and notes how it is then.
func (a *Again) relink(c *Conversion) (err error) {
	name := filepath.Base(c.Path)
	if c.New.Backing != "" {
		if err := a.Store.Relink(a.Record.aside(name), c.Format.Name, c.New.Backing, c.New.BackingFormat); err != nil {
			return err
		}
	}
	a.Record.Images[name].Next, err = a.Record.aged(a.Record.aside(name))
	return err
}

// nameMoved gives images that are right their names.
func (a *Again) nameMoved(moved []*Conversion) error {
	for _, c := range moved {
		name := filepath.Base(c.Path)
		if err := named(a.Store.FS, a.Record.aside(name), a.Record.image(name)); err != nil {
			return err
		}
		e := a.Record.Images[name]
		e.File, e.Next, e.Unfinished, e.Was = e.Next, FileID{}, false, ""
		o := a.old[c]
		o.at, o.file = there, e.File
		a.old[c] = o
	}
	return a.Record.save()
}

// dropped are the images that make way for others, as others know them.
func (a *Again) dropped() (nodes []chain.Node, err error) {
	for _, name := range a.drop {
		path, _, err := a.Record.where(name)
		if err != nil {
			return nil, err
		}
		n, err := a.Store.Node(path, strings.TrimPrefix(filepath.Ext(name), "."))
		if err != nil {
			return nil, err
		}
		n.Path = absolutePath(a.Record.image(a.Record.Images[name].Was))
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// uncover finds the images of nodes whose content is that of others: they are removed.
func (a *Again) uncover() (nodes []chain.Node, err error) {
	for _, name := range slices.Sorted(maps.Keys(a.Record.Images)) {
		if !slices.Contains(a.Covered, a.Record.Images[name].From) || a.isConversion(name) || slices.Contains(a.drop, name) {
			continue
		}
		at, err := a.Record.settle(name)
		if err != nil {
			return nil, err
		}
		switch at {
		case aside:
			a.obsolete = append(a.obsolete, name)
		case there:
			n, err := a.Store.Node(a.Record.image(name), strings.TrimPrefix(filepath.Ext(name), "."))
			if err != nil {
				return nil, err
			}
			n.Path = absolutePath(n.Path)
			nodes = append(nodes, n)
			a.obsolete = append(a.obsolete, name)
		}
	}
	return nodes, nil
}

func (a *Again) isConversion(name string) bool {
	return slices.ContainsFunc(a.all, func(c *Conversion) bool { return filepath.Base(c.Path) == name })
}

// Removed are the images that are removed since others take their place, by name. While one
// could not be made, none is.
func (a *Again) Removed() []string {
	if slices.ContainsFunc(a.all, func(c *Conversion) bool { return c.Err != nil }) {
		return nil
	}
	return slices.Concat(a.obsolete, a.drop)
}

// where is the file that is to have a name, as far as it has come.
func (r *Record) where(name string) (path string, f FileID, err error) {
	for _, path := range []string{r.aside(name), r.image(r.Images[name].Was)} {
		if f, err = r.fileAt(path); err != nil || f != (FileID{}) {
			return path, f, err
		}
	}
	return "", f, nil
}

// now is where an image is that may have lost its name.
func (r *Record) now(name string) (path string, err error) {
	if r.Images[name].Was != "" {
		path, _, err = r.where(name)
		return path, err
	}
	f, err := r.fileAt(r.image(name))
	if err == nil && f == (FileID{}) {
		return r.aside(name), nil
	}
	return r.image(name), err
}

// settleMoved is settle of an image that is to have another name than it had.
func (r *Record) settleMoved(name string) (place, error) {
	e := r.Images[name]
	path, f, err := r.where(name)
	switch {
	case err != nil:
		return gone, err
	case f == (FileID{}):
		e.Was = ""
		return gone, nil
	case path == r.aside(name) && e.Unfinished && f.ID.Ino == e.File.ID.Ino, f.equal(e.File):
		return elsewhere, nil
	}
	return gone, refusedf(path, "it has changed since it was made, as when a guest has run on it: nothing is done with that; "+
		"move it away if it is not needed, with what builds on it, or convert into another directory")
}
