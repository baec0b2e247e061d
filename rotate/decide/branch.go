package decide

import (
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// DiskFor returns the disk of the domain, or the branch, on which m is to be done.
func (m *Merge) DiskFor(d *host.Domain) *host.Disk {
	if d == nil {
		return nil
	}
	if m.Branch {
		return host.BranchWith(d.Branches, m.Top.Path)
	}
	return host.DiskOf(d, m.Disk)
}

// diskFor is the same in the builder's world.
func (b *builder) diskFor(m *Merge) *host.Disk {
	if m.Branch {
		return host.BranchWith(b.branches, m.Top.Path)
	}
	return b.disk(m.Disk)
}

// resumeBranch notes where the data of merged layers of a branch is, if the intent
// says that the merge is done, or the layer above builds on the base already: the
// engine relinks it when all data is durable.
func (b *builder) resumeBranch(im *journal.Merge) {
	top := im.Gone[len(im.Gone)-1].Path
	if !im.Done && (host.BranchWith(b.branches, top) != nil || host.BranchWith(b.branches, im.Base) == nil) {
		return
	}
	base := host.Layer{Path: im.Base, Format: "qcow2", Kind: "file"}
	for i := range b.branches {
		disk := &b.branches[i]
		if k := disk.Index(im.Base); k >= 0 {
			base = disk.Chain[k]
		}
		disk.Chain = slices.DeleteFunc(disk.Chain, func(l host.Layer) bool {
			return slices.ContainsFunc(im.Gone, func(f journal.File) bool { return f.Path == l.Path })
		})
	}
	for _, f := range im.Gone {
		b.moved[f.Path] = base
		b.leaveForest(f.Path)
	}
}

// leaveForest merges a layer of which everything has been moved down.
func (b *builder) leaveForest(path string) {
	if l := b.forest.Find(b.w.Key(path)); l != nil && l.Parent != nil {
		b.forest.Merge(l)
	}
}

// branchReason tells a merge on a branch from those of the disks.
func (m *Merge) branchReason() string {
	return "on a branch, nobody keeps the state in " + filepath.Base(m.Base.Path)
}
