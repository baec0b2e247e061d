package decide

import (
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// collectGarbage plans the deletion of layers on branches that nobody keeps and that
// are on record as free.
func (b *builder) collectGarbage() {
	var garbage []journal.File
	var steps []Step
	for _, l := range b.forest.Layers() {
		left, there := b.w.Left[l.Path]
		if !l.Garbage() || !there || left.InUse || host.BranchWith(b.disks, l.Path) != nil || b.inMetadata(l.Path) || b.w.StrangeBeside(l.Path) != nil {
			continue
		}
		if shareInDoubt(b.w, l.Path) != nil || !b.w.MayGo(b.d, &host.Layer{Path: l.Path, ID: left.ID}) {
			continue
		}
		garbage = append(garbage, journal.File{Path: l.Path, ID: left.ID})
		steps = append(steps, Step{Op: OpDeleteFile, Path: l.Path, Bytes: left.Allocated, Reason: "nobody keeps it, and nothing builds on it"})
	}
	if len(garbage) == 0 || !b.open() || b.waitsForMerge() {
		return
	}
	end := b.begin(Group{Garbage: garbage})
	for _, s := range steps {
		b.add(s)
	}
	end()
}
