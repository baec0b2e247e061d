package decide

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// drop plans the end of the named snapshots, neighbours all: their metadata
// goes, the layers that nobody keeps then are merged, the metadata of the
// others is redefined, the files go. Without names it plans the merges that
// are possible already. If a merge is not possible, nothing of it is planned.
func (b *builder) drop(names []string) {
	trial := b.clone()
	for _, name := range names {
		trial.release(name)
	}
	before := trial.clone()
	merges, refused := trial.instead(before, trial.merges())
	if refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	if doubts := b.doubts(trial); len(doubts) > 0 {
		b.plan.refuseOnce(doubts)
		if len(names) > 0 { // the snapshot stays until its layers can go
			return
		}
	}
	if len(names) == 0 && len(merges) == 0 {
		return
	}
	if trial.waitsForMerge() {
		b.plan.putOff(trial.plan.Waiting)
		return
	}
	if why := b.busy(before, merges); why != "" {
		b.plan.putOff(why)
		return
	}
	if refused := trial.preflight(merges); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	files, deletions := trial.droppedFiles(names)
	end := trial.begin(Group{Drops: names, Merges: merges, Garbage: files})
	for _, name := range names {
		trial.add(Step{Op: OpDropMetadata, Snapshot: name, Reason: b.dropReason(name) + trial.stays(name) + b.memoryStays(name)})
	}
	for i := range merges {
		trial.add(mergeStep(&merges[i], names))
	}
	trial.redefine(names)
	if b.redefinesFrozen(trial) {
		b.plan.putOff(b.checkpoints())
		return
	}
	for i := range merges {
		merges[i].Way.deletes(trial, &merges[i])
	}
	for _, s := range deletions {
		trial.add(s)
	}
	end()
	*b = *trial
}

// release makes the snapshot's layers free, as far as it alone keeps them.
func (b *builder) release(name string) {
	who := observe.SnapshotKeeper(b.d.Name, name)
	for _, l := range b.forest.Layers() {
		l.Release(who)
	}
	b.snaps = slices.DeleteFunc(b.snaps, func(s host.Snapshot) bool { return s.Name == name })
}

func (b *builder) dropReason(name string) string {
	for _, v := range b.plan.Verdicts {
		if v.Name == name {
			return strings.Join(v.Reasons, ", ")
		}
	}
	return "no rule keeps it"
}

// stays explains a snapshot that goes without a merge of its overlay.
func (b *builder) stays(name string) string {
	s := b.original(name)
	for _, sd := range s.Disks {
		disk, k := OverlayIn(b.disks, sd.Overlay)
		if k < 1 {
			continue
		}
		if why := b.obstacle(disk, k); why != "" {
			return fmt.Sprintf("; %s stays a layer of %s: %s", filepath.Base(sd.Overlay), disk.Target, why)
		}
	}
	return ""
}

func (b *builder) original(name string) *host.Snapshot {
	if s := b.d.Snapshot(name); s != nil {
		return s
	}
	return &host.Snapshot{}
}

// merges applies to the builder's world every merge that the rules allow and
// returns them: at most one range for each base, so that data is copied once.
func (b *builder) merges() []Merge {
	var out []Merge
	for i := range b.disks {
		if b.mergeable(&b.disks[i]) {
			out = append(out, b.diskMerges(&b.disks[i])...)
		}
	}
	for i := range b.branches {
		if b.mergeable(&b.branches[i]) {
			out = append(out, b.diskMerges(&b.branches[i])...)
		}
	}
	return out
}

// mergeable tells whether the disk's chain may be changed at all.
func (b *builder) mergeable(disk *host.Disk) bool {
	if len(disk.Chain) < 2 || disk.ReadOnly || disk.Job != nil || !disk.Branch && b.liveOnly(disk) {
		return false
	}
	code, _, _ := host.ChainProblem(disk)
	return code == "" && !disk.Shareable && !disk.Transient && !disk.Encrypted
}

func (b *builder) diskMerges(disk *host.Disk) []Merge {
	var out []Merge
	for k := 1; k < len(disk.Chain); {
		if b.obstacle(disk, k) != "" {
			k++
			continue
		}
		out = append(out, b.wayAt(disk, k))
	}
	return out
}

// obstacle tells why layer k of disk cannot be merged into the one below it,
// in words; "" when it can.
func (b *builder) obstacle(disk *host.Disk, k int) string {
	why, _ := b.obstacleAt(disk, k)
	return why
}

// obstacleAt also returns the image that stands in doubt, if that alone is in the way.
func (b *builder) obstacleAt(disk *host.Disk, k int) (string, *observe.Strange) {
	if why := b.fact(disk, k); why != "" {
		return why, nil
	}
	if s, path := b.doubtAbout(disk, k); s != nil {
		return doubtOf(s, path), s
	}
	return "", nil
}

