package decide

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A graft merges without copying data, where files can share extents: beside the
// layers that the merges concern, and those above them, others are built of clones;
// then the running guest is moved onto them by a shallow copy of its active layer. Until
// that moment nobody has written to the old layers. The new ones have new names, since
// two files cannot have one: administrators, backup programs and other chains that
// hold a path must not be surprised, so only what is this domain's alone is replaced.

// GraftThreshold is from how many bytes in the layers that go on a graft is taken to
// be worth its fixed cost, unless Options say otherwise; see docs/benchmarks.md.
const GraftThreshold int64 = 256 * mib

// A Graft is what becomes of the upper part of a chain. The three lists are parallel,
// lowest layer first; the last is the active one.
type Graft struct {
	Old  []host.Layer
	Next []host.Layer // what replaces it; for a layer that goes, a clone that goes, too
	Goes []bool       // it is merged into the nearest one below that does not
	// merges are the commits that it stands for.
	merges []Merge
}

type graftWay struct{ commitWay }

// Kind implements Way.
func (graftWay) Kind() journal.Kind { return journal.KindGraft }

func (graftWay) at(*builder, *host.Disk, int) (Merge, bool) { return Merge{}, false }

func (graftWay) method(*Merge) string { return "graft" }

// remark tells what a graft is expected to take.
func (graftWay) remark(m *Merge) string {
	copied := m.Graft.Old[len(m.Graft.Old)-1].Allocated
	return fmt.Sprintf("; %s are shared and not copied, %s of the active layer are", host.Bytes(m.Bytes), host.Bytes(max(copied, emptyOverlay)))
}

func (graftWay) need(m *Merge) int64 { return graftGrowth(m) }

func (graftWay) deletes(b *builder, m *Merge) {
	for i, l := range m.Graft.Old {
		b.add(Step{Op: OpDeleteFile, Disk: m.Disk, Path: l.Path, Reason: m.Graft.deleteReason(i)})
	}
}

// allowed decides anew about a graft with the merges that it stands for.
func (graftWay) allowed(c Case, m *Merge) error {
	disk := host.DiskOf(c.Domain, m.Disk)
	if disk == nil {
		return fmt.Errorf("the guest has no disk %s any more", m.Disk)
	}
	first := disk.Index(m.Base.Path)
	if first < 0 || !slices.Equal(host.Paths(disk.Chain[first:]), host.Paths(m.Graft.Old)) {
		return fmt.Errorf("the chain has changed: %v", host.Paths(disk.Chain))
	}
	b := c.builder()
	if why := b.notAlone(b.disk(m.Disk), first); why != "" {
		return fmt.Errorf("no longer safe: %s", why)
	}
	for i := range m.Graft.merges {
		if err := c.StillAllowed(&m.Graft.merges[i]); err != nil {
			return err
		}
	}
	return nil
}

// Active is the image that the guest is to write to.
func (g *Graft) Active() *host.Layer { return &g.Next[len(g.Next)-1] }

// instead replaces merges on disks of a running guest by grafts where that can be
// done and pays. before is the world without the merges. It refuses where the policy
// wants nothing but grafts and the file system cannot share extents.
func (graftWay) instead(b, before *builder, merges []Merge) ([]Merge, *Refusal) {
	if b.rule.Method != policy.MethodGraft && b.rule.Method != policy.MethodAuto || b.o.NoGraft {
		return merges, nil
	}
	var out []Merge
	for i := 0; i < len(merges); {
		n := 1
		for i+n < len(merges) && before.diskFor(&merges[i+n]) == before.diskFor(&merges[i]) {
			n++
		}
		disk := merges[i : i+n]
		i += n
		if r := b.cannotShare(before, disk); r != nil && b.rule.Method == policy.MethodGraft {
			return nil, r
		} else if r != nil || disk[0].Offline {
			out = append(out, disk...)
			continue
		}
		if why := b.noGraft(before, disk); why != "" {
			disk[0].why = "; by a commit: " + why
			out = append(out, disk...)
			continue
		}
		out = append(out, b.graftAt(before, disk))
	}
	return out, nil
}

// cannotShare tells why the files of the layers that a graft would replace cannot be
// cloned where they are; for a guest that is shut off, why its layers cannot be merged
// without copying data.
func (b *builder) cannotShare(before *builder, merges []Merge) *Refusal {
	disk := before.diskFor(&merges[0])
	first := disk.Index(merges[0].Base.Path)
	for k := first; k < len(disk.Chain); k++ {
		l := &disk.Chain[k]
		if !l.Kind.IsFile() {
			continue // told as what is in the way of a graft
		}
		if why := b.w.CannotClone[filepath.Dir(l.Path)]; why != "" {
			return &Refusal{host.CodeMethod, l.Path, "method \"graft\": " + why}
		}
	}
	return nil
}

