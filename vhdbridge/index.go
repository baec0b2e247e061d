package vhdbridge

// A nodeIndex finds nodes by what they are called.
type nodeIndex struct {
	byName map[string]*Node
	byVDI  map[string][]*Node // those that a leaf coalesce has set aside (OLD_) left out
}

func newNodeIndex(nodes []*Node) *nodeIndex {
	x := &nodeIndex{map[string]*Node{}, map[string][]*Node{}}
	for _, n := range nodes {
		x.byName[n.Name] = n
		if !n.name.old {
			x.byVDI[n.VDI] = append(x.byVDI[n.VDI], n)
		}
	}
	return x
}

// Node finds a node by file name, or by VDI where that is not ambiguous; nil if there
// is none.
func (r *Repository) Node(name string) *Node {
	if r.index == nil {
		r.index = newNodeIndex(r.Nodes)
	}
	if n := r.index.byName[name]; n != nil {
		return n
	}
	if all := r.index.byVDI[name]; len(all) == 1 {
		return all[0]
	}
	return nil
}

// renamed says that a node has got another name.
func (r *Repository) renamed() { r.index = nil }
