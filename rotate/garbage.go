package rotate

// collectGarbage plans the deletion of layers on branches that nobody keeps and that
// are on record as free.
func (b *builder) collectGarbage() {
	var garbage []intentFile
	var steps []Step
	for _, l := range b.forest.Layers() {
		left, there := b.w.Left[l.Path]
		if !l.Garbage() || !there || left.InUse || !isOverlay(l.Path) || branchWith(b.disks, l.Path) != nil || b.inMetadata(l.Path) || b.w.strangeBeside(l.Path) != nil {
			continue
		}
		if !b.w.released(b.d, &Layer{Path: l.Path, ID: left.ID}) {
			continue
		}
		garbage = append(garbage, intentFile{Path: l.Path, ID: left.ID})
		steps = append(steps, Step{Op: OpDeleteFile, Path: l.Path, Bytes: left.Allocated, Reason: "nobody keeps it, and nothing builds on it"})
	}
	if len(garbage) == 0 || !b.rule.Window.Open(b.now) || b.waitsForMerge() {
		return
	}
	end := b.begin(group{garbage: garbage})
	for _, s := range steps {
		b.add(s)
	}
	end()
}
