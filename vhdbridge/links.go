package vhdbridge

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// How nodes find their parents: by name, as the storage manager does, and by UUID where
// the name leads to nothing or to another image, as after a repair by hand.

// A MissingParentError says that a node builds on something that is not there.
type MissingParentError struct {
	Parent string
	Reason string // if there is more to say
}

func (e *MissingParentError) Error() string {
	text := "orphan: its parent " + e.Parent + " is not in the repository"
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// A finder knows the nodes by all that others call them.
type finder struct {
	fsys   vfs.FS
	dir    string
	byName map[string]*Node
	byFold map[string][]*Node // by name, whatever its case: as on a share of Windows
	byUUID map[string][]*Node
}

func newFinder(fsys vfs.FS, r *Repository) *finder {
	f := &finder{fsys, r.Dir, map[string]*Node{}, map[string][]*Node{}, map[string][]*Node{}}
	for _, n := range r.Nodes {
		f.byName[n.Name] = n
		f.byFold[strings.ToLower(n.Name)] = append(f.byFold[strings.ToLower(n.Name)], n)
		if n.uuid != "" {
			f.byUUID[n.uuid] = append(f.byUUID[n.uuid], n)
		}
	}
	return f
}

// named finds the node that n calls its parent.
func (f *finder) named(n *Node) *Node {
	if p := f.byName[n.Parent]; p != nil {
		return p
	}
	if all := f.byFold[strings.ToLower(n.Parent)]; len(all) == 1 {
		return all[0]
	}
	return nil
}

// elsewhere is where the parent lies if n names a file in a directory below, or, where no
// UUID tells, in any other; "" if it is not there. A node of that name is another file.
func (f *finder) elsewhere(n *Node) string {
	path := filepath.Clean(n.backing)
	_, _, mapped := chain.MappedVolume(filepath.Base(path))
	switch {
	case filepath.IsAbs(path) && (n.wants != "" || mapped):
		return ""
	case !filepath.IsAbs(path):
		path = filepath.Join(f.dir, path)
	}
	if filepath.Dir(path) == f.dir {
		return ""
	}
	if info, err := f.fsys.Stat(path); err != nil || f.byName[n.Parent] != nil && f.byName[n.Parent].id == info.ID {
		return ""
	}
	return path
}

// parent finds what n builds on. With an error it is what n calls so, if that is there.
func (f *finder) parent(n *Node) (*Node, error) {
	named := f.named(n)
	reason := ""
	if named != nil {
		reason = n.unlike(named)
	}
	if named != nil && reason == "" && n.wants != "" {
		return named, nil
	}
	if place := f.elsewhere(n); place != "" {
		return nil, &MissingParentError{n.Parent, "it is " + place}
	}
	if named != nil && reason == "" {
		return named, nil
	}
	if n.wants == "" {
		return named, f.unfound(n, named, reason)
	}
	same := slices.DeleteFunc(slices.Clone(f.byUUID[n.wants]), func(c *Node) bool { return c == n })
	switch {
	case len(same) == 1:
		return same[0], nil
	case len(same) > 1:
		reason = fmt.Sprintf("%s and %s both have its UUID; move the wrong one away", same[0].Name, same[1].Name)
		return named, &MissingParentError{n.Parent, reason}
	}
	return named, f.unfound(n, named, reason)
}

func (f *finder) unfound(n, named *Node, reason string) error {
	if named == nil {
		if n.wants != "" {
			reason = "nor is any other node with the UUID " + n.wants
		}
		return &MissingParentError{n.Parent, reason}
	}
	return errors.New(reason)
}

// unlike tells why p cannot be the image that n was made on; "" if it can.
func (n *Node) unlike(p *Node) string {
	switch {
	case n.Err != nil && n.wants == "" || p.Err != nil && p.uuid == "" && p.Format == formatVHD:
		return "" // nothing is known; the damage stands in the way of all else
	case n.wants != p.uuid && n.wants != "":
		return fmt.Sprintf("it was made on the image %s, and its parent %s is another one, %s; put the right one there, or, if that is as it should be: "+
			"%s", n.wants, p.Name, told(p.uuid), n.rebase(p.Format, p.Name))
	case n.backingFormat == "":
		return fmt.Sprintf("it does not say the format of its parent %s; say it with: %s", p.Name, n.rebase(p.Format, p.Name))
	case formatOf(n.backingFormat) != p.Format:
		return fmt.Sprintf("it was made on a disk of format %s, and its parent %s is none", n.backingFormat, p.Name)
	}
	return ""
}

// rebase is the command that says what a node builds on.
func (n *Node) rebase(format, name string) string {
	return fmt.Sprintf("virt-rotate image rebase -u -F %s -b %s %s", format, vfs.Quoted(name), vfs.Quoted(n.Path))
}

func told(uuid string) string {
	if uuid == "" {
		return "without a UUID"
	}
	return uuid
}

// formatOf is what a node calls the format that a header names as QEMU does.
func formatOf(name string) string {
	if name == "vpc" {
		return formatVHD
	}
	return name
}

// plant links the nodes.
func (r *Repository) plant(fsys vfs.FS) {
	r.forest = chain.NewForest()
	for _, n := range r.Nodes {
		n.layer = r.forest.Add(n.Name, n.Path)
	}
	f := newFinder(fsys, r)
	for _, n := range r.Nodes {
		if n.Parent == "" {
			continue
		}
		p, err := f.parent(n)
		n.Err = errors.Join(n.Err, err)
		if p == nil {
			continue
		}
		if p.Name != n.Parent {
			n.Named, n.Parent = n.Parent, p.Name
		}
		if err := r.forest.Link(n.layer, p.layer); err != nil {
			n.Err = errors.Join(n.Err, err)
		}
	}
	r.noteDoubles(f)
	r.noteTwins()
	for _, l := range r.forest.Roots() {
		setDepth(f.byName, l, 1)
	}
}

// noteDoubles notes images of which there are two, where a node could have been made on
// either.
func (r *Repository) noteDoubles(f *finder) {
	for _, n := range r.Nodes {
		for _, c := range f.byUUID[n.wants] {
			if n.wants != "" && c != n && c.Name != n.Parent {
				r.doubt("%s has the UUID of the parent of %s, as %s has; move the wrong one away", c.Name, n.Name, n.Parent)
			}
		}
	}
}

// noteTwins notes nodes that are one file under two names: a change of the one would be one of
// the other.
func (r *Repository) noteTwins() {
	first := map[vfs.ID]*Node{}
	for _, n := range r.Nodes {
		other := first[n.id]
		switch {
		case n.id == (vfs.ID{}): // it could not be opened
		case other == nil:
			first[n.id] = n
		default:
			n.twin, other.twin = other.Name, n.Name
		}
	}
}

func setDepth(nodes map[string]*Node, l *chain.Layer, depth int) {
	nodes[l.Key].Depth = depth
	for _, c := range l.Children {
		setDepth(nodes, c, depth+1)
	}
}

// Locate finds the parent that a header of the repository names, for chain.Store.
func (r *Repository) Locate(path, name string) string {
	for _, n := range r.Nodes {
		if n.Named != "" && n.Path == path {
			return "./" + n.Parent
		}
	}
	return Locate(path, name)
}

// Locate is Repository.Locate where every parent has the name by which it is called.
func Locate(_, name string) string { return "./" + parentName(name) }

// parentName finds the node that a locator's path means. Locators of logical volumes
// hold names of the device mapper.
func parentName(path string) string {
	name := filepath.Base(path)
	if group, volume, ok := chain.MappedVolume(name); ok && strings.HasPrefix(group, "VG_XenStorage-") {
		return volume
	}
	return name
}
