package vhdbridge

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// Options say what a coalesce may do.
type Options struct {
	VDIs    []string // only the chains of these; none means all
	Leaf    bool     // leaves are merged, too
	Garbage bool     // garbage is deleted
	Free    int64    // bytes that the file system has free; 0: not asked for
}

// An Op is what a step does.
type Op string

// The operations.
const (
	OpRelink Op = "relink"        // finish a merge whose data is moved already
	OpMerge  Op = "coalesce"      // inner nodes into their parent
	OpLeaf   Op = "leaf-coalesce" // a leaf into its parent, which gets its name
	OpDelete Op = "delete"        // garbage
)

// A Step is one thing to do, with its reason.
type Step struct {
	Op     Op       `json:"op"`
	Into   string   `json:"into,omitempty"` // the node that gets the data
	Nodes  []string `json:"nodes"`          // the nodes that go, lowest first
	Bytes  int64    `json:"bytes"`          // data in them, or the space of what is deleted
	Space  int64    `json:"space"`          // by which the node can grow while it is done
	Freed  int64    `json:"freed"`          // given back in the end, at least
	Reason string   `json:"reason"`

	children []string // of the highest node: they are relinked
	tree     string   // the root of the tree, by file name
}

// A Plan is what to do, in order: tree by tree, the tallest first.
type Plan struct {
	Steps []Step
	// Spoiled are the trees that are left alone, by the name of a node, with the reason.
	Spoiled []Spoiled
	// Doubts are why no garbage is deleted, if there is any and it was asked for.
	Doubts []string
}

