package vhdbridge

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Group is nodes that become one layer when a repository is converted: the highest,
// and those below it that nobody else needs.
type Group struct {
	Node   *Node // the highest: the layer bears its name
	Layers int   // nodes in all
	Parent *Node // the highest of the group below; nil for a base
}

// Empty tells whether the layer reads as the one below it: its node has no data, and no other
// size.
func (g *Group) Empty() bool {
	n, p := g.Node, g.Parent
	return p != nil && g.Layers == 1 && n.Format == formatVHD && n.Err == nil && n.Allocated == 0 && n.VirtualSize == p.VirtualSize
}

// Groups lists the layers that what is sound in the repository, or in the chains of the
// VDIs alone, is converted into, parents first, and what is left out. Garbage is left out
// without a word; with keepAll each node is a layer of its own.
func (r *Repository) Groups(vdis []string, keepAll bool) ([]Group, []Spoiled, error) {
	wanted, err := r.wanted(vdis)
	if err != nil {
		return nil, nil, err
	}
	g := &grouper{r: r, wanted: wanted, keepAll: keepAll, needed: map[*chain.Layer]bool{}}
	for _, root := range r.forest.Roots() {
		g.judge(root, nil)
	}
	for _, root := range r.forest.Roots() {
		g.add(root, nil, 1)
	}
	return g.groups, g.left, nil
}

type grouper struct {
	r       *Repository
	wanted  map[string]bool
	keepAll bool
	needed  map[*chain.Layer]bool // by what is converted
	groups  []Group
	left    []Spoiled
}

// judge finds out which layers of a subtree are needed, and what is left out since it, or
// the node bad below it, cannot be read.
func (g *grouper) judge(l *chain.Layer, bad *Node) {
	if g.wanted != nil && !g.wanted[l.Key] {
		return
	}
	n := g.r.node(l)
	switch reason := n.unreadable(); {
	case bad != nil && n.Hidden:
	case bad != nil:
		g.left = append(g.left, Spoiled{Node: n.Name, Reason: "it builds on " + bad.Name})
	case reason != "":
		bad = n
		g.left = append(g.left, Spoiled{Node: n.Name, Reason: reason})
	case n.Memory && g.wanted == nil:
		g.left = append(g.left, Spoiled{n.Name, MemoryReason, true})
	default:
		g.needed[l] = l.Kept()
	}
	for _, c := range l.Children {
		g.judge(c, bad)
		g.needed[l] = g.needed[l] || g.needed[c]
	}
}

// MemoryReason is why a node is left out that nothing is wrong with.
const MemoryReason = "it holds the memory of a suspended guest, and is no disk"

// add makes the groups of a subtree. The layer is the n-th of the group that begins
// with it or below it.
func (g *grouper) add(l *chain.Layer, parent *Node, n int) {
	if !g.needed[l] {
		return
	}
	children := slices.DeleteFunc(slices.Clone(l.Children), func(c *chain.Layer) bool { return !g.needed[c] })
	if !g.keepAll && !l.Kept() && len(children) == 1 {
		g.add(children[0], parent, n+1)
		return
	}
	node := g.r.node(l)
	g.groups = append(g.groups, Group{node, n, parent})
	for _, c := range children {
		g.add(c, node, 1)
	}
}
