package vhdbridge

import (
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Domain is a guest of another host to be, with the chains of VDIs as its disks. Its
// snapshots are those of the first disk.
type Domain struct {
	Disks     []*Node // of the VDIs that its disks are made of
	Taken     []Taken // snapshots of the first disk, the oldest first
	Snapshots []DomainSnapshot

	layers map[*Node]Group // that are made
}

// A DomainSnapshot is what becomes of a snapshot of XenServer's.
type DomainSnapshot struct {
	Taken
	Overlay           *Node // the layer above its state
	Time              time.Time
	Name, Description string
}

// A Namer names the snapshot that was taken at that time; free tells whether a name is.
type Namer func(at time.Time, free func(name string) bool) (name, description string)

// Place finds the domain's layers among groups, which it returns without the snapshots'
// own nodes, in which there is nothing. No snapshot is later than now. It is refused if a
// layer is not there, or if a layer above a snapshot were none's overlay: rotation
// takes such a one for another program's.
func (d *Domain) Place(groups []Group, now time.Time, name Namer) ([]Group, error) {
	groups = slices.DeleteFunc(groups, func(g Group) bool {
		return slices.ContainsFunc(d.Taken, func(t Taken) bool { return t.Node == g.Node })
	})
	d.layers = map[*Node]Group{}
	for _, g := range groups {
		d.layers[g.Node] = g
	}
	needed := slices.Clone(d.Disks)
	for _, t := range d.Taken {
		needed = append(needed, t.State)
	}
	for _, n := range needed {
		if _, ok := d.layers[n]; !ok {
			return nil, &chain.RefusedError{Path: n.Path, Reason: "its tree is damaged or in use: no domain can be defined on it"}
		}
	}
	d.nameSnapshots(now, name)
	return groups, d.checkOverlays()
}

// nameSnapshots decides times and names.
func (d *Domain) nameSnapshots(now time.Time, name Namer) {
	used := map[string]bool{}
	for i, at := range takenAt(d.Taken, now) {
		s := DomainSnapshot{Taken: d.Taken[i], Overlay: d.above(d.Taken[i].State), Time: at}
		s.Name, s.Description = name(at, func(name string) bool { return !used[name] })
		used[s.Name] = true
		d.Snapshots = append(d.Snapshots, s)
	}
}

// takenAt are the times of snapshots, the oldest first: in the order of their states and
// not in the future, whatever the images say, for retention goes by them.
func takenAt(taken []Taken, now time.Time) []time.Time {
	times := make([]time.Time, len(taken))
	for i, t := range slices.Backward(taken) {
		if t.Node.Created.Before(now) {
			now = t.Node.Created
		}
		times[i] = now
	}
	return times
}

// above is the layer of the first disk's chain that builds on n.
func (d *Domain) above(n *Node) *Node {
	layer := d.Disks[0]
	for d.layers[layer].Parent != n {
		layer = d.layers[layer].Parent
	}
	return layer
}

// checkOverlays wants each layer above the oldest snapshot's state to be the overlay of a
// snapshot.
func (d *Domain) checkOverlays() error {
	if len(d.Snapshots) == 0 {
		return nil
	}
	for n := d.Disks[0]; n != d.Snapshots[0].State; n = d.layers[n].Parent {
		if !slices.ContainsFunc(d.Snapshots, func(s DomainSnapshot) bool { return s.Overlay == n }) {
			return &chain.RefusedError{Path: n.Path, Reason: "it stays a layer of its own above a snapshot, and is none's overlay: " +
				"no run would go on from there; leave out --keep-all, or snapshots with --no-snapshots"}
		}
	}
	return nil
}

// Stem is what the layer of n is called, without extension. The overlays of snapshots are
// called as rotation calls them: it merges no others, and deletes no others.
func (d *Domain) Stem(n *Node) string {
	for _, s := range d.Snapshots {
		if s.Overlay == n {
			return d.Disks[0].VDI + "." + s.Name
		}
	}
	return n.VDI
}

// Layers are those of the chain up to that of n, base first.
func (d *Domain) Layers(n *Node) (layers []*Node) {
	for ; n != nil; n = d.layers[n].Parent {
		layers = append(layers, n)
	}
	slices.Reverse(layers)
	return layers
}
