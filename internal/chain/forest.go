// Package chain is the engine over layers of images, whatever their format: it reads
// chains, and changes them by commit, pull, rebase and copying.
//
// A format implements Source and Target for one image. A Stack is a chain that is open,
// read as one disk; Map, Compare and Extents look at it, and a Disk is one for callers
// that have files of their own. A Store is where images are found by path: it follows
// backing names, takes QEMU's locks, plans a Merge and the like, carries them out, and
// keeps a journal beside the image until they are done. A Forest is all layers that a
// host knows, with the three rules that say which of them can go. The one format that is
// here is raw.
//
// Invariants:
//   - a Forest never holds a loop, every layer is in it once, and nothing of it opens or
//     changes a file;
//   - a plan changes nothing, and what it refuses is refused before the first write;
//   - a backing name is followed only if it is a plain path in a directory that was
//     allowed, and a format is never guessed for it;
//   - a Store locks an image before it reads its data or changes it, all of a chain at
//     once, in the order of device and inode; for a Disk that is up to its caller;
//   - at every crash point each image that stays reads as before, and the same change can
//     be done again, or its journal finished.
package chain

import (
	"encoding/json"
	"fmt"
	"slices"
)

// A Layer is one image file or block device in a Forest.
type Layer struct {
	Key      string // identity: two paths to one image have one key
	Path     string // the name under which it was seen first
	Parent   *Layer // the backing image; nil for a base
	Children []*Layer
	Keepers  []string // who needs its content, in words: "disk web/vda", "snapshot web/nightly-…"
	Active   bool     // some disk ends here and writes to it
}

// Kept tells whether somebody needs the layer's content as it is.
func (l *Layer) Kept() bool { return len(l.Keepers) > 0 }

// Coalesceable tells whether the layer's one child can be merged into it:
// nobody keeps its content and nobody else builds on it.
func (l *Layer) Coalesceable() bool {
	return !l.Kept() && len(l.Children) == 1 && !l.Children[0].Active
}

// LeafCoalesceable tells whether the layer is an active leaf that can be
// merged into its parent, because nobody keeps the parent's content.
func (l *Layer) LeafCoalesceable() bool {
	return l.Active && len(l.Children) == 0 &&
		l.Parent != nil && !l.Parent.Kept() && len(l.Parent.Children) == 1
}

// Garbage tells whether nobody needs the layer at all.
func (l *Layer) Garbage() bool { return !l.Kept() && len(l.Children) == 0 }

// Unneeded tells whether nobody keeps the layer or anything on it: once the layers on
// it are gone, it is garbage.
func (l *Layer) Unneeded() bool {
	return !l.Kept() && !slices.ContainsFunc(l.Children, func(c *Layer) bool { return !c.Unneeded() })
}

// A Forest holds all layers that a host or a storage repository knows.
type Forest struct {
	layers map[string]*Layer
	order  []*Layer
}

// NewForest returns a forest without layers.
func NewForest() *Forest { return &Forest{layers: map[string]*Layer{}} }

// Add returns the layer with that key, made first if it is new.
func (f *Forest) Add(key, path string) *Layer {
	if l := f.layers[key]; l != nil {
		return l
	}
	l := &Layer{Key: key, Path: path}
	f.layers[key] = l
	f.order = append(f.order, l)
	return l
}

// Find returns the layer with that key, or nil.
func (f *Forest) Find(key string) *Layer { return f.layers[key] }

// Layers returns all layers in the order in which they were added.
func (f *Forest) Layers() []*Layer { return slices.Clone(f.order) }

// Roots returns the layers without a parent in the order in which they were added.
func (f *Forest) Roots() []*Layer {
	var roots []*Layer
	for _, l := range f.order {
		if l.Parent == nil {
			roots = append(roots, l)
		}
	}
	return roots
}

// Link makes parent the backing image of child. It is an error if child has
// another parent already, or if the link would close a loop.
func (f *Forest) Link(child, parent *Layer) error {
	if child.Parent == parent {
		return nil
	}
	if child.Parent != nil {
		return fmt.Errorf("%s: backing image is %s by one account and %s by another",
			child.Path, child.Parent.Path, parent.Path)
	}
	for l := parent; l != nil; l = l.Parent {
		if l == child {
			return fmt.Errorf("%s: the backing chain is a loop", child.Path)
		}
	}
	child.Parent = parent
	parent.Children = append(parent.Children, child)
	return nil
}

// Keep notes who needs the content of l; the same keeper counts once.
func (l *Layer) Keep(who string) {
	if !slices.Contains(l.Keepers, who) {
		l.Keepers = append(l.Keepers, who)
	}
}

// Release takes who off the keepers of l.
func (l *Layer) Release(who string) {
	l.Keepers = slices.DeleteFunc(l.Keepers, func(k string) bool { return k == who })
}

