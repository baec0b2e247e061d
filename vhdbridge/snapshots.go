package vhdbridge

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Taken is a snapshot of a disk whose state is a layer of the disk's own chain.
type Taken struct {
	Node  *Node // of the snapshot's VDI: it has no data of its own
	State *Node // what it builds on: the disk's chain has that, too
}

// A Beside is another VDI that builds on a disk's chain and is no such snapshot.
type Beside struct {
	Node   *Node
	Reason string
}

// Snapshots lists the snapshots of a disk, the oldest state first, and what else builds
// on its chain. Taking a snapshot, XenServer makes the disk's node a hidden parent of two
// new leaves, the disk and the snapshot, which nobody writes to. While it has no data
// of its own and is as large as that parent, the parent's content is the snapshot's.
func (r *Repository) Snapshots(vdi string) (taken []Taken, beside []Beside, err error) {
	disk := r.Node(vdi)
	if disk == nil {
		return nil, nil, fmt.Errorf("%s: %w", vdi, ErrNoSuchVDI)
	}
	for above, l := disk.layer, disk.layer.Parent; l != nil; above, l = l, l.Parent {
		t, b := r.takenOn(l, above)
		taken, beside = append(taken, t...), append(beside, b...)
	}
	slices.Reverse(taken)
	return taken, beside, nil
}

// takenOn looks at what builds on l besides the chain, which goes on with above.
func (r *Repository) takenOn(l, above *chain.Layer) (taken []Taken, beside []Beside) {
	for _, c := range l.Children {
		if c == above || c.Unneeded() {
			continue
		}
		n, state := r.node(c), r.node(l)
		reason := ""
		switch {
		case len(c.Children) > 0:
			reason = "it is the base of a branch"
		case n.Err != nil:
			reason = n.Err.Error()
		case n.Format != formatVHD || n.Allocated > 0:
			reason = "it may have data of its own"
		case n.VirtualSize != state.VirtualSize:
			reason = "its size is another one than that of what it builds on"
		case !state.Hidden:
			reason = "what it builds on is a VDI itself"
		case len(taken) > 0:
			reason = "it has the same content as " + taken[0].Node.VDI
		}
		if reason == "" {
			taken = append(taken, Taken{n, state})
		} else {
			beside = append(beside, Beside{n, reason})
		}
	}
	return taken, beside
}
