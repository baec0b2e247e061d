package rotate

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// finishEarlier plans what an interrupted run left to do: wait for the merge
// that still runs, bring the metadata in order, delete the merged files.
func (b *builder) finishEarlier() {
	in := b.w.Intents[b.d.UUID]
	if in == nil {
		b.checkStates()
		return
	}
	if in.Broken != "" {
		b.refuse(CodeIntent, "", in.Broken)
		return
	}
	g := group{}
	for i := range in.Merges {
		b.resume(&in.Merges[i], &g)
	}
	if b.checkStates(); len(b.plan.Refused) > 0 {
		return
	}
	b.collect(in, &g)
	g.keepIntent = len(b.plan.Refused) > 0 || len(b.lost) > 0 || slices.ContainsFunc(b.disks, b.startedOnOld)
	end := b.begin(g)
	for i := range g.merges {
		step := mergeStep(&g.merges[i], nil)
		step.Reason = "an interrupted run started it, and it still runs"
		b.add(step)
	}
	for _, target := range g.copies {
		b.add(Step{Op: OpEndCopy, Disk: target, Reason: "an interrupted run started it, and has not moved the guest onto it"})
	}
	b.redefine(nil)
	for _, l := range g.leftovers {
		b.add(Step{Op: OpDeleteFile, Path: l.path, Bytes: b.w.Left[l.path].Allocated,
			Reason: "left behind by a run that was interrupted (" + in.Started.Format("2006-01-02 15:04:05") + ")"})
	}
	end()
	b.plan.forget = len(b.plan.Steps) == 0 && !g.keepIntent
}

// resume takes over the merge if its job runs, and notes where data went if it is done.
func (b *builder) resume(im *intentMerge, g *group) {
	if im.Branch {
		b.resumeBranch(im)
		return
	}
	disk := b.disk(im.Disk)
	if disk == nil {
		return
	}
	if im.Pull != "" {
		b.resumePull(disk, im, g)
		return
	}
	if im.Graft != nil {
		b.resumeGraft(disk, im, g)
		return
	}
	base := disk.index(im.Base)
	if base < 0 {
		return
	}
	for _, f := range im.Gone {
		if disk.index(f.Path) < 0 {
			b.moved[f.Path] = disk.Chain[base]
		}
	}
	if disk.Job == nil || !im.runs(disk.Job, len(disk.Chain)-1 == base+len(im.Gone)) || disk.index(im.Gone[len(im.Gone)-1].Path) != base+len(im.Gone) {
		return
	}
	m := b.mergeAt(disk, base+1)
	m.Adopt = true
	for range im.Gone {
		b.absorb(disk, base+1, &m)
	}
	m.after = slices.Clone(disk.Chain)
	disk.Job = nil
	g.merges = append(g.merges, m)
}

// collect finds the files that the intent names and nothing uses any more.
func (b *builder) collect(in *Intent, g *group) {
	for _, m := range in.Merges {
		for _, f := range m.Gone {
			b.collectFile(f, false, g)
		}
		if m.Graft != nil {
			for _, f := range m.Graft.Next {
				b.collectFile(f, f.ID == vfs.ID{}, g)
			}
		}
	}
	for _, f := range in.Garbage {
		b.collectFile(f, false, g)
	}
	for _, f := range in.Created {
		b.collectFile(f, true, g)
	}
}

func (b *builder) collectFile(f intentFile, blank bool, g *group) {
	left, there := b.w.Left[f.Path]
	switch {
	case !there || b.inChain(f.Path):
	case f.ID != (vfs.ID{}) && f.ID != left.ID:
		// Somebody put another file there: not ours to delete.
	case b.usedElsewhere(f.Path, left.ID) != "":
		b.refuse(CodeLeftover, f.Path, "a run that was interrupted wanted to delete it, but it is used by "+b.usedElsewhere(f.Path, left.ID))
	case left.InUse && !b.merging(f.Path, g):
		b.refuse(CodeLeftover, f.Path, "libvirt does not have it in any chain, but a process has it open: if that is the guest's QEMU, shut the guest down and see docs/recovery.md")
	case f.writtenSince(left):
		b.refuse(CodeLeftover, f.Path, "it was merged and is in no chain, but it was written to after that: a guest was started from it in that moment; see docs/recovery.md")
	case blank && !f.blank(left):
		b.refuse(CodeLeftover, f.Path, fmt.Sprintf("an interrupted snapshot made it, it is in no chain, but it holds %s of guest data: see docs/recovery.md", Bytes(left.Allocated)))
	default:
		g.leftovers = append(g.leftovers, leftover{f.Path, intentFile{Path: f.Path, ID: left.ID, Written: f.Written}, blank})
	}
}

// blank tells whether the file holds no guest data, for it is an image without any, or
// exactly the file that we made, and no image yet.
func (f intentFile) blank(left LeftFile) bool {
	return left.Blank || left.NoHeader && f.ID == left.ID
}

// inChain tells whether path is in a chain in the builder's world.
func (b *builder) inChain(path string) bool {
	return branchWith(b.disks, path) != nil || branchWith(b.branches, path) != nil
}

// merging tells whether path goes in a merge that is taken over.
func (b *builder) merging(path string, g *group) bool {
	if in := b.w.Intents[b.d.UUID]; in != nil && len(g.copies) > 0 && slices.ContainsFunc(in.Merges, func(m intentMerge) bool {
		return m.Graft != nil && slices.Contains(g.copies, m.Disk) && m.Graft.active().Path == path
	}) {
		return true
	}
	return slices.ContainsFunc(g.merges, func(m merge) bool {
		return slices.ContainsFunc(m.gone, func(l Layer) bool { return l.Path == path })
	})
}

// usedElsewhere returns who else refers to the file, or "". Our own snapshots'
// stale metadata does not count: it is redefined first.
func (b *builder) usedElsewhere(path string, id vfs.ID) string {
	l := b.forest.Find(layerKey(id, path))
	if l == nil {
		return ""
	}
	if len(l.Children) > 0 {
		return l.Children[0].Path
	}
	for _, who := range l.Keepers {
		return who
	}
	return ""
}