// Merge does in the forest what a commit of child into its parent does in the
// files: the parent takes over the child's keepers, role and children, and the
// child is gone.
func (f *Forest) Merge(child *Layer) {
	parent := child.Parent
	parent.Children = slices.DeleteFunc(parent.Children, func(l *Layer) bool { return l == child })
	for _, grandchild := range child.Children {
		grandchild.Parent = parent
		parent.Children = append(parent.Children, grandchild)
	}
	for _, who := range child.Keepers {
		parent.Keep(who)
	}
	parent.Active = parent.Active || child.Active
	f.forget(child)
}

// Bypass does in the forest what a pull of l into its one child does in the files:
// the child builds on what l builds on, and l is gone.
func (f *Forest) Bypass(l *Layer) {
	child, parent := l.Children[0], l.Parent
	l.Children = nil
	child.Parent = parent
	if parent != nil {
		parent.Children = append(parent.Children, child)
	}
	f.Remove(l)
}

// Replace puts another file in the place of l: it has its keepers, children and role.
// There is none of that key yet.
func (f *Forest) Replace(l *Layer, key, path string) {
	delete(f.layers, l.Key)
	l.Key, l.Path = key, path
	f.layers[key] = l
}

// Detach makes l build on nothing: a pull of all that is below has filled it.
func (f *Forest) Detach(l *Layer) {
	if p := l.Parent; p != nil {
		p.Children = slices.DeleteFunc(p.Children, func(c *Layer) bool { return c == l })
	}
	l.Parent = nil
}

// Remove takes a leaf out of the forest.
func (f *Forest) Remove(leaf *Layer) {
	if p := leaf.Parent; p != nil {
		p.Children = slices.DeleteFunc(p.Children, func(l *Layer) bool { return l == leaf })
	}
	f.forget(leaf)
}

// A savedLayer is a layer in JSON: its parent is named by key.
type savedLayer struct {
	Key     string   `json:"key"`
	Path    string   `json:"path"`
	Parent  string   `json:"parent,omitempty"`
	Keepers []string `json:"keepers,omitempty"`
	Active  bool     `json:"active,omitempty"`
}

// MarshalJSON lists the layers, in the order in which they were added. The order of
// the children of one layer is that in which these were added.
func (f *Forest) MarshalJSON() ([]byte, error) {
	layers := []savedLayer{}
	for _, l := range f.order {
		s := savedLayer{Key: l.Key, Path: l.Path, Keepers: l.Keepers, Active: l.Active}
		if l.Parent != nil {
			s.Parent = l.Parent.Key
		}
		layers = append(layers, s)
	}
	return json.Marshal(layers)
}

// UnmarshalJSON makes f the forest that was saved. It is an error if the layers are none.
func (f *Forest) UnmarshalJSON(data []byte) error {
	var layers []savedLayer
	if err := json.Unmarshal(data, &layers); err != nil {
		return err
	}
	*f = *NewForest()
	for _, s := range layers {
		l := f.Add(s.Key, s.Path)
		l.Keepers, l.Active = s.Keepers, s.Active
	}
	for _, s := range layers {
		if s.Parent == "" {
			continue
		}
		parent := f.Find(s.Parent)
		if parent == nil {
			return fmt.Errorf("forest: %s builds on %s, which is not in it", s.Path, s.Parent)
		}
		if err := f.Link(f.Find(s.Key), parent); err != nil {
			return err
		}
	}
	return nil
}

func (f *Forest) forget(l *Layer) {
	delete(f.layers, l.Key)
	f.order = slices.DeleteFunc(f.order, func(o *Layer) bool { return o == l })
}

// Trees returns a copy, sharing nothing with f, of the trees in which the
// layers with those keys stand. Unknown keys are passed over.
func (f *Forest) Trees(keys ...string) *Forest {
	c := NewForest()
	for _, key := range keys {
		if l := f.Find(key); l != nil && c.Find(key) == nil {
			c.copyTree(l.root(), nil)
		}
	}
	return c
}

// Clone returns a copy that shares nothing with f.
func (f *Forest) Clone() *Forest {
	c := NewForest()
	for _, root := range f.Roots() {
		c.copyTree(root, nil)
	}
	return c
}

func (l *Layer) root() *Layer {
	for l.Parent != nil {
		l = l.Parent
	}
	return l
}

func (f *Forest) copyTree(l, parent *Layer) {
	n := f.Add(l.Key, l.Path)
	n.Keepers, n.Active, n.Parent = slices.Clone(l.Keepers), l.Active, parent
	if parent != nil {
		parent.Children = append(parent.Children, n)
	}
	for _, child := range l.Children {
		f.copyTree(child, n)
	}
}
