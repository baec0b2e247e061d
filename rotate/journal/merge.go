package journal

import (
	"cmp"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// MergedOnBranch tells whether a merge of the intent takes the layer out of a branch.
func (in *Intent) MergedOnBranch(path string) bool {
	return in != nil && slices.ContainsFunc(in.Merges, func(m Merge) bool {
		return m.Branch && slices.ContainsFunc(m.Gone, func(f File) bool { return f.Path == path })
	})
}

// Blank tells whether the file holds no guest data, for it is an image without any, or
// exactly the file that we made, and no image yet.
func (f File) Blank(left LeftFile) bool {
	return left.Blank || left.NoHeader && f.ID == left.ID
}

// WrittenSince tells whether somebody has written to a file that was merged.
func (f File) WrittenSince(left LeftFile) bool {
	return f.Written != 0 && left.ModTime.UnixNano() != f.Written
}

// Ended tells whether the guest is on the new layers, as far as libvirt knows.
func (g *Graft) Ended(disk *host.Disk) bool {
	return disk != nil && disk.Index(g.Active().Path) >= 0
}

// Active is the image that the guest is to write to.
func (g *Graft) Active() File { return g.Next[len(g.Next)-1] }

// Follow lets a snapshot have come with the overlay that has taken the place of its own.
func (m *Merge) Follow(sd *host.SnapshotDisk) {
	i := slices.IndexFunc(m.Gone, func(f File) bool { return f.Path == sd.Overlay })
	if sd.Target != m.Disk || i < 0 || m.Graft.Goes[i] {
		return
	}
	sd.Stored = cmp.Or(sd.Stored, sd.Overlay)
	sd.Overlay = m.Graft.Next[i].Path
}

// Grafted returns the chain of the disk after the graft of the intent.
func (m *Merge) Grafted(disk *host.Disk) []host.Layer {
	k := disk.Index(m.Base)
	if k < 0 {
		return nil
	}
	chain := slices.Clone(disk.Chain[:k])
	for i, old := range m.Gone {
		if at := disk.Index(old.Path); at >= 0 && !m.Graft.Goes[i] {
			l := disk.Chain[at]
			l.Path, l.ID = m.Graft.Next[i].Path, m.Graft.Next[i].ID
			chain = append(chain, l)
		}
	}
	return chain
}

// GraftOf returns the graft of the intent on a disk, or nil.
func (in *Intent) GraftOf(disk string) *Merge {
	for i := range in.Merges {
		if im := &in.Merges[i]; im.Disk == disk && im.Graft != nil {
			return im
		}
	}
	return nil
}

// Runs tells whether the job can be the merge. libvirt tells the layers of an active
// commit only.
func (m *Merge) Runs(j *host.Job, active bool) bool {
	if active {
		return j.Type == "active-commit" && (j.Target == "" || j.Target == m.Base)
	}
	return j.Type == "commit"
}

// Top returns the place of the merge's highest layer in the chain if all of
// its layers are there, else -1.
func (m *Merge) Top(disk *host.Disk) int {
	if len(m.Gone) == 0 || m.Graft != nil {
		return -1
	}
	base, top := disk.Index(m.Base), disk.Index(m.Gone[len(m.Gone)-1].Path)
	if base < 0 || top != base+len(m.Gone) {
		return -1
	}
	return top
}

// OnTop tells whether libvirt still has the merge's layers as the top of the chain.
func (m *Merge) OnTop(disk *host.Disk) bool {
	top := m.Top(disk)
	return top >= 0 && top == len(disk.Chain)-1
}

// MergedAbove tells whether the layer above the merge's names the base in its
// header, while libvirt still has all of the merge's layers.
func (m *Merge) MergedAbove(disk *host.Disk) bool {
	top := m.Top(disk)
	if top < 0 || top+1 >= len(disk.Chain) {
		return false
	}
	below := disk.Chain[top+1].BackingID
	return below != vfs.ID{} && below == disk.Chain[disk.Index(m.Base)].ID
}

// Highest returns the highest layer that the merge makes superfluous.
func (m *Merge) Highest(disk *host.Disk) string {
	if top := disk.Index(m.Pull); m.Pull != "" && top > 0 {
		return disk.Chain[top-1].Path
	}
	return m.Gone[len(m.Gone)-1].Path
}

// Pulled tells whether the header of the layer that a pull of ours filled tells of
// the new chain, while libvirt still has the old one.
func (m *Merge) Pulled(disk *host.Disk) bool {
	first, top := disk.Index(m.Base), disk.Index(m.Pull)
	if m.Pull == "" || first < 0 || top <= first || disk.Chain[top].Image == nil {
		return false
	}
	l := &disk.Chain[top]
	if first == 0 {
		return l.Image.Backing == ""
	}
	return l.Image.Backing != "" && l.BackingID == disk.Chain[first-1].ID
}

// Leave takes the layers that the merge makes superfluous out of the disk's chain.
func (m *Merge) Leave(disk *host.Disk) {
	if m.Graft != nil {
		if after := m.Grafted(disk); after != nil && !m.Graft.Ended(disk) {
			disk.Chain = after
		}
		return
	}
	if first, top := disk.Index(m.Base), disk.Index(m.Pull); m.Pull != "" && first >= 0 && top > first {
		disk.Chain = slices.Delete(disk.Chain, first, top)
		return
	}
	for _, f := range m.Gone {
		disk.Chain = slices.DeleteFunc(disk.Chain, func(l host.Layer) bool { return l.Path == f.Path })
	}
}

// Touches are the files that what the intent is about writes to or deletes, among them layers that others may build on: a
// guest that has one of them must not start meanwhile.
func (in *Intent) Touches() (paths []string) {
	for i := range in.Merges {
		m := &in.Merges[i]
		paths = append(paths, m.Base)
		if m.Pull != "" {
			paths = append(paths, m.Pull)
		}
		paths = append(paths, pathsOf(m.Gone)...)
	}
	return append(paths, pathsOf(in.Garbage)...)
}

func pathsOf(files []File) (paths []string) {
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// Files lists every file that the intent names.
func (in *Intent) Files() []File {
	files := append(slices.Clone(in.Created), in.Garbage...)
	if in.Firmware != nil {
		files = append(files, *in.Firmware)
	}
	if in.Memory != nil {
		files = append(files, *in.Memory)
	}
	if in.Adoption != nil {
		files = append(files, in.Adoption.Made...)
	}
	for _, m := range in.Merges {
		files = append(files, m.Gone...)
		if m.Graft != nil {
			files = append(files, m.Graft.Next...)
		}
	}
	return files
}
