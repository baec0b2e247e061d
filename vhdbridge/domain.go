package vhdbridge

import (
	"cmp"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Domain is a guest of another host to be, with the chains of VDIs as its disks.
type Domain struct {
	Disks     []*Node // of the VDIs that its disks are made of
	Sets      []Set   // its snapshots, the oldest first
	Stems     map[*Node]string
	Snapshots []DomainSnapshot

	layers map[*Node]Group // that are made
}

// A DomainSnapshot is what becomes of a snapshot of XenServer's. States and overlays, which
// are the layers above them, are by disk; nil: the snapshot has none of that disk.
type DomainSnapshot struct {
	Set
	States, Overlays  []*Node
	Time              time.Time
	Name, Description string
}

// A Namer names the snapshot that was taken at that time and was called so; free tells
// whether a name is.
type Namer func(at time.Time, called string, free func(name string) bool) (name, description string)

// Place finds the domain's layers among groups, which it returns without the snapshots'
// own nodes, in which there is nothing. Of several snapshots with one content all but the first
// become layers without data, one on the other: each has a state of its own then. No
// snapshot is later than now. It is refused if a layer is not there, or if a layer above a
// snapshot were none's overlay: rotation takes such a one for another program's.
func (d *Domain) Place(groups []Group, now time.Time, name Namer) ([]Group, error) {
	d.layers = map[*Node]Group{}
	for _, g := range groups {
		d.layers[g.Node] = g
	}
	if err := d.wantAll(); err != nil {
		return nil, err
	}
	d.Snapshots = make([]DomainSnapshot, len(d.Sets))
	for i := range d.Sets {
		n := len(d.Disks)
		d.Snapshots[i] = DomainSnapshot{Set: d.Sets[i], States: make([]*Node, n), Overlays: make([]*Node, n)}
	}
	for i := range d.Disks {
		d.stack(i)
	}
	d.dropEmpty()
	d.nameSnapshots(now, name)
	return d.inOrder(groups), d.checkOverlays()
}

// wantAll sees that all layers are there that snapshots and disks need.
func (d *Domain) wantAll() error {
	needed := slices.Clone(d.Disks)
	for _, s := range d.Sets {
		for _, t := range s.Taken {
			if t != nil {
				needed = append(needed, t.State)
			}
		}
	}
	for _, n := range needed {
		if _, ok := d.layers[n]; !ok {
			return &chain.RefusedError{Path: n.Path, Reason: "its tree is damaged or in use: no domain can be defined on it"}
		}
	}
	return nil
}

// stack finds state and overlay of each snapshot of the i-th disk. The next one with the same
// content gets a layer without data between the state and what builds on it.
func (d *Domain) stack(i int) {
	var last *DomainSnapshot
	for k := range d.Snapshots {
		s := &d.Snapshots[k]
		t := s.Taken[i]
		if t == nil {
			continue
		}
		s.States[i] = t.State
		if last != nil && last.Taken[i].State == t.State && last.Overlays[i] != nil {
			above, below := last.Overlays[i], last.States[i]
			d.layers[t.Node] = Group{Node: t.Node, Layers: 1, Parent: below}
			g := d.layers[above]
			g.Parent = t.Node
			d.layers[above] = g
			last.Overlays[i], s.States[i] = t.Node, t.Node
		}
		s.Overlays[i] = d.above(i, s.States[i])
		last = s
	}
}

// dropEmpty leaves out the layers of snapshots that are not needed for their content.
func (d *Domain) dropEmpty() {
	for _, s := range d.Snapshots {
		for i, t := range s.Taken {
			if t != nil && s.States[i] != t.Node {
				delete(d.layers, t.Node)
			}
		}
	}
}

// inOrder lists the layers, each behind the one that it builds on.
func (d *Domain) inOrder(groups []Group) (list []Group) {
	seen := map[*Node]bool{}
	var put func(n *Node)
	put = func(n *Node) {
		g, made := d.layers[n]
		if !made || seen[n] {
			return
		}
		seen[n] = true
		if g.Parent != nil {
			put(g.Parent)
		}
		list = append(list, g)
	}
	for _, g := range groups {
		put(g.Node)
	}
	return list
}

// nameSnapshots decides times and names.
func (d *Domain) nameSnapshots(now time.Time, name Namer) {
	used := map[string]bool{}
	for i, at := range takenAt(d.Sets, now) {
		s := &d.Snapshots[i]
		s.Time = at
		s.Name, s.Description = name(at, s.Set.Name, func(name string) bool { return !used[name] })
		used[s.Name] = true
	}
}

// takenAt are the times of snapshots, the oldest first: in the order of their states and
// not in the future, whatever the images say, for retention goes by them.
func takenAt(sets []Set, now time.Time) []time.Time {
	times := make([]time.Time, len(sets))
	for i, s := range slices.Backward(sets) {
		if s.Time.Before(now) {
			now = s.Time
		}
		times[i] = now
	}
	return times
}

// above is the layer of the i-th disk's chain that builds on n; nil: none does, since disks
// have layers in common.
func (d *Domain) above(i int, n *Node) *Node {
	layer := d.Disks[i]
	for layer != nil && d.layers[layer].Parent != n {
		layer = d.layers[layer].Parent
	}
	return layer
}

// oldest is the lowest state of the i-th disk; nil: it has no snapshots.
func (d *Domain) oldest(i int) *Node {
	for _, s := range d.Snapshots {
		if s.States[i] != nil {
			return s.States[i]
		}
	}
	return nil
}

// checkOverlays wants each layer above the oldest snapshot's state to be the overlay of a
// snapshot.
func (d *Domain) checkOverlays() error {
	for i, disk := range d.Disks {
		for _, s := range d.Snapshots {
			if s.States[i] != nil && s.Overlays[i] == nil {
				return &chain.RefusedError{Path: disk.Path, Reason: "another disk of the guest has its snapshots' layers, too: leave snapshots out with --no-snapshots"}
			}
		}
		state := d.oldest(i)
		for n := disk; state != nil && n != state; n = d.layers[n].Parent {
			if !slices.ContainsFunc(d.Snapshots, func(s DomainSnapshot) bool { return s.Overlays[i] == n }) {
				return &chain.RefusedError{Path: n.Path, Reason: "it stays a layer of its own above a snapshot, and is none's overlay: " +
					"no run would go on from there; leave out --keep-all, or snapshots with --no-snapshots"}
			}
		}
	}
	return nil
}

// Stem is what the layer of n is called, without extension. The overlays of snapshots are
// called as rotation calls them: it merges no others, and deletes no others. What they all
// build on has the disk's own name, where it has one.
func (d *Domain) Stem(n *Node) string {
	for i, disk := range d.Disks {
		for _, s := range d.Snapshots {
			if s.Overlays[i] == n {
				return d.own(disk) + "." + s.Name
			}
		}
		if d.Stems[disk] != "" && d.oldest(i) == n {
			return d.Stems[disk]
		}
	}
	return d.own(n)
}

func (d *Domain) own(n *Node) string { return cmp.Or(d.Stems[n], n.VDI) }

// Layers are those of the chain up to that of n, base first.
func (d *Domain) Layers(n *Node) (layers []*Node) {
	for ; n != nil; n = d.layers[n].Parent {
		layers = append(layers, n)
	}
	slices.Reverse(layers)
	return layers
}
