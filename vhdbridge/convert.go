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

// Groups lists the layers that the repository's sound trees, or the chains of the VDIs
// alone, are converted into, parents first. Garbage is left out; with keepAll each node
// is a layer of its own.
func (r *Repository) Groups(vdis []string, keepAll bool) ([]Group, []Spoiled, error) {
	wanted, err := r.wanted(vdis)
	if err != nil {
		return nil, nil, err
	}
	g := &grouper{r: r, wanted: wanted, keepAll: keepAll}
	spoiled := r.unreadable()
	for _, root := range r.forest.Roots() {
		if !spoiled[root] {
			g.add(root, nil, 1)
		}
	}
	return g.groups, r.spoiledList(), nil
}

// unreadable are the roots of the trees with a node that cannot be read in full. What
// is in use is not to be read either: it changes meanwhile.
func (r *Repository) unreadable() map[*chain.Layer]bool {
	bad := map[*chain.Layer]bool{}
	for _, n := range r.Nodes {
		if n.Err != nil || n.InUse || n.name.old {
			bad[root(n.layer)] = true
		}
	}
	return bad
}

type grouper struct {
	r       *Repository
	wanted  map[string]bool
	keepAll bool
	groups  []Group
}

// stays tells whether the layer, or anything on it, is to be converted.
func (g *grouper) stays(l *chain.Layer) bool {
	return (g.wanted == nil || g.wanted[l.Key]) && !l.Unneeded()
}

// add makes the groups of a subtree. The layer is the n-th of the group that begins
// with it or below it.
func (g *grouper) add(l *chain.Layer, parent *Node, n int) {
	if !g.stays(l) {
		return
	}
	children := slices.DeleteFunc(slices.Clone(l.Children), func(c *chain.Layer) bool { return !g.stays(c) })
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
