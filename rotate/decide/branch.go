package decide

import (
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A branch is a chain of states that no disk has in its own, since a restore. Its layers
// are committed like others, by the engine, whether the guest runs or not.
type branchWay struct{ commitWay }

// Kind implements Way.
func (branchWay) Kind() journal.Kind { return journal.KindBranch }

func (branchWay) on(_, branches []host.Disk, m *Merge) *host.Disk {
	return host.BranchWith(branches, m.Top.Path)
}

func (branchWay) at(b *builder, disk *host.Disk, k int) (Merge, bool) {
	if !disk.Branch {
		return Merge{}, false
	}
	return b.commitAt(disk, k), true
}

func (branchWay) reason(m *Merge) string {
	return "on a branch, nobody keeps the state in " + filepath.Base(m.Base.Path)
}

// resume notes where the data of merged layers of a branch is, if the intent
// says that the merge is done, or the layer above builds on the base already: the
// engine relinks it when all data is durable.
func (branchWay) resume(b *builder, im *journal.Merge, _ *Group) {
	top := im.Gone[len(im.Gone)-1].Path
	if !im.Done && (host.BranchWith(b.branches, top) != nil || host.BranchWith(b.branches, im.Base) == nil) {
		return
	}
	base := host.Layer{Path: im.Base, Format: "qcow2", Kind: host.KindFile}
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
