package vhdbridge

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

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
		if n.used != "" {
			n.layer.Keep(n.used)
		}
	}
	r.doubtNodes()
	spoiled := r.spoiled()
	for _, n := range r.Nodes {
		n.Garbage = n.layer.Unneeded() && !spoiled[root(n.layer)] && len(r.Doubts) == 0
	}
	for _, n := range r.Nodes {
		sound := !spoiled[root(n.layer)] && n.layer.Parent != nil
		n.LeafCoalesceable = sound && n.layer.LeafCoalesceable() && r.taken(r.node(n.layer.Parent), n) == ""
		n.Coalesceable = sound && n.Hidden && len(n.layer.Children) > 0 && n.layer.Parent.Coalesceable() && !n.Garbage
	}
}

func (r *Repository) doubt(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Doubts, text) {
		r.Doubts = append(r.Doubts, text)
	}
}

// doubtNodes notes what keeps all garbage: as long as one node is not as it should be,
// what seems to be needed by none can be what that one lacks.
func (r *Repository) doubtNodes() {
	for _, n := range r.Nodes {
		if reason := n.Odd(); reason != "" {
			r.doubt("%s: %s", n.Name, reason)
		}
	}
	if !r.HasVDI() {
		r.doubt("%s", BaseCopiesOnly)
	}
}

// HasVDI tells whether there is a visible node, however it is.
func (r *Repository) HasVDI() bool {
	return slices.ContainsFunc(r.Nodes, func(n *Node) bool { return !n.Hidden && !n.name.old })
}

// Unneeded tells whether there is what would be garbage but for doubts.
func (r *Repository) Unneeded() bool {
	return slices.ContainsFunc(r.Nodes, func(n *Node) bool { return n.layer.Unneeded() })
}

// BaseCopiesOnly is what is said of a repository without a VDI.
const BaseCopiesOnly = "there are base copies only, and no VDI: what builds on them is missing, or was not copied"

// Odd tells why a node cannot be taken for what it seems; "" if it can.
func (n *Node) Odd() string {
	if reason := n.unreadable(); reason != "" {
		return reason
	}
	if n.twin != "" {
		return "it is the same file as " + n.twin + ": one of the two is a link"
	}
	if n.Named != "" {
		return fmt.Sprintf("it calls its parent %s, which is here as %s, by its UUID; rename that, or: %s", n.Named, n.Parent, n.rebase(n.Format, n.Parent))
	}
	return ""
}

// unreadable tells why a node is not converted; "" if it can be.
func (n *Node) unreadable() string {
	switch {
	case n.Err != nil:
		return n.Err.Error()
	case n.InUse:
		return "a tapdisk has it open, or crashed while it had; " + n.release()
	case n.journal:
		return "its leaf coalesce was interrupted, which is on record: virt-rotate sr coalesce finishes or undoes it"
	case n.name.old:
		return "the collector was interrupted while it gave its name to its parent, and there is no journal of that; " +
			"what " + n.VDI + " has is what counts, if it is there, else rename this one to " + n.name.with(n.VDI)
	}
	return ""
}

// Fixed tells why nothing in the tree of a node is changed, though it can be read.
func (n *Node) Fixed() string {
	switch reason := n.Odd(); {
	case reason != "":
		return reason
	case n.Device:
		return DeviceReason
	case n.link:
		return "it is a symbolic link: name the directory that has the file itself"
	case n.corrupt:
		return "it is marked as corrupt: check and repair it first (virt-rotate image check -r all)"
	case n.noEnd && n.layer.Active && !n.relink: // what relinks writes behind the end, too
		return "its end has no footer, as while a tapdisk adds blocks or after it crashed; " + n.release()
	case n.used != "":
		return n.used + " builds on it, and is no node by its name; move it away if nobody needs it"
	}
	return ""
}

// release is the remedy for a node that a host seems to have in use.
func (n *Node) release() string {
	return "if no host uses it: virt-rotate sr repair --not-in-use " + vfs.Quoted(filepath.Dir(n.Path))
}

// DeviceReason is why logical volumes are only read.
const DeviceReason = "it is a device: logical volumes cannot be made larger or removed here; copy the repository to files, or convert it"

// spoiled are the roots of the trees in which nothing is changed.
func (r *Repository) spoiled() map[*chain.Layer]bool {
	spoiled := map[*chain.Layer]bool{}
	for _, n := range r.Nodes {
		if n.Fixed() != "" {
			spoiled[root(n.layer)] = true
		}
		if n.blind || r.lacks(n) || len(r.Unseen) > 0 {
			r.spoilFormats(n, spoiled)
		}
	}
	return spoiled
}

// lacks tells whether the parent of n is missing and nothing but its name tells which one
// that is.
func (r *Repository) lacks(n *Node) bool {
	return n.Parent != "" && n.wants == "" && n.layer.Parent == nil
}

// spoilFormats spoils the trees with a node that n, whose parent is not known, could build
// on.
func (r *Repository) spoilFormats(n *Node, spoiled map[*chain.Layer]bool) {
	for _, o := range r.Nodes {
		if n.blind || len(r.Unseen) > 0 || n.backingFormat == "" || formatOf(n.backingFormat) == o.Format {
			spoiled[root(o.layer)] = true
		}
	}
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
