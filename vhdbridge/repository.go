package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// ChainLimit is the longest chain that XenServer allows.
const ChainLimit = 30

// A Repository is what a scan of a directory has found.
type Repository struct {
	Dir      string
	Nodes    []*Node // by name
	Journals []Journal
	Warnings []string // what is odd but harms no tree
	// Doubts are why nothing is garbage, though nothing visible builds on it: a node that is
	// not understood may need it.
	Doubts []string

	// Unseen is what is beside the nodes, cannot be read, and may build on any of them: nothing
	// is changed.
	Unseen []Spoiled

	forest *chain.Forest
	index  *nodeIndex // of Nodes; nil: it has yet to be made
}

// A Node is one image of a repository. Sizes are bytes.
type Node struct {
	Name, Path, VDI string
	Format          string
	Parent          string // file name; "" for a base
	Named           string // what the node calls its parent, if that is not the file's name
	Hidden          bool
	InUse           bool // a tapdisk writes to it, or has crashed while it did
	Memory          bool // it holds the memory of a suspended guest: no disk
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
	// Known is what the repository or its pool calls the VDI; nil where nobody has told.
	Known *VDI

	blind   bool   // it may be sound and build on any node: it just could not be read
	noEnd   bool   // there is no footer at the end of the file
	corrupt bool   // as the image says
	link    bool   // its name is a symbolic link
	journal bool   // that its leaf coalesce was interrupted is on record
	relink  bool   // it was being told of another parent, which is on record
	used    string // another file that builds on it
	twin    string // another node that is the same file
	name    nodeName
	id      vfs.ID
	onDisk  int64      // bytes of storage
	blocks  vhd.Blocks // of a VHD
	layer   *chain.Layer

	uuid, wants            string // of the image and of its parent; "" where the format has none
	backing, backingFormat string // of the parent, as the header has them
}

// Facts are what a node's header tells.
type Facts struct {
	Image     chain.Image
	Hidden    bool
	InUse     bool
	NoEnd     bool // the end of the file has no footer, as while a tapdisk adds blocks
	Memory    bool
	Allocated int64      // bytes of data
	Blocks    vhd.Blocks // of a VHD: which of them it has
	Created   time.Time
}

// A Reader reads the facts of an image from its header. With an error it returns of them
// what could be read.
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
	var others []string
	var nodes []nodeName
	for _, name := range names {
		if j, ok := parseJournal(name); ok {
			r.addJournal(fsys, j)
		} else if n, ok := parseName(name); ok {
			nodes = append(nodes, n)
		} else {
			others = append(others, name)
		}
	}
	r.Nodes = readNodes(fsys, dir, nodes, readers)
	for _, n := range r.Nodes {
		below, _ := parseName(n.Parent)
		n.journal = n.name.old && r.hasJournal("leaf", n.VDI)
		n.relink = r.hasJournal("relink", below.vdi)
	}
	r.plant(fsys)
	r.lookAround(fsys, others, readers)
	r.judge()
	return r, nil
}

func (r *Repository) hasJournal(kind, vdi string) bool {
	return slices.ContainsFunc(r.Journals, func(j Journal) bool { return j.Kind == kind && j.VDI == vdi })
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

// readNodes reads as many at once as there are processors: what it takes is the tables of their blocks.
func readNodes(fsys vfs.FS, dir string, names []nodeName, readers map[string]Reader) []*Node {
	nodes := make([]*Node, len(names))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(names)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				nodes[i] = readNode(fsys, dir, names[i], readers)
			}
		})
	}
	workers.Wait()
	return nodes
}

func readNode(fsys vfs.FS, dir string, name nodeName, readers map[string]Reader) *Node {
	n := &Node{Name: name.file, Path: filepath.Join(dir, name.file), VDI: name.vdi, Format: name.format, name: name}
	var kind *vfs.KindError
	if _, err := fsys.Lstat(n.Path); errors.As(err, &kind) {
		n.link = true
	}
	f, err := fsys.Open(n.Path, false)
	if err != nil {
		n.Err = err
	} else {
		n.Err = errors.Join(n.read(f, readers[name.format]), f.Close())
	}
	n.blind = n.Err != nil && n.Parent == "" && unreadable(n.Err)
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
	n.PhysicalSize, n.Device, n.id, n.onDisk = info.Size, info.IsBlock, info.ID, info.Allocated
	if read == nil {
		return fmt.Errorf("format %s is not one that can be read here", n.Format)
	}
	facts, err := read(f)
	n.take(&facts)
	switch {
	case err != nil:
		return err
	case info.Links > 1 && !info.IsBlock:
		return fmt.Errorf("it has %d names (hard links)", info.Links)
	case facts.Image.Encrypted:
		return errors.New("its data is encrypted")
	case facts.Image.Snapshots > 0:
		return fmt.Errorf("it has %d internal snapshots", facts.Image.Snapshots)
	}
	return nil
}

// take notes what the image tells.
func (n *Node) take(f *Facts) {
	n.VirtualSize, n.Hidden, n.InUse, n.Allocated = f.Image.VirtualSize, f.Hidden, f.InUse, f.Allocated
	n.blocks = f.Blocks
	n.Created, n.Memory, n.noEnd, n.corrupt = f.Created, f.Memory, f.NoEnd, f.Image.Corrupt
	n.uuid, n.wants = f.Image.ID, f.Image.BackingID
	n.backing, n.backingFormat = f.Image.Backing, f.Image.BackingFormat
	if n.backing != "" {
		n.Parent = parentName(n.backing)
	}
}