// fact tells what is known to be in the way of that merge.
func (b *builder) fact(disk *host.Disk, k int) string {
	child := b.forest.Find(disk.Chain[k].Key())
	if child == nil || child.Parent == nil {
		return "its place in the forest is not known"
	}
	parent := child.Parent
	if other := b.otherUser(parent, child); other != "" {
		return parent.Path + " is used by " + other
	}
	if !parent.Coalesceable() && !child.LeafCoalesceable() {
		return parent.Path + " is kept for " + strings.Join(parent.Keepers, ", ")
	}
	if other := b.stranger(child); other != "" {
		return child.Path + " is used by " + other
	}
	for _, l := range disk.Chain[k-1 : k+1] {
		if other := b.w.NamedBy(b.origin(l.Path), b.d); other != "" {
			return l.Path + " is also in a chain of " + other + ", which could not start without it"
		}
	}
	if disk.Branch && child.Unneeded() {
		return "nobody needs " + child.Path
	}
	if disk.Branch && k == len(disk.Chain)-1 && len(child.Children) > 0 {
		return child.Path + " is used by " + child.Children[0].Path
	}
	if !b.isOurs(&disk.Chain[k]) {
		return child.Path + " is not an overlay of a snapshot that virt-rotate took and dropped"
	}
	for _, l := range disk.Chain[k-1 : k+1] {
		if l.Links > 1 && l.Kind.IsFile() {
			return fmt.Sprintf("%s has %d names (hard links): who uses the others is not known", l.Path, l.Links)
		}
	}
	if disk.Branch || !b.d.State.Live() {
		return bitmapsInTheWay(&disk.Chain[k-1], &disk.Chain[k])
	}
	return ""
}

// bitmapsInTheWay tells why the engine cannot keep the persistent bitmaps of two layers that
// become one: only qcow2 has any, and their length is that of the disk.
func bitmapsInTheWay(lower, upper *host.Layer) string {
	for _, l := range []*host.Layer{lower, upper} {
		if l.Image == nil || l.Image.Bitmaps == 0 {
			continue
		}
		if lower.Format != "qcow2" || upper.Format != "qcow2" || lower.Size != upper.Size {
			return fmt.Sprintf("%s has %d persistent bitmaps, which only a running guest keeps right as it becomes one with a layer of another format or size",
				l.Path, l.Image.Bitmaps)
		}
	}
	return ""
}

// otherUser returns who else builds on parent.
func (b *builder) otherUser(parent, child *chain.Layer) string {
	for _, c := range parent.Children {
		if c != child {
			return c.Path
		}
	}
	return ""
}

// stranger returns somebody outside this domain's own rotation who needs l:
// another chain, another domain, a foreign snapshot.
func (b *builder) stranger(l *chain.Layer) string {
	if len(l.Children) > 1 {
		return l.Children[1].Path
	}
	for _, who := range l.Keepers {
		if !b.own(who) {
			return who
		}
	}
	return ""
}

// own tells whether a keeper is a disk of this domain or one of our snapshots of it.
func (b *builder) own(who string) bool {
	for i := range b.disks {
		if who == observe.DiskKeeper(b.d.Name, b.disks[i].Target) {
			return true
		}
	}
	for i := range b.snaps {
		if who == observe.SnapshotKeeper(b.d.Name, b.snaps[i].Name) {
			return b.ours(&b.snaps[i])
		}
	}
	return false
}

// isOurs tells whether the layer is virt-rotate's to merge: it came into being with a snapshot
// of ours, or with one that virt-rotate has dropped, or when libvirt went back to one of these.
func (b *builder) isOurs(l *host.Layer) bool {
	path := b.origin(l.Path)
	for i := range b.d.Snapshots {
		for _, sd := range b.d.Snapshots[i].Disks {
			if sd.Overlay == path || sd.Reverted == path {
				return b.ours(&b.d.Snapshots[i])
			}
		}
	}
	return b.w.MayGo(b.d, l) || b.willTake(path)
}

// willTake tells whether the overlay at path will have come with a snapshot that is planned.
func (b *builder) willTake(path string) bool {
	return slices.ContainsFunc(b.snaps, func(s host.Snapshot) bool {
		return s.Ours() && b.d.Snapshot(s.Name) == nil && slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool {
			return sd.Overlay != "" && b.origin(sd.Overlay) == path
		})
	})
}

func mergeStep(m *Merge, dropped []string) Step {
	reason := m.Way.reason(m)
	if len(dropped) > 0 {
		reason = fmt.Sprintf("%s: %s goes", reason, strings.Join(dropped, ", "))
	}
	return Step{Op: OpMerge, Disk: m.Disk, Method: m.Way.method(m), Top: m.Top.Path, Base: m.Base.Path, Bytes: m.Bytes,
		Reason: reason + m.why + m.Way.remark(m)}
}

// deleteGone plans the deletion of the files that a merge made superfluous, for their
// data is in another. A block device is never deleted.
func (b *builder) deleteGone(m *Merge) {
	into, _ := m.Ends()
	for _, l := range m.Gone {
		if !l.Kind.IsFile() {
			continue
		}
		b.add(Step{Op: OpDeleteFile, Disk: m.Disk, Path: l.Path, Bytes: l.Allocated,
			Reason: "its data is in " + filepath.Base(into.Path)})
		b.free[l.FS] += l.Allocated
	}
}
