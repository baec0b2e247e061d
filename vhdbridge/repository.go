package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// ChainLimit is the longest chain that XenServer allows.
const ChainLimit = 30

// A Repository is what a scan of a directory has found.
type Repository struct {
	Dir      string
	Nodes    []*Node // by name
	Journals []Journal
	Warnings []string // what is odd but harms no tree

	forest *chain.Forest
}

// A Node is one image of a repository. Sizes are bytes.
type Node struct {
	Name, Path, VDI string
	Format          string
	Parent          string // file name; "" for a base
	Hidden          bool
	InUse           bool // a tapdisk writes to it, or has crashed while it did
	VirtualSize     int64
	PhysicalSize    int64     // length of the file or device
	Allocated       int64     // data that the node has itself
	Depth           int       // of its chain: 1 for a base
	Created         time.Time // as the image says; zero: it does not
	// Coalesceable nodes can be merged into their parents; LeafCoalesceable ones can,
	// and give the parent their name; Garbage can be deleted.
	Coalesceable, LeafCoalesceable, Garbage bool
	// Err says why the node is damaged, or an orphan; nothing of its tree is changed.
	Err error

	Device bool // a block device: it cannot grow

	lost  bool // its parent is not known: any node could be that
	blind bool // and it may be sound: it just could not be read
	name  nodeName
	id    vfs.ID
	layer *chain.Layer
}

// A MissingParentError says that a node builds on something that is not there.
type MissingParentError struct{ Parent string }

func (e *MissingParentError) Error() string {
	return "orphan: its parent " + e.Parent + " is not in the repository"
}

// Facts are what a node's header tells.
type Facts struct {
	Image     chain.Image
	Hidden    bool
	InUse     bool
	Allocated int64 // bytes of data
	Created   time.Time
}

// A Reader reads the facts of an image from its header. With an error it returns the
// backing name alone, if that could be read.
type Reader func(f vfs.File) (Facts, error)

// Scan reads the headers of all nodes in dir. Readers are those of the formats, by
// name. Only an error of the directory itself is returned: that of a node is noted
// with it.
func Scan(fsys vfs.FS, dir string, readers map[string]Reader) (*Repository, error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{Dir: dir}
	for _, name := range names {
		if j, ok := parseJournal(name); ok {
			r.addJournal(fsys, j)
		} else if n, ok := parseName(name); ok {
			r.Nodes = append(r.Nodes, readNode(fsys, dir, n, readers))
		}
	}
	r.plant()
	r.judge()
	return r, nil
}

// addJournal reads the value of a journal; the file's content is that, in logical
// volumes after its length.
func (r *Repository) addJournal(fsys vfs.FS, j Journal) {
	if j.Kind == "leaf" && j.Parent == "" {
		data, err := fsys.ReadFile(filepath.Join(r.Dir, j.file))
		if err != nil {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %v", j.file, err))
		}
		text := strings.TrimSpace(strings.TrimRight(string(data), "\x00"))
		if i := strings.LastIndexByte(text, ' '); i >= 0 {
			text = text[i+1:]
		}
		j.Parent = text
	}
	r.Journals = append(r.Journals, j)
}

func readNode(fsys vfs.FS, dir string, name nodeName, readers map[string]Reader) *Node {
	n := &Node{Name: name.file, Path: filepath.Join(dir, name.file), VDI: name.vdi, Format: name.format, name: name}
	f, err := fsys.Open(n.Path, false)
	if err != nil {
		n.Err = err
	} else {
		n.Err = errors.Join(n.read(f, readers[name.format]), f.Close())
	}
	n.lost = n.Err != nil && n.Parent == ""
	n.blind = n.lost && unreadable(n.Err)
	return n
}

// unreadable tells whether an error is not about what is in the file.
func unreadable(err error) bool {
	var at *fs.PathError
	var number syscall.Errno
	return errors.As(err, &at) || errors.As(err, &number)
}