// A Spoiled node keeps its tree from being changed, or is not converted.
type Spoiled struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`

	fine bool // there is nothing wrong with it
}

// Fine tells that nothing is wrong with a node that is left out.
func (s *Spoiled) Fine() bool { return s.fine }

// ErrNoSuchVDI says that a VDI was named that the repository does not have.
var ErrNoSuchVDI = errors.New("no such VDI")

// Plan decides what to do. It changes nothing.
func (r *Repository) Plan(fsys vfs.FS, o Options) (*Plan, error) {
	wanted, err := r.wanted(o.VDIs)
	if err != nil {
		return nil, err
	}
	p := &Plan{Spoiled: r.spoiledList(wanted)}
	spoiled := r.spoiled()
	b := &planner{r: r, fsys: fsys, o: o, wanted: wanted, p: p, free: o.Free}
	if o.Garbage && wanted == nil && r.Unneeded() {
		p.Doubts = r.Doubts
	}
	roots := r.forest.Roots()
	slices.SortStableFunc(roots, func(a, c *chain.Layer) int { return cmp.Compare(height(c), height(a)) })
	for _, l := range roots {
		if spoiled[l] {
			continue
		}
		err := b.tree(l.Key)
		var short *noRoomError
		if errors.As(err, &short) {
			p.Spoiled, err = append(p.Spoiled, Spoiled{Node: short.node, Reason: short.Error()}), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// A noRoomError ends the plan of a tree.
type noRoomError struct {
	node       string
	step       Step
	need, free int64
}

func (e *noRoomError) Error() string {
	return fmt.Sprintf("merging %s into it can need %d bytes, and %d are free", strings.Join(e.step.Nodes, ", "), e.need, e.free)
}

// wanted are the nodes of the chains of the VDIs; nil means all.
func (r *Repository) wanted(vdis []string) (map[string]bool, error) {
	if len(vdis) == 0 {
		return nil, nil
	}
	wanted := map[string]bool{}
	for _, vdi := range vdis {
		n := r.Node(vdi)
		if n == nil {
			return nil, fmt.Errorf("%s: %w", vdi, ErrNoSuchVDI)
		}
		for l := n.layer; l != nil; l = l.Parent {
			wanted[l.Key] = true
		}
	}
	return wanted, nil
}

// spoiledList are the nodes for which a tree is left alone, of those that are wanted.
func (r *Repository) spoiledList(wanted map[string]bool) []Spoiled {
	list := append([]Spoiled{}, r.Unseen...)
	for _, n := range r.Nodes {
		reason := n.Fixed()
		if reason == "" || n.journal && n.Err == nil || wanted != nil && !wanted[n.Name] && !n.blind {
			continue
		}
		switch {
		case n.blind:
			reason += "; it may build on any node: nothing is changed"
		case r.lacks(n):
			reason += "; no tree is changed that could have it"
		case n.Parent != "" && n.layer.Parent == nil:
			reason += "; if it can be brought back, do that before other trees are coalesced: it may build on them"
		}
		list = append(list, Spoiled{Node: n.Name, Reason: reason})
	}
	return list
}

func height(l *chain.Layer) int {
	n := 0
	for _, c := range l.Children {
		n = max(n, height(c))
	}
	return n + 1
}

// A planner holds the trees as they will be after the steps planned so far.
type planner struct {
	r      *Repository
	fsys   vfs.FS
	o      Options
	forest *chain.Forest
	wanted map[string]bool
	p      *Plan
	free   int64                // bytes that are left after the steps so far; 0: not known
	merged map[string][]*Node   // what a node has taken in so far, itself not counted
	grown  map[string]int64     // and by how much it can have grown
	named  map[string]bool      // nodes that have got a leaf's name
	blocks map[*Node]vhd.Blocks // what the nodes of the tree have, as far as it was read
}

func (b *planner) wants(l *chain.Layer) bool { return b.wanted == nil || b.wanted[l.Key] }

// tree plans one tree: garbage first, since what is left may be coalesceable then,
// inner nodes, leaves.
func (b *planner) tree(root string) error {
	b.merged, b.grown, b.named = map[string][]*Node{}, map[string]int64{}, map[string]bool{}
	b.blocks = map[*Node]vhd.Blocks{}
	b.forest = b.r.forest.Trees(root)
	if b.o.Garbage && b.wanted == nil {
		b.collect(b.forest.Find(root), root)
	}
	if b.forest.Find(root) == nil {
		return nil
	}
	if err := b.relinks(root); err != nil {
		return err
	}
	if err := b.inner(b.forest.Find(root), root); err != nil {
		return err
	}
	if b.o.Leaf {
		return b.leaves(b.forest.Find(root), root)
	}
	return nil
}

// collect deletes garbage, leaves first.
func (b *planner) collect(l *chain.Layer, tree string) {
	for _, c := range slices.Clone(l.Children) {
		b.collect(c, tree)
	}
	n := b.r.node(l)
	if !l.Garbage() || !n.Garbage {
		return
	}
	b.add(Step{Op: OpDelete, Nodes: []string{n.Name}, Bytes: n.PhysicalSize, Freed: n.PhysicalSize, tree: tree,
		Reason: "no VDI needs it"})
	b.forest.Remove(l)
}

// relinks finishes merges of which the collector has moved all data.
func (b *planner) relinks(tree string) error {
	for _, j := range b.r.Journals {
		n := b.r.Node(j.VDI)
		if j.Kind != "relink" || n == nil {
			continue
		}
		l := b.forest.Find(n.Name)
		if l == nil || root(l).Key != tree || l.Parent == nil || !n.Hidden || !b.wants(l) {
			continue
		}
		b.add(Step{Op: OpRelink, Into: l.Parent.Key, Nodes: []string{n.Name}, Freed: n.PhysicalSize, tree: tree,
			children: keys(l.Children), Reason: "the collector has merged its data, and was interrupted then"})
		b.take(l)
	}
	return nil
}

func keys(layers []*chain.Layer) []string {
	var out []string
	for _, l := range layers {
		out = append(out, l.Key)
	}
	return out
}

// inner merges every run of coalesceable nodes in one go.
func (b *planner) inner(l *chain.Layer, tree string) error {
	var run []*chain.Layer
	for b.coalesceable(l) {
		c := l.Children[0]
		run = append(run, c)
		b.take(c)
	}
	if len(run) > 0 {
		step := Step{Op: OpMerge, children: keys(l.Children), tree: tree, Reason: "no VDI needs the state below"}
		if err := b.merge(step, l, run); err != nil {
			return err
		}
	}
	for _, c := range slices.Clone(l.Children) {
		if err := b.inner(c, tree); err != nil {
			return err
		}
	}
	return nil
}

// coalesceable tells whether the only child of l, an inner node, can be merged into it.
func (b *planner) coalesceable(l *chain.Layer) bool {
	return l.Coalesceable() && b.wants(l) && b.wants(l.Children[0]) &&
		len(l.Children[0].Children) > 0 && !l.Children[0].Kept() && !l.Children[0].Unneeded()
}

// take merges the layer into its parent in the planner's world.
func (b *planner) take(l *chain.Layer) {
	parent := l.Parent
	n := b.r.node(l)
	b.merged[parent.Key] = append(append(b.merged[parent.Key], n), b.merged[l.Key]...)
	b.forest.Merge(l)
}

// leaves merges every leaf into the parent that only it needs.
func (b *planner) leaves(l *chain.Layer, tree string) error {
	for _, c := range slices.Clone(l.Children) {
		if err := b.leaves(c, tree); err != nil {
			return err
		}
	}
	if !l.LeafCoalesceable() || !b.wants(l) || b.named[l.Key] {
		return nil
	}
	parent := l.Parent
	if taken := b.r.taken(b.r.node(parent), b.r.node(l)); taken != "" {
		b.p.Spoiled = append(b.p.Spoiled, Spoiled{Node: l.Key, Reason: "its leaf cannot be merged: " + taken + " is there already; move it away if nobody needs it"})
		return nil
	}
	step := Step{Op: OpLeaf, tree: tree, Reason: "only this VDI needs what is below; its parent gets its name"}
	if err := b.merge(step, parent, []*chain.Layer{l}); err != nil {
		return err
	}
	b.take(l)
	b.named[parent.Key] = true
	return nil
}

// taken is a node with a name that merging leaf into base would need; "" if there is none.
func (r *Repository) taken(base, leaf *Node) string {
	for _, name := range []string{leaf.name.oldName(), base.name.with(leaf.VDI)} {
		if n := r.Node(name); n != nil && n != leaf && n.Name == name {
			return name
		}
	}
	return ""
}

// merge fills in the figures of a merge and adds it.
func (b *planner) merge(s Step, into *chain.Layer, run []*chain.Layer) error {
	base := b.r.node(into)
	s.Into = base.Name
	above := slices.Clone(b.merged[into.Key])
	for _, l := range run {
		n := b.r.node(l)
		s.Nodes = append(s.Nodes, n.Name)
		s.Bytes += n.Allocated
		s.Freed += n.PhysicalSize
		if !slices.Contains(above, n) {
			above = append(above, n)
		}
	}
	grows, err := b.growth(base, above)
	if err != nil {
		return fmt.Errorf("%s: %w", base.Name, err)
	}
	s.Space = max(0, grows-b.grown[into.Key])
	b.grown[into.Key] = grows
	s.Freed = max(0, s.Freed-s.Space)
	if b.free > 0 && s.Space > b.free {
		return &noRoomError{base.Name, s, s.Space, b.free}
	}
	b.add(s)
	return nil
}

// add adds a step and counts what is free after it.
func (b *planner) add(s Step) {
	b.p.Steps = append(b.p.Steps, s)
	if b.free == 0 {
		return
	}
	b.free = max(1, b.free-s.Space)
	for _, name := range s.Nodes {
		b.free += b.r.Node(name).onDisk
	}
}
