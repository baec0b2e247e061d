package decide

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// mostLayers is how many layers QEMU opens.
const mostLayers = 200

// link puts the layers of each disk on each other as the snapshots descend, and what the
// guest sees now on the current one.
func (a *Adoption) link(b *builder) {
	now := ""
	for i := range a.Snapshots {
		if a.Snapshots[i].Current {
			now = a.Snapshots[i].Snapshot
		}
	}
	for i := range a.Disks {
		d := &a.Disks[i]
		found := d.Layers
		d.Layers = nil
		for k := range a.Snapshots { // parents first
			x := &a.Snapshots[k]
			if n := slices.IndexFunc(found, func(l AdoptedLayer) bool { return l.Snapshot == x.Snapshot }); n >= 0 {
				d.put(found[n], a.below(d, x.Parent))
			}
		}
		d.put(AdoptedLayer{}, a.below(d, now))
		if n := len(d.ChainTo(d.deepest())); n > mostLayers {
			b.refuse(host.CodeChainLong, d.Target, fmt.Sprintf("the chain would have %d layers, and QEMU opens %d: delete internal snapshots that are not needed", n, mostLayers))
		}
	}
}

// below is the place of the layer of the snapshot, or of the nearest one above it in the tree
// that has a state of the disk; -1 for none.
func (a *Adoption) below(d *AdoptedDisk, snapshot string) int {
	for range a.Snapshots { // parents may go round in a circle
		x := a.snapshot(snapshot)
		if x == nil {
			break
		}
		if at := d.layer(snapshot); at >= 0 {
			return at
		}
		snapshot = x.Parent
	}
	return -1
}

// put appends a layer on another one, with what it has to store.
func (d *AdoptedDisk) put(l AdoptedLayer, on int) {
	state := d.state(l.ID)
	l.On, l.Bytes = on, state.Bytes
	if on >= 0 {
		if bytes, known := state.On[d.Layers[on].ID]; known { // else a clock went back
			l.Bytes = bytes
		}
	}
	d.Layers = append(d.Layers, l)
}

// deepest is the place of the layer with most others below it.
func (d *AdoptedDisk) deepest() (place int) {
	depth := make([]int, len(d.Layers))
	for i, l := range d.Layers {
		if l.On >= 0 {
			depth[i] = depth[l.On] + 1
		}
		if depth[i] > depth[place] {
			place = i
		}
	}
	return place
}

// place finds names for all files, and tells the snapshots which are theirs.
func (a *Adoption) place(b *builder) {
	p := &placing{b, a, map[string]bool{}}
	stems := b.stems()
	for i := range a.Disks {
		d := &a.Disks[i]
		if b.rule.OverlayDir == "" && d.Image().Kind.IsDevice() {
			b.refuse(host.CodeOverlayDir, d.Image().Path, "layers cannot lie beside a block device: set overlay_dir in the policy")
			return
		}
		d.stem = stems[d.Target]
		p.layers(d)
		p.overlays(d)
	}
}

// placing gives each file a name that is free.
type placing struct {
	*builder
	a     *Adoption
	taken map[string]bool
}

func (p *placing) layers(d *AdoptedDisk) {
	for k := range d.Layers {
		l := &d.Layers[k]
		if l.Snapshot == "" {
			l.Path = p.free(d, func(n int) string { return filepath.Base(host.Generation(d.stem+".qcow2", n)) })
			continue
		}
		l.Path = p.free(d, func(n int) string { return stateName(d.stem, l.Snapshot, n) + ".qcow2" })
		if !p.a.o.DropMemory && d.state(l.ID).Memory > 0 {
			l.Memory = p.free(d, func(n int) string { return stateName(d.stem, l.Snapshot, n) + ".memory" })
		}
	}
}

// stateName is the n-th name for the file with a snapshot's state, and not one that an
// overlay of ours could have.
func stateName(stem, snapshot string, n int) string {
	name := stem + "." + chain.SafeName(snapshot)
	if host.IsMade(name + ".qcow2") {
		name += ".state"
	}
	if n > 1 {
		name += fmt.Sprintf("-%d", n)
	}
	return name
}

// free is the first of the names at which nothing is.
func (p *placing) free(d *AdoptedDisk, name func(n int) string) string {
	dir := p.rule.OverlayDir
	if dir == "" {
		dir = filepath.Dir(d.Image().Path)
	}
	for n := 1; ; n++ {
		path := filepath.Join(dir, name(n))
		if len(filepath.Base(path)) > maxFileName {
			p.refuse(host.CodeNameTooLong, path, fmt.Sprintf("the layer's file name would be longer than %d bytes", maxFileName))
			return path
		}
		if !p.taken[path] && !p.w.Taken[path] && !p.d.Uses(path) && p.o.Reserved.claim(p.d.Name, []string{path}) {
			p.taken[path] = true
			return path
		}
	}
}

// overlays tells each snapshot what is above its state: on the way to what the guest sees
// now, if it is there, else the layer of the first child. Above the end of a branch there is
// nothing: libvirt deletes that when it goes back, too, and its name is all that is left.
func (p *placing) overlays(d *AdoptedDisk) {
	above := make([]string, len(d.Layers))
	for i := len(d.Layers) - 1; d.Layers[i].On >= 0; i = d.Layers[i].On {
		above[d.Layers[i].On] = d.Layers[i].Path
	}
	for i := range d.Layers {
		if on := d.Layers[i].On; on >= 0 && above[on] == "" {
			above[on] = d.Layers[i].Path
		}
	}
	for i := range d.Layers {
		x := p.a.snapshot(d.Layers[i].Snapshot)
		if x == nil {
			continue
		}
		if above[i] == "" {
			above[i] = p.free(d, func(n int) string { return stateName(d.stem, x.Snapshot+".end", n) + ".qcow2" })
		}
		x.Chains[d.Target], x.Overlays[d.Target] = d.ChainTo(i), above[i]
	}
}