// noGraft tells what speaks against a graft in place of these merges of one disk of a
// running guest; "" when nothing does.
func (b *builder) noGraft(before *builder, merges []Merge) string {
	disk := before.diskFor(&merges[0])
	first, bytes := disk.Index(merges[0].Base.Path), int64(0)
	for i := range merges {
		m := &merges[i]
		if m.Active {
			return "the active layer is merged"
		}
		if m.Way.Kind() != journal.KindCommit {
			return "it is not a merge into a layer below"
		}
		for _, l := range m.Gone {
			if l.FS != m.Base.FS {
				return fmt.Sprintf("%s is on another file system than %s", l.Path, m.Base.Path)
			}
		}
		bytes += m.Bytes
	}
	if why := before.notAlone(disk, first); why != "" {
		return why
	}
	if active := disk.Active().Allocated; b.rule.Method == policy.MethodAuto && bytes < max(cmp.Or(b.o.GraftThreshold, GraftThreshold), 2*active) {
		return fmt.Sprintf("there are no more than %s in the layers that go, and %s in the active one", host.Bytes(bytes), host.Bytes(active))
	}
	return ""
}

// notAlone tells who could be surprised if the layers of disk from first on were
// replaced by others.
func (b *builder) notAlone(disk *host.Disk, first int) string {
	switch {
	case b.d.Checkpoints > 0:
		return fmt.Sprintf("the domain has %s, whose bitmaps are in these files", host.Plural(b.d.Checkpoints, "checkpoint"))
	case b.d.IOError:
		return "the guest is paused because of an I/O error"
	}
	for k := first; k < len(disk.Chain); k++ {
		l := &disk.Chain[k]
		switch {
		case !l.Kind.IsFile():
			return l.Path + " is not a file"
		case l.Volume != host.Volume{}:
			return fmt.Sprintf("%s is volume %s of storage pool %s, which would lose it", l.Path, l.Volume.Name, l.Volume.Pool)
		case l.Symlink:
			return l.Path + " is a symbolic link"
		case l.Links > 1:
			return fmt.Sprintf("%s has %d names (hard links)", l.Path, l.Links)
		case l.Image != nil && l.Image.Bitmaps > 0:
			return fmt.Sprintf("%s has %s", l.Path, host.Plural(l.Image.Bitmaps, "persistent bitmap"))
		case b.d.IsReverted(l.Path):
			return "libvirt has " + l.Path + " on record as made by its own revert"
		case k > first && !b.isOurs(l):
			return l.Path + " is not an overlay of a snapshot that virt-rotate took"
		}
		if who := b.holder(disk, k); who != "" {
			return l.Path + " is used by " + who
		}
	}
	return ""
}

// holder returns who else than this disk and our snapshots of it refers to layer k.
func (b *builder) holder(disk *host.Disk, k int) string {
	l := b.forest.Find(disk.Chain[k].Key())
	if l == nil {
		return "somebody: its place in the forest is not known"
	}
	for _, c := range l.Children {
		if k == len(disk.Chain)-1 || c.Key != disk.Chain[k+1].Key() {
			return c.Path
		}
	}
	for _, who := range l.Keepers {
		if !b.own(who) {
			return who
		}
	}
	for i := range b.snaps {
		for _, sd := range b.snaps[i].Disks {
			if !b.ours(&b.snaps[i]) && (sd.Overlay == l.Path || slices.Contains(sd.State, l.Path)) {
				return observe.SnapshotKeeper(b.d.Name, b.snaps[i].Name)
			}
		}
	}
	return ""
}

// graftAt turns merges of one disk, which the builder's world has seen already, into a
// graft, and gives the layers in its world their new names.
func (b *builder) graftAt(before *builder, merges []Merge) Merge {
	was := before.diskFor(&merges[0])
	disk := b.disk(was.Target)
	first := was.Index(merges[0].Base.Path)
	g := &Graft{Old: slices.Clone(was.Chain[first:]), merges: slices.Clone(merges)}
	taken := map[string]bool{}
	for i := range g.Old {
		l := g.Old[i]
		l.Path = b.generation(l.Path, taken)
		taken[l.Path] = true
		g.Next = append(g.Next, l)
		g.Goes = append(g.Goes, disk.Index(g.Old[i].Path) < 0)
	}
	for i := range g.Old {
		if !g.Goes[i] {
			b.replace(disk, g.Old[i].Path, g.Next[i].Path)
		}
	}
	m := Merge{Way: graftWay{}, Graft: g, MergeSpec: host.MergeSpec{
		Domain: b.d.Name, Disk: was.Target, Base: g.Old[0], Top: merges[len(merges)-1].Top, Bandwidth: int64(b.rule.Bandwidth),
	}}
	for i := range merges {
		m.Bytes += merges[i].Bytes
	}
	m.Gone = slices.Clone(g.Old)
	m.After = slices.Clone(disk.Chain)
	return m
}

// replace gives a layer of the disk, and all that names it, another path.
func (b *builder) replace(disk *host.Disk, from, to string) {
	k := disk.Index(from)
	l := &disk.Chain[k]
	if known := b.forest.Find(l.Key()); known != nil {
		b.forest.Replace(known, to, to)
	}
	l.Path, l.ID = to, host.FileID{}
	if k > 0 && l.Image != nil {
		l.Rebase(&disk.Chain[k-1])
	}
	if k+1 < len(disk.Chain) {
		disk.Chain[k+1].Rebase(l)
	}
	b.moved[from] = *l
	b.was[to] = b.origin(from)
	b.raise(disk.Target, from, to)
}

