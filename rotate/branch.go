package rotate

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// Going back to a snapshot leaves a branch: layers that hold states, and which no disk
// has in its chain. No guest has them open, whether the domain runs or not: the engine
// merges them by the same rules as all others. Nothing in a chain tells that this was
// done before the metadata does: the intent says so.

// branches looks at the chains of the domain's states that are on branches, one for
// each end of a branch. What cannot be read in full is left out: nothing of it changes.
func (o *Observer) branches(d *Domain, in *Intent) []Disk {
	var found []Disk
	look := newLooker(o) // of its own: for the others these are neighbours
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			path := stateLayer(d, &sd)
			if path == "" || d.hasBelow(sd.Overlay) || !isOverlay(path) || d.uses(path) {
				continue
			}
			end := sd.Overlay // it goes with the branch as long as it is there
			if !exists(end) {
				end = path
			}
			disk := look.branch(sd.Target, end)
			code, _, _ := ChainProblem(&disk)
			if code == "" && (disk.index(path) >= 0 || in.mergedOnBranch(path)) {
				found = append(found, disk)
			}
		}
	}
	return slices.DeleteFunc(found, func(disk Disk) bool {
		return slices.ContainsFunc(found, func(o Disk) bool { return o.within(&disk) })
	})
}

// stateChains looks at what the states of the first n domains build on that are in no
// disk's chain, as a restore wants to know.
func (o *Observer) stateChains(w *World, n int) {
	look := newLooker(o)
	w.each(func(d *Domain) {
		if !slices.ContainsFunc(w.Domains[:n], func(fresh Domain) bool { return fresh.Name == d.Name }) {
			return
		}
		for i := range d.Snapshots {
			for _, state := range d.States(&d.Snapshots[i]) {
				if format := state.KnownFormat(); format != "" && !d.uses(state.Path) {
					w.StateChains[state.Path] = look.chain(state.Target, state.Path, format)
				}
			}
		}
	})
}

// KnownFormat is what libvirt has, or what overlays of ours have; "" where it is not known.
func (s *StateLayer) KnownFormat() string {
	if s.Format == "" && isOverlay(s.Path) {
		return "qcow2"
	}
	return s.Format
}

// mergedOnBranch tells whether a merge of the intent takes the layer out of a branch.
func (in *Intent) mergedOnBranch(path string) bool {
	return in != nil && slices.ContainsFunc(in.Merges, func(m intentMerge) bool {
		return m.Branch && slices.ContainsFunc(m.Gone, func(f intentFile) bool { return f.Path == path })
	})
}

// branch looks at the chain that ends at path.
func (k *looker) branch(target, path string) Disk {
	disk := k.chain(target, path, "qcow2")
	disk.Branch = true
	return disk
}

// chain looks at the image at path, and at what it builds on.
func (k *looker) chain(target, path, format string) Disk {
	disk := Disk{Target: target, Kind: "file", Device: "disk", Chain: []Layer{{Path: path, Format: format, Kind: "file"}}}
	k.disk(newWorld(), &Domain{State: ShutOff}, &disk)
	return disk
}

// within tells whether all of the disk's chain is the lower part of d's.
func (d *Disk) within(disk *Disk) bool {
	k := d.index(disk.Active().Path)
	return k >= 0 && k < len(d.Chain)-1
}

// branchWith returns the branch that has the layer, or nil.
func branchWith(branches []Disk, path string) *Disk {
	for i := range branches {
		if branches[i].index(path) >= 0 {
			return &branches[i]
		}
	}
	return nil
}

// diskFor returns the disk of the domain, or the branch, on which m is to be done.
func (m *merge) diskFor(d *Domain) *Disk {
	if d == nil {
		return nil
	}
	if m.branch {
		return branchWith(d.Branches, m.Top.Path)
	}
	return diskOf(d, m.Disk)
}

// diskFor is the same in the builder's world.
func (b *builder) diskFor(m *merge) *Disk {
	if m.branch {
		return branchWith(b.branches, m.Top.Path)
	}
	return b.disk(m.Disk)
}

// resumeBranch notes where the data of merged layers of a branch is, if the intent
// says that the merge is done, or the layer above builds on the base already: the
// engine relinks it when all data is durable.
func (b *builder) resumeBranch(im *intentMerge) {
	top := im.Gone[len(im.Gone)-1].Path
	if !im.Done && (branchWith(b.branches, top) != nil || branchWith(b.branches, im.Base) == nil) {
		return
	}
	base := Layer{Path: im.Base, Format: "qcow2", Kind: "file"}
	for i := range b.branches {
		disk := &b.branches[i]
		if k := disk.index(im.Base); k >= 0 {
			base = disk.Chain[k]
		}
		disk.Chain = slices.DeleteFunc(disk.Chain, func(l Layer) bool {
			return slices.ContainsFunc(im.Gone, func(f intentFile) bool { return f.Path == l.Path })
		})
	}
	for _, f := range im.Gone {
		b.moved[f.Path] = base
		b.leaveForest(f.Path)
	}
}

// leaveForest merges a layer of which everything has been moved down.
func (b *builder) leaveForest(path string) {
	if l := b.forest.Find(b.w.key(path)); l != nil && l.Parent != nil {
		b.forest.Merge(l)
	}
}

// mergeBranch has the engine merge layers of a branch, and puts on record that it is
// done while they are locked.
func (r *domainRun) mergeBranch(ctx context.Context, m *merge, e EngineMerge, progress func(done, total int64)) error {
	return r.Engine.Merge(ctx, e, progress, func() error {
		r.merged = true
		r.boundary("merged, not on record")
		d := r.w.Domain(m.Domain)
		in := r.w.Intents[d.UUID]
		if in == nil {
			return fmt.Errorf("%s: its intent is gone", m.Domain)
		}
		done := *in
		done.Merges = slices.Clone(in.Merges)
		for i := range done.Merges {
			if done.Merges[i].Branch && done.Merges[i].Base == m.Base.Path {
				done.Merges[i].Done = true
			}
		}
		return newJournal(r.Observer.StateDir).write(done)
	})
}

// branchReason tells a merge on a branch from those of the disks.
func (m *merge) branchReason() string {
	return "on a branch, nobody keeps the state in " + filepath.Base(m.Base.Path)
}