func (n *Node) read(f vfs.File, read Reader) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n.PhysicalSize, n.Device, n.id = info.Size, info.IsBlock, info.ID
	if info.Links > 1 && !info.IsBlock {
		return fmt.Errorf("it has %d names (hard links)", info.Links)
	}
	if read == nil {
		return fmt.Errorf("format %s is not one that can be read here", n.Format)
	}
	facts, err := read(f)
	if err != nil {
		if facts.Image.Backing != "" {
			n.Parent = parentName(facts.Image.Backing)
		}
		return err
	}
	n.VirtualSize, n.Hidden, n.InUse, n.Allocated = facts.Image.VirtualSize, facts.Hidden, facts.InUse, facts.Allocated
	n.Created = facts.Created
	if facts.Image.Backing != "" {
		n.Parent = parentName(facts.Image.Backing)
	}
	switch {
	case facts.Image.Encrypted:
		return errors.New("its data is encrypted")
	case facts.Image.Snapshots > 0:
		return fmt.Errorf("it has %d internal snapshots", facts.Image.Snapshots)
	}
	return nil
}

// Locate finds the parent that a header of the repository names, for chain.Store.
func Locate(_, name string) string { return "./" + parentName(name) }

// Node finds a node by file name, or by VDI where that is not ambiguous; nil if there
// is none.
func (r *Repository) Node(name string) *Node {
	var found *Node
	for _, n := range r.Nodes {
		if n.Name == name {
			return n
		}
		if n.VDI == name && !n.name.old {
			if found != nil {
				return nil
			}
			found = n
		}
	}
	return found
}

// plant links the nodes by their parents' names.
func (r *Repository) plant() {
	r.forest = chain.NewForest()
	byName := make(map[string]*Node, len(r.Nodes))
	for _, n := range r.Nodes {
		n.layer = r.forest.Add(n.Name, n.Path)
		byName[n.Name] = n
	}
	for _, n := range r.Nodes {
		if n.Parent == "" {
			continue
		}
		parent := byName[n.Parent]
		if parent == nil {
			n.Err = errors.Join(n.Err, &MissingParentError{n.Parent})
			continue
		}
		if err := r.forest.Link(n.layer, parent.layer); err != nil {
			n.Err = errors.Join(n.Err, err)
		}
	}
	for _, root := range r.forest.Roots() {
		setDepth(byName, root, 1)
	}
}

func setDepth(nodes map[string]*Node, l *chain.Layer, depth int) {
	nodes[l.Key].Depth = depth
	for _, c := range l.Children {
		setDepth(nodes, c, depth+1)
	}
}

// judge applies the three rules. A visible node is kept for its VDI. A raw disk has
// no room for the flag: with children it counts as hidden, for no VDI that is in use
// has any.
func (r *Repository) judge() {
	for _, n := range r.Nodes {
		if n.Format == formatRaw && len(n.layer.Children) > 0 {
			n.Hidden = true
		}
		n.layer.Keepers, n.layer.Active = nil, false
		if !n.Hidden {
			n.layer.Keep("VDI " + n.VDI)
			n.layer.Active = len(n.layer.Children) == 0
		}
	}
	spoiled := r.spoiled()
	lost := slices.ContainsFunc(r.Nodes, func(n *Node) bool { return n.lost })
	for _, n := range r.Nodes {
		n.Garbage = n.layer.Unneeded() && !spoiled[root(n.layer)] && !lost
	}
	for _, n := range r.Nodes {
		sound := !spoiled[root(n.layer)] && n.layer.Parent != nil
		n.LeafCoalesceable = sound && n.layer.LeafCoalesceable()
		n.Coalesceable = sound && n.Hidden && len(n.layer.Children) > 0 && n.layer.Parent.Coalesceable() && !n.Garbage
	}
}

// spoiled are the roots of the trees in which a node is damaged, an orphan or in use;
// all of them while a node cannot be read that may be sound and belong to any.
func (r *Repository) spoiled() map[*chain.Layer]bool {
	spoiled := r.unreadable()
	if slices.ContainsFunc(r.Nodes, func(n *Node) bool { return n.blind }) {
		for _, l := range r.forest.Roots() {
			spoiled[l] = true
		}
	}
	return spoiled
}

func root(l *chain.Layer) *chain.Layer {
	for l.Parent != nil {
		l = l.Parent
	}
	return l
}

// node returns the node of a layer.
func (r *Repository) node(l *chain.Layer) *Node {
	i, _ := slices.BinarySearchFunc(r.Nodes, l.Key, func(n *Node, name string) int { return strings.Compare(n.Name, name) })
	return r.Nodes[i]
}