// origin returns the path that a layer has on the host as it is.
func (b *builder) origin(path string) string {
	if was, ok := b.was[path]; ok {
		return was
	}
	return path
}

// generation returns the path for what replaces the file at path: the first that is free.
func (b *builder) generation(path string, taken map[string]bool) string {
	for n := 1; ; n++ {
		next := host.Generation(path, n)
		if _, planned := b.was[next]; !planned && !taken[next] && !b.w.Taken[next] && !b.d.Uses(next) && b.o.Reserved.claim(b.d.Name, []string{next}) {
			return next
		}
	}
}

// graftGrowth is the space that a graft can need: tables of the images whose entries
// change, and what the guest has in its active layer.
func graftGrowth(m *Merge) int64 {
	g := m.Graft
	need := g.Old[len(g.Old)-1].Allocated
	for i := range g.Old {
		need += emptyOverlay
		if !g.Goes[i] {
			need += withTables(g.Old[i].Size) - g.Old[i].Size
		}
	}
	return need
}

// deleteReason tells where the data of the i-th layer is.
func (g *Graft) deleteReason(i int) string {
	k := i
	for g.Goes[k] {
		k--
	}
	if k < i {
		return "its data is in " + filepath.Base(g.Next[k].Path)
	}
	return filepath.Base(g.Next[k].Path) + " has taken its place"
}

// followGraft notes which layer has taken the place of which.
func (b *builder) followGraft(disk *host.Disk, im *journal.Merge) {
	below := host.Layer{}
	for i, old := range im.Gone {
		if k := disk.Index(im.Graft.Next[i].Path); k >= 0 && !im.Graft.Goes[i] {
			below = disk.Chain[k]
		}
		if below.Path != "" {
			b.moved[old.Path] = below
		}
	}
}

// resume notes where everything is if the guest is on the new layers. Else the
// copy that still runs ends, and the new layers go.
func (graftWay) resume(b *builder, im *journal.Merge, g *Group) {
	disk := b.disk(im.Disk)
	if disk == nil {
		return
	}
	if im.Graft.Ended(disk) {
		b.followGraft(disk, im)
		return
	}
	if disk.Job != nil && disk.Job.Type == "copy" {
		g.copies = append(g.copies, disk.Target)
		g.copied = append(g.copied, im.Graft.Active().Path)
		disk.Job = nil
	}
}

// collect also finds the clones that were made, or may have been.
func (graftWay) collect(b *builder, im *journal.Merge, g *Group) {
	b.collectGone(im, g)
	for _, f := range im.Graft.Next {
		b.collectFile(f, f.ID == host.FileID{}, g)
	}
}

func (graftWay) adopts(job *host.Job, im *journal.Merge) bool {
	return job.Type == "copy" && (job.Target == "" || job.Target == im.Graft.Active().Path)
}

func (graftWay) trustOld(*host.Disk, *journal.Merge) bool { return false }

// checkStopped refuses a guest of which it is not known whether it was moved.
func (graftWay) checkStopped(b *builder, disk *host.Disk, im *journal.Merge) {
	if !b.w.Unsure(im, disk) {
		return
	}
	b.refuse(host.CodeStopped, im.Graft.Active().Path, fmt.Sprintf("a run was cut off while it moved the guest from %s to this image, and libvirt has it on the former: "+
		"which of the two it wrote to last is not known; see docs/recovery.md", disk.Active().Path))
}

// runsOn is about a guest that was moved while libvirt has it where it was.
func (graftWay) runsOn(b *builder, disk *host.Disk, im *journal.Merge) []host.Layer {
	if b.w.Unsure(im, disk) && b.w.Left[im.Graft.Active().Path].Written && b.runsWithout(disk, disk.Active().Path) {
		return im.Grafted(disk)
	}
	return nil
}

// Intent names the files of a graft; the new ones are not there yet.
func (g *Graft) Intent() *journal.Graft {
	in := &journal.Graft{Goes: slices.Clone(g.Goes)}
	for i := range g.Next {
		in.Next = append(in.Next, journal.File{Path: g.Next[i].Path})
	}
	return in
}

// Scratch are the clones that were made to be merged.
func (g *Graft) Scratch() []journal.File {
	var files []journal.File
	for i := range g.Next {
		if g.Goes[i] {
			files = append(files, journal.File{Path: g.Next[i].Path, ID: g.Next[i].ID})
		}
	}
	return files
}

// Grafts are the merges of the group that are grafts.
func (g *Group) Grafts() []*Merge {
	var found []*Merge
	for i := range g.Merges {
		if g.Merges[i].Way.Kind() == journal.KindGraft {
			found = append(found, &g.Merges[i])
		}
	}
	return found
}
