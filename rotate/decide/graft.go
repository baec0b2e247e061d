package decide

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

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

// A graft is what becomes of the upper part of a chain. The three lists are parallel,
// lowest layer first; the last is the active one.
type graft struct {
	Old  []host.Layer
	Next []host.Layer // what replaces it; for a layer that goes, a clone that goes, too
	Goes []bool       // it is merged into the nearest one below that does not
	// merges are the commits that it stands for.
	merges []Merge
}

// Active is the image that the guest is to write to.
func (g *graft) Active() *host.Layer { return &g.Next[len(g.Next)-1] }

// graftInstead replaces merges on disks of a running guest by grafts where that can be
// done and pays. before is the world without the merges. It refuses where the policy
// wants nothing but grafts and the file system cannot share extents.
func (b *builder) graftInstead(before *builder, merges []Merge) ([]Merge, *Refusal) {
	if b.rule.Method != policy.MethodGraft && b.rule.Method != policy.MethodAuto || b.o.NoGraft {
		return merges, nil
	}
	var out []Merge
	for i := 0; i < len(merges); {
		n := 1
		for i+n < len(merges) && merges[i+n].Disk == merges[i].Disk && merges[i+n].Branch == merges[i].Branch {
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
		if l.Kind != "file" {
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
		if m.Pull || m.detach || m.Branch {
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
		case l.Kind != "file":
			return l.Path + " is not a file"
		case l.Symlink:
			return l.Path + " is a symbolic link"
		case l.Links > 1:
			return fmt.Sprintf("%s has %d names (hard links)", l.Path, l.Links)
		case l.Image != nil && l.Image.Bitmaps > 0:
			return fmt.Sprintf("%s has %s", l.Path, host.Plural(l.Image.Bitmaps, "persistent bitmap"))
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
			if !b.snaps[i].Ours() && (sd.Overlay == l.Path || slices.Contains(sd.State, l.Path)) {
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
	g := &graft{Old: slices.Clone(was.Chain[first:]), merges: slices.Clone(merges)}
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
	m := Merge{Graft: g, MergeSpec: host.MergeSpec{
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

// generation returns the name for what replaces the file at path: that of an overlay of
// ours with the next free number, as two snapshots of one second have them; of another
// file, its name with .gen1, .gen2 … before the extension.
func (b *builder) generation(path string, taken map[string]bool) string {
	dir, name := filepath.Split(path)
	ext := filepath.Ext(name)
	stem, format := generations.ReplaceAllString(strings.TrimSuffix(name, ext), ""), "%s.gen%d%s"
	if host.IsOverlay(name) {
		stem, format = generationOf.FindStringSubmatch(name)[1], "%s_%d%s"
	}
	for n := 1; ; n++ {
		next := dir + fmt.Sprintf(format, stem, n, ext)
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
func (g *graft) deleteReason(i int) string {
	k := i
	for g.Goes[k] {
		k--
	}
	if k < i {
		return "its data is in " + filepath.Base(g.Next[k].Path)
	}
	return filepath.Base(g.Next[k].Path) + " has taken its place"
}

// graftReason tells what a graft is expected to take.
func (m *Merge) graftReason() string {
	copied := m.Graft.Old[len(m.Graft.Old)-1].Allocated
	return fmt.Sprintf("%s are shared and not copied, %s of the active layer are", host.Bytes(m.Bytes), host.Bytes(max(copied, emptyOverlay)))
}

// resumeGraft notes where everything is if the guest is on the new layers. Else the
// copy that still runs ends, and the new layers go.
func (b *builder) resumeGraft(disk *host.Disk, im *journal.Merge, g *Group) {
	if im.Graft.Ended(disk) {
		b.followGraft(disk, im)
		return
	}
	if disk.Job != nil && disk.Job.Type == "copy" {
		g.copies = append(g.copies, disk.Target)
		disk.Job = nil
	}
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
