package decide

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// What libvirt lists and what is in the images is matched by names alone, as libvirt does it.
// A name that fits nothing, or two states, is a matter for a person: a wrong state under
// a snapshot's name would be worse than a refusal.

// state returns the one with that ID; "" is what the guest sees now.
func (d *AdoptedDisk) state(id string) *host.InternalState {
	i := slices.IndexFunc(d.states, func(s host.InternalState) bool { return s.ID == id })
	return &d.states[i]
}

// layer is the place of the snapshot's layer, or -1.
func (d *AdoptedDisk) layer(snapshot string) int {
	return slices.IndexFunc(d.Layers, func(l AdoptedLayer) bool { return l.Snapshot == snapshot })
}

func (a *Adoption) disk(target string) *AdoptedDisk {
	for i := range a.Disks {
		if a.Disks[i].Target == target {
			return &a.Disks[i]
		}
	}
	return nil
}

// match finds the states of each snapshot, and lets those that libvirt does not list be
// snapshots, too. Then it puts all into one tree.
func (a *Adoption) match(b *builder) {
	for i := range b.d.Snapshots {
		s := &b.d.Snapshots[i]
		for k := range s.Disks {
			if sd := &s.Disks[k]; sd.Internal {
				a.matchDisk(b, s, sd)
			}
		}
		a.Snapshots = append(a.Snapshots, host.External{Snapshot: s.Name, Parent: s.Parent, Current: s.Current, Chains: map[string][]host.Layer{}, Overlays: map[string]string{}})
	}
	if len(b.plan.Refused) == 0 {
		a.unlisted()
		a.current()
		a.link(b)
	}
}

// matchDisk finds the state of a snapshot in the image of one disk.
func (a *Adoption) matchDisk(b *builder, s *host.Snapshot, sd *host.SnapshotDisk) {
	disk, forget := b.disk(sd.Target), fmt.Sprintf("if its state is not needed: virsh snapshot-delete %s %s --metadata", host.Quoted(b.d.Name), host.Quoted(s.Name))
	if disk == nil {
		b.refuse(host.CodeNoDisk, sd.Target, fmt.Sprintf("snapshot %s has a state of this disk, which the domain has not: attach it again; %s", s.Name, forget))
		return
	}
	if n := len(sd.State); n > 0 && sd.State[n-1] != disk.Active().Path && b.w.There(sd.State[n-1]) && b.w.Key(sd.State[n-1]) != disk.Active().Key() {
		b.refuse(host.CodeInternal, disk.Active().Path, fmt.Sprintf("snapshot %s has its state of %s inside another image, %s; %s", s.Name, sd.Target, sd.State[n-1], forget))
		return
	}
	d := a.disk(sd.Target)
	if code, path, detail := host.ChainProblem(disk); d == nil && code != "" {
		b.refuse(code, path, detail)
		return
	}
	if d == nil {
		b.refuse(host.CodeInternal, disk.Active().Path, fmt.Sprintf("libvirt lists snapshot %s, but the image has no internal snapshots; %s", s.Name, forget))
		return
	}
	found := d.named(s.Name)
	switch len(found) {
	case 0:
		b.refuse(host.CodeInternal, disk.Active().Path, fmt.Sprintf("libvirt lists snapshot %s, but the image has none of that name (%s): if it is one of these, call it so again (virsh snapshot-edit %s %s --rename); %s",
			s.Name, d.names(b.d), host.Quoted(b.d.Name), host.Quoted(s.Name), forget))
	case 1:
		d.Layers = append(d.Layers, AdoptedLayer{Snapshot: s.Name, ID: found[0].ID, Name: s.Name})
	default:
		b.refuse(host.CodeInternal, disk.Active().Path, fmt.Sprintf("the image has %d internal snapshots with the name %s: delete the wrong ones by their numbers (qemu-img snapshot -l lists them)", len(found), strconv.Quote(s.Name)))
	}
}

// named are the internal snapshots of that name.
func (d *AdoptedDisk) named(name string) (found []*host.InternalState) {
	for i := range d.states {
		if s := &d.states[i]; s.ID != "" && s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// mostNames is how many names a refusal tells.
const mostNames = 8

// names tells what an image has that no snapshot of libvirt's is.
func (d *AdoptedDisk) names(domain *host.Domain) string {
	var names []string
	for i := range d.states {
		if s := &d.states[i]; s.ID != "" && domain.Snapshot(s.Name) == nil {
			names = append(names, strconv.Quote(s.Name))
		}
	}
	if len(names) > mostNames {
		names = append(names[:mostNames], "…")
	}
	if len(names) == 0 {
		return "it has none that libvirt does not list"
	}
	return "it has " + strings.Join(names, ", ")
}

// taken tells whether a snapshot has that state.
func (d *AdoptedDisk) taken(id string) bool {
	return slices.ContainsFunc(d.Layers, func(l AdoptedLayer) bool { return l.ID == id })
}

// unlisted makes snapshots of the states that libvirt does not list, in the order of their
// dates. States of several disks are one snapshot if they have one name.
func (a *Adoption) unlisted() {
	for i := range a.Disks {
		d := &a.Disks[i]
		for k := range d.states {
			s := &d.states[k]
			if s.ID == "" || d.taken(s.ID) {
				continue
			}
			x := a.unlistedAs(d, s)
			d.Layers = append(d.Layers, AdoptedLayer{Snapshot: x.Snapshot, ID: s.ID, Name: s.Name})
		}
	}
}

// unlistedAs returns the snapshot that a state becomes: a new one, or that of another disk.
func (a *Adoption) unlistedAs(d *AdoptedDisk, s *host.InternalState) *host.External {
	description := "Internal snapshot " + strconv.QuoteToGraphic(s.Name) + " that libvirt did not list"
	for i := range a.Snapshots {
		if x := &a.Snapshots[i]; x.New && x.Description == description && d.layer(x.Snapshot) < 0 {
			return x
		}
	}
	name := chain.SafeName(s.Name)
	for n := 2; a.snapshot(name) != nil; n++ {
		name = fmt.Sprintf("%s-%d", chain.SafeName(s.Name), n)
	}
	a.Snapshots = append(a.Snapshots, host.External{Snapshot: name, Parent: a.nearest(d, s), New: true, Time: s.Time, Description: description,
		Chains: map[string][]host.Layer{}, Overlays: map[string]string{}})
	return &a.Snapshots[len(a.Snapshots)-1]
}

func (a *Adoption) snapshot(name string) *host.External {
	for i := range a.Snapshots {
		if a.Snapshots[i].Snapshot == name {
			return &a.Snapshots[i]
		}
	}
	return nil
}

// nearest is the snapshot of an earlier state on which s has to store least, or "".
func (a *Adoption) nearest(d *AdoptedDisk, s *host.InternalState) (name string) {
	least := s.Bytes
	for i := range d.states {
		e := &d.states[i]
		bytes, earlier := s.On[e.ID]
		k := slices.IndexFunc(d.Layers, func(l AdoptedLayer) bool { return l.ID == e.ID })
		if earlier && e.ID != "" && k >= 0 && bytes <= least {
			least, name = bytes, d.Layers[k].Snapshot
		}
	}
	return name
}

// current lets the next snapshot descend from the one that libvirt has as current, or else
// from what the present has most in common with.
func (a *Adoption) current() {
	if slices.ContainsFunc(a.Snapshots, func(x host.External) bool { return x.Current }) || len(a.Disks) == 0 {
		return
	}
	d := &a.Disks[0]
	if x := a.snapshot(a.nearest(d, d.state(""))); x != nil {
		x.Current = true
	}
}
