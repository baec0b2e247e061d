package vhdbridge

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Totals are a repository in figures, bytes.
type Totals struct {
	Physical    int64 `json:"physical"`        // of all nodes
	Visible     int64 `json:"visible-virtual"` // virtual sizes of the visible disks
	Reclaimable int64 `json:"reclaimable"`     // by all that follows
	Coalesce    int64 `json:"reclaimable-by-coalesce"`
	Leaf        int64 `json:"reclaimable-by-leaf-coalesce"`
	Garbage     int64 `json:"reclaimable-by-garbage"`
	Needed      int64 `json:"needed"`      // free space that doing all of it takes, step by step
	AtLimit     int   `json:"at-limit"`    // nodes whose chain is as long as allowed, or longer
	Interrupted int   `json:"interrupted"` // journals
}

// Totals adds up the repository. It reads tables of blocks where nodes can be merged.
func (r *Repository) Totals(fsys vfs.FS) (Totals, error) {
	t := Totals{Interrupted: len(r.Journals)}
	for _, n := range r.Nodes {
		t.Physical += n.PhysicalSize
		if !n.Hidden && n.Err == nil {
			t.Visible += n.VirtualSize
		}
		if n.Depth >= ChainLimit {
			t.AtLimit++
		}
	}
	p, err := r.Plan(fsys, Options{Leaf: true, Garbage: true})
	if err != nil {
		return t, err
	}
	t.add(p.Steps)
	return t, nil
}

func (t *Totals) add(steps []Step) {
	used := int64(0)
	for _, s := range steps {
		used += s.Space
		t.Needed = max(t.Needed, used)
		used -= s.Space + s.Freed
		switch s.Op {
		case OpDelete:
			t.Garbage += s.Freed
		case OpLeaf:
			t.Leaf += s.Freed
		default:
			t.Coalesce += s.Freed
		}
	}
	t.Reclaimable = t.Coalesce + t.Leaf + t.Garbage
}

// WriteTrees draws the trees as the storage manager's log does: * for hidden, the
// beginning of the name, sizes virtual/physical/allocated, and marks; then what the VDI is
// called, where that is known.
func (r *Repository) WriteTrees(w io.Writer) {
	for _, root := range r.forest.Roots() {
		r.writeTree(w, root, "")
	}
}

func (r *Repository) writeTree(w io.Writer, l *chain.Layer, indent string) {
	n := r.node(l)
	hidden := ""
	if n.Hidden {
		hidden = "*"
	}
	fmt.Fprintf(w, "%s%s%s(%s/%s/%s)%s%s\n", indent, hidden, shortName(n), size(n.VirtualSize), size(n.PhysicalSize), size(n.Allocated), n.marks(), n.called())
	for _, c := range l.Children {
		r.writeTree(w, c, indent+"    ")
	}
}

// shortName is the VDI as the storage manager's log has it: eight characters of a UUID.
func shortName(n *Node) string {
	if len(n.VDI) == 36 && n.VDI[8] == '-' {
		return n.VDI[:8]
	}
	return n.VDI
}

func (n *Node) marks() string {
	var marks []string
	if n.Format != formatVHD {
		marks = append(marks, n.Format)
	}
	for _, m := range []struct {
		is   bool
		mark string
	}{
		{n.Coalesceable, "coalesceable"}, {n.LeafCoalesceable, "leaf-coalesceable"}, {n.Garbage, "garbage"}, {n.InUse, "in use"},
		{n.name.old, "old leaf"}, {n.Memory, "memory of a guest"}, {n.Err != nil && n.Parent != "" && n.layer.Parent == nil, "orphan"},
		{n.Err != nil, "wrong"}, {n.Named != "", "parent by UUID"}, {n.Depth >= ChainLimit, fmt.Sprintf("depth %d", n.Depth)},
	} {
		if m.is {
			marks = append(marks, m.mark)
		}
	}
	if len(marks) == 0 {
		return ""
	}
	return "  [" + strings.Join(marks, ", ") + "]"
}

// size writes bytes as the storage manager's log does: in units of 1024, three digits.
func size(n int64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.3f%c", value, "BKMGT"[unit])
}

// Children returns the nodes that build on n.
func (r *Repository) Children(n *Node) []*Node {
	var out []*Node
	for _, l := range n.layer.Children {
		out = append(out, r.node(l))
	}
	return out
}

// ParentPath is where the parent of n is; "" for a base.
func (n *Node) ParentPath() string {
	if n.Parent == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(n.Path), n.Parent)
}
