package decide

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
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
		b.refuse(host.CodeIntent, "", in.Broken)
		return
	}
	g := Group{}
	for i := range in.Merges {
		wayOf(&in.Merges[i]).resume(b, &in.Merges[i], &g)
	}
	if b.checkStates(); len(b.plan.Refused) > 0 {
		return
	}
	b.collect(in, &g)
	g.KeepIntent = len(b.plan.Refused) > 0 || len(b.lost) > 0 || slices.ContainsFunc(b.disks, b.startedOnOld)
	end := b.begin(g)
	for i := range g.Merges {
		step := mergeStep(&g.Merges[i], nil)
		step.Reason = "an interrupted run started it, and it still runs"
		b.add(step)
	}
	for _, target := range g.copies {
		b.add(Step{Op: OpEndCopy, Disk: target, Reason: "an interrupted run started it, and has not moved the guest onto it"})
	}
	b.redefine(nil)
	for _, path := range g.Leftovers {
		b.add(Step{Op: OpDeleteFile, Path: path, Bytes: b.w.Left[path].Allocated,
			Reason: "left behind by a run that was interrupted (" + in.Started.Format("2006-01-02 15:04:05") + ")"})
	}
	end()
	b.plan.Forget = len(b.plan.Steps) == 0 && !g.KeepIntent
}

func (b *builder) collectFile(f journal.File, blank bool, g *Group) {
	left, there := b.w.Left[f.Path]
	switch {
	case !there || b.inChain(f.Path) || b.ownerOf(f.Path) != "":
	case f.ID != (host.FileID{}) && f.ID != left.ID:
		// Somebody put another file there: not ours to delete.
	case b.usedElsewhere(f.Path, left.ID) != "":
		b.refuse(host.CodeLeftover, f.Path, "a run that was interrupted wanted to delete it, but it is used by "+b.usedElsewhere(f.Path, left.ID))
	case left.InUse && !b.merging(f.Path, g):
		b.refuse(host.CodeLeftover, f.Path, "libvirt does not have it in any chain, but a process has it open: if that is the guest's QEMU, shut the guest down and see docs/recovery.md")
	case f.WrittenSince(left):
		b.refuse(host.CodeLeftover, f.Path, "it was merged and is in no chain, but it was written to after that: a guest was started from it in that moment; see docs/recovery.md")
	case blank && !f.Blank(left):
		b.refuse(host.CodeLeftover, f.Path, fmt.Sprintf("an interrupted snapshot made it, it is in no chain, but it holds %s of guest data: see docs/recovery.md", host.Bytes(left.Allocated)))
	default:
		g.Leftovers = append(g.Leftovers, f.Path)
	}
}

// inChain tells whether path is in a chain in the builder's world.
func (b *builder) inChain(path string) bool {
	return host.BranchWith(b.disks, path) != nil || host.BranchWith(b.branches, path) != nil
}

// usedElsewhere returns who else refers to the file, or "". Our own snapshots'
// stale metadata does not count: it is redefined first.
func (b *builder) usedElsewhere(path string, id host.FileID) string {
	l := b.forest.Find(host.LayerKey(id, path))
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

// collect finds the files that the intent names and nothing uses any more.
func (b *builder) collect(in *journal.Intent, g *Group) {
	for i := range in.Merges {
		wayOf(&in.Merges[i]).collect(b, &in.Merges[i], g)
	}
	for _, f := range in.Garbage {
		b.collectFile(f, false, g)
	}
	for _, f := range in.Created {
		b.collectFile(f, true, g)
	}
	if in.Firmware != nil {
		b.collectFile(*in.Firmware, false, g)
	}
	if in.Memory != nil {
		b.collectFile(*in.Memory, false, g)
	}
}

// collectGone is that for the files that a merge made superfluous.
func (b *builder) collectGone(im *journal.Merge, g *Group) {
	for _, f := range im.Gone {
		b.collectFile(f, false, g)
	}
}

// merging tells whether path goes in a merge that is taken over, or is what a copy
// that is ended writes to.
func (b *builder) merging(path string, g *Group) bool {
	if slices.Contains(g.copied, path) {
		return true
	}
	return slices.ContainsFunc(g.Merges, func(m Merge) bool {
		return slices.ContainsFunc(m.Gone, func(l host.Layer) bool { return l.Path == path })
	})
}
