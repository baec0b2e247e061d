package vhdbridge

import (
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Taken is a snapshot of a disk whose state is a layer of the disk's own chain.
type Taken struct {
	Node  *Node // of the snapshot's VDI: it has no data of its own
	State *Node // what it builds on: the disk's chain has that, too
}

// At is when it was taken, by what is known of it, else by its image.
func (t *Taken) At() time.Time {
	if k := t.Node.Known; k != nil && !k.SnapshotTime.IsZero() {
		return k.SnapshotTime
	}
	return t.Node.Created
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
		t, b := r.takenOn(disk, l, above)
		taken, beside = append(taken, t...), append(beside, b...)
	}
	slices.Reverse(taken)
	return taken, beside, nil
}

// tellsApart tells whether a snapshot is known as one of its own, whatever it holds.
func tellsApart(n *Node) bool {
	return n.Known != nil && (n.Known.Guest.Snapshot != "" || !n.Known.SnapshotTime.IsZero())
}

// ofAnother is the VDI whose snapshot a node is known to be, if that is another disk that is there.
func (r *Repository) ofAnother(n *Node, disk *Node) string {
	if n.Known == nil || n.Known.SnapshotOf == "" || n.Known.SnapshotOf == disk.VDI {
		return ""
	}
	if other := r.Node(n.Known.SnapshotOf); other == nil || other.Hidden {
		return ""
	}
	return n.Known.SnapshotOf
}

// takenOn looks at what builds on l besides the disk's chain, which goes on with above. The
// newest of several with one content comes first, as of all.
func (r *Repository) takenOn(disk *Node, l, above *chain.Layer) (taken []Taken, beside []Beside) {
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
		case r.ofAnother(n, disk) != "":
			reason = "it is a snapshot of " + r.ofAnother(n, disk)
		case len(taken) > 0 && (!tellsApart(n) || !tellsApart(taken[0].Node)):
			reason = "it has the same content as " + taken[0].Node.VDI
		}
		if reason == "" {
			taken = append(taken, Taken{n, state})
		} else {
			beside = append(beside, Beside{n, reason})
		}
	}
	slices.SortStableFunc(taken, func(a, b Taken) int { return b.At().Compare(a.At()) })
	return taken, beside
}
