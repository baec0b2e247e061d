package rotate

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
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
	old  []Layer
	next []Layer // what replaces it; for a layer that goes, a clone that goes, too
	goes []bool  // it is merged into the nearest one below that does not
	// merges are the commits that it stands for.
	merges []merge
}

// active is the image that the guest is to write to.
func (g *graft) active() *Layer { return &g.next[len(g.next)-1] }

// graftInstead replaces merges on disks of a running guest by grafts where that can be
// done and pays. before is the world without the merges. It refuses where the policy
// wants nothing but grafts and the file system cannot share extents.
func (b *builder) graftInstead(before *builder, merges []merge) ([]merge, *Refusal) {
	if b.rule.Method != policy.MethodGraft && b.rule.Method != policy.MethodAuto || b.o.NoGraft {
		return merges, nil
	}
	var out []merge
	for i := 0; i < len(merges); {
		n := 1
		for i+n < len(merges) && merges[i+n].Disk == merges[i].Disk && merges[i+n].branch == merges[i].branch {
			n++
		}
		disk := merges[i : i+n]
		i += n
		if r := b.cannotShare(before, disk); r != nil && b.rule.Method == policy.MethodGraft {
			return nil, r
		} else if r != nil || disk[0].offline {
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
func (b *builder) cannotShare(before *builder, merges []merge) *Refusal {
	disk := before.diskFor(&merges[0])
	first := disk.index(merges[0].Base.Path)
	for k := first; k < len(disk.Chain); k++ {
		l := &disk.Chain[k]
		if l.Kind != "file" {
			continue // told as what is in the way of a graft
		}
		if why := b.w.CannotClone[filepath.Dir(l.Path)]; why != "" {
			return &Refusal{CodeMethod, l.Path, "method \"graft\": " + why}
		}
	}
	return nil
}

// noGraft tells what speaks against a graft in place of these merges of one disk of a
// running guest; "" when nothing does.
func (b *builder) noGraft(before *builder, merges []merge) string {
	disk := before.diskFor(&merges[0])
	first, bytes := disk.index(merges[0].Base.Path), int64(0)
	for i := range merges {
		m := &merges[i]
		if m.Active {
			return "the active layer is merged"
		}
		if m.Pull || m.detach || m.branch {
			return "it is not a merge into a layer below"
		}
		for _, l := range m.gone {
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
		return fmt.Sprintf("there are no more than %s in the layers that go, and %s in the active one", Bytes(bytes), Bytes(active))
	}
	return ""
}

// notAlone tells who could be surprised if the layers of disk from first on were
// replaced by others.
func (b *builder) notAlone(disk *Disk, first int) string {
	switch {
	case b.d.Checkpoints > 0:
		return fmt.Sprintf("the domain has %s, whose bitmaps are in these files", plural(b.d.Checkpoints, "checkpoint"))
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
			return fmt.Sprintf("%s has %s", l.Path, plural(l.Image.Bitmaps, "persistent bitmap"))
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
func (b *builder) holder(disk *Disk, k int) string {
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
				return snapshotKeeper(b.d.Name, b.snaps[i].Name)
			}
		}
	}
	return ""
}

// graftAt turns merges of one disk, which the builder's world has seen already, into a
// graft, and gives the layers in its world their new names.
func (b *builder) graftAt(before *builder, merges []merge) merge {
	was := before.diskFor(&merges[0])
	disk := b.disk(was.Target)
	first := was.index(merges[0].Base.Path)
	g := &graft{old: slices.Clone(was.Chain[first:]), merges: slices.Clone(merges)}
	taken := map[string]bool{}
	for i := range g.old {
		l := g.old[i]
		l.Path = b.generation(l.Path, taken)
		taken[l.Path] = true
		g.next = append(g.next, l)
		g.goes = append(g.goes, disk.index(g.old[i].Path) < 0)
	}
	for i := range g.old {
		if !g.goes[i] {
			b.replace(disk, g.old[i].Path, g.next[i].Path)
		}
	}
	m := merge{graft: g, MergeSpec: MergeSpec{
		Domain: b.d.Name, Disk: was.Target, Base: g.old[0], Top: merges[len(merges)-1].Top, Bandwidth: int64(b.rule.Bandwidth),
	}}
	for i := range merges {
		m.Bytes += merges[i].Bytes
	}
	m.gone = slices.Clone(g.old)
	m.after = slices.Clone(disk.Chain)
	return m
}

// replace gives a layer of the disk, and all that names it, another path.
func (b *builder) replace(disk *Disk, from, to string) {
	k := disk.index(from)
	l := &disk.Chain[k]
	if known := b.forest.Find(l.Key()); known != nil {
		b.forest.Replace(known, to, to)
	}
	l.Path, l.ID = to, vfs.ID{}
	if k > 0 && l.Image != nil {
		l.rebase(&disk.Chain[k-1])
	}
	if k+1 < len(disk.Chain) {
		disk.Chain[k+1].rebase(l)
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

var (
	generationOf = regexp.MustCompile(`^(.+\d{8}T\d{6}Z)(?:_\d+)?\.qcow2$`)
	generations  = regexp.MustCompile(`\.gen\d+$`)
)

// generation returns the name for what replaces the file at path: that of an overlay of
// ours with the next free number, as two snapshots of one second have them; of another
// file, its name with .gen1, .gen2 … before the extension.
func (b *builder) generation(path string, taken map[string]bool) string {
	dir, name := filepath.Split(path)
	ext := filepath.Ext(name)
	stem, format := generations.ReplaceAllString(strings.TrimSuffix(name, ext), ""), "%s.gen%d%s"
	if isOverlay(name) {
		stem, format = generationOf.FindStringSubmatch(name)[1], "%s_%d%s"
	}
	for n := 1; ; n++ {
		next := dir + fmt.Sprintf(format, stem, n, ext)
		if _, planned := b.was[next]; !planned && !taken[next] && !b.w.Taken[next] && !b.d.uses(next) && b.o.Reserved.claim(b.d.Name, []string{next}) {
			return next
		}
	}
}

// graftGrowth is the space that a graft can need: tables of the images whose entries
// change, and what the guest has in its active layer.
func graftGrowth(m *merge) int64 {
	g := m.graft
	need := g.old[len(g.old)-1].Allocated
	for i := range g.old {
		need += emptyOverlay
		if !g.goes[i] {
			need += withTables(g.old[i].Size) - g.old[i].Size
		}
	}
	return need
}

// deleteReason tells where the data of the i-th layer is.
func (g *graft) deleteReason(i int) string {
	k := i
	for g.goes[k] {
		k--
	}
	if k < i {
		return "its data is in " + filepath.Base(g.next[k].Path)
	}
	return filepath.Base(g.next[k].Path) + " has taken its place"
}

// graftReason tells what a graft is expected to take.
func (m *merge) graftReason() string {
	copied := m.graft.old[len(m.graft.old)-1].Allocated
	return fmt.Sprintf("%s are shared and not copied, %s of the active layer are", Bytes(m.Bytes), Bytes(max(copied, emptyOverlay)))
}

// ended tells whether the guest is on the new layers, as far as libvirt knows.
func (g *intentGraft) ended(disk *Disk) bool {
	return disk != nil && disk.index(g.active().Path) >= 0
}

func (g *intentGraft) active() intentFile { return g.Next[len(g.Next)-1] }

// resumeGraft notes where everything is if the guest is on the new layers. Else the
// copy that still runs ends, and the new layers go.
func (b *builder) resumeGraft(disk *Disk, im *intentMerge, g *group) {
	if im.Graft.ended(disk) {
		b.followGraft(disk, im)
		return
	}
	if disk.Job != nil && disk.Job.Type == "copy" {
		g.copies = append(g.copies, disk.Target)
		disk.Job = nil
	}
}

// followGraft notes which layer has taken the place of which.
func (b *builder) followGraft(disk *Disk, im *intentMerge) {
	below := Layer{}
	for i, old := range im.Gone {
		if k := disk.index(im.Graft.Next[i].Path); k >= 0 && !im.Graft.Goes[i] {
			below = disk.Chain[k]
		}
		if below.Path != "" {
			b.moved[old.Path] = below
		}
	}
}

// followGrafts lets the snapshots of a domain whose guest a graft has moved have come
// with the overlays that it has now: what the metadata says is mended later.
func followGrafts(d *Domain, in *Intent) {
	if in == nil {
		return
	}
	for i := range in.Merges {
		im := &in.Merges[i]
		if im.Graft == nil || !im.Graft.ended(diskOf(d, im.Disk)) {
			continue
		}
		d.Snapshots = cloneSnapshots(d.Snapshots)
		for j := range d.Snapshots {
			for k := range d.Snapshots[j].Disks {
				im.follow(&d.Snapshots[j].Disks[k])
			}
		}
	}
}

func (m *intentMerge) follow(sd *SnapshotDisk) {
	i := slices.IndexFunc(m.Gone, func(f intentFile) bool { return f.Path == sd.Overlay })
	if sd.Target != m.Disk || i < 0 || m.Graft.Goes[i] {
		return
	}
	sd.stored = cmp.Or(sd.stored, sd.Overlay)
	sd.Overlay = m.Graft.Next[i].Path
}

// copyLag is how long after the guest could have been moved its copy may be written to
// although it was not: QEMU copies what the guest writes until the copy is ended.
const copyLag = 5 * time.Second

// unsure tells whether it is not known which of its two chains a guest was on last: a
// run was cut off while it moved it. It was not moved if the new image has gone, which is
// a person's word, or if QEMU has the guest on the former one, and nobody has written to
// the new one since. A guest that was moved, stopped and started from its former image is
// on that, too, but has written to the other.
func (w *World) unsure(im *intentMerge, disk *Disk) bool {
	if im.Graft == nil || im.Graft.Ready.IsZero() || disk.Job != nil || im.Graft.ended(disk) || len(disk.Chain) == 0 {
		return false
	}
	left, there := w.Left[im.Graft.active().Path]
	former := slices.Contains(disk.Running, im.Gone[len(im.Gone)-1].Path)
	return there && (!former || left.ModTime.After(im.Graft.Ready.Add(copyLag)))
}

// grafted returns the chain of the disk after the graft of the intent.
func (m *intentMerge) grafted(disk *Disk) []Layer {
	k := disk.index(m.Base)
	if k < 0 {
		return nil
	}
	chain := slices.Clone(disk.Chain[:k])
	for i, old := range m.Gone {
		if at := disk.index(old.Path); at >= 0 && !m.Graft.Goes[i] {
			l := disk.Chain[at]
			l.Path, l.ID = m.Graft.Next[i].Path, m.Graft.Next[i].ID
			chain = append(chain, l)
		}
	}
	return chain
}
