package decide

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A commit brings the data of layers down, into the one below them, and these go.
type commitWay struct{}

// Kind implements Way.
func (commitWay) Kind() journal.Kind { return journal.KindCommit }

func (commitWay) on(disks, _ []host.Disk, m *Merge) *host.Disk { return diskAt(disks, m.Disk) }

func (commitWay) at(b *builder, disk *host.Disk, k int) (Merge, bool) {
	if disk.Branch {
		return Merge{}, false
	}
	return b.commitAt(disk, k), true
}

func (commitWay) method(m *Merge) string {
	switch {
	case m.Offline:
		return "offline-commit"
	case m.Active:
		return "active-commit"
	}
	return "commit"
}

func (commitWay) reason(m *Merge) string {
	return "nobody keeps the state in " + filepath.Base(m.Base.Path)
}

func (commitWay) remark(*Merge) string { return "" }

func (commitWay) need(m *Merge) int64 { return growth(m) }

func (commitWay) deletes(b *builder, m *Merge) { b.deleteGone(m) }

func (commitWay) allowed(c Case, m *Merge) error {
	b, again, err := c.stillFree(m)
	if err != nil {
		return err
	}
	return b.stillRoom(again)
}

// commitAt merges layer k of disk, and those above it that can go as well, into the
// one below.
func (b *builder) commitAt(disk *host.Disk, k int) Merge {
	m := b.mergeAt(disk, k)
	for k < len(disk.Chain) && b.obstacle(disk, k) == "" {
		b.absorb(disk, k, &m)
	}
	m.After = slices.Clone(disk.Chain)
	return m
}

// mergeAt starts a merge of layer k of disk into the one below.
func (b *builder) mergeAt(disk *host.Disk, k int) Merge {
	base := disk.Chain[k-1]
	way := Way(commitWay{})
	if disk.Branch {
		way = branchWay{}
	}
	return Merge{Way: way, Offline: disk.Branch || !b.d.State.Live(), MergeSpec: host.MergeSpec{
		Domain: b.d.Name, Disk: disk.Target, Base: base, Bandwidth: int64(b.rule.Bandwidth),
	}}
}

// absorb adds layer k to the merge and takes it out of the builder's world.
func (b *builder) absorb(disk *host.Disk, k int, m *Merge) {
	l := disk.Chain[k]
	m.Top = l
	m.Active = k == len(disk.Chain)-1
	m.Bytes += l.Allocated
	m.Gone = append(m.Gone, l)
	if k+1 < len(disk.Chain) {
		above := disk.Chain[k+1].Image
		m.Relative = above != nil && above.Backing != "" && !filepath.IsAbs(above.Backing)
	} else {
		m.Relative = false
	}
	b.forest.Merge(b.forest.Find(l.Key()))
	base := &disk.Chain[k-1]
	base.Size = max(base.Size, l.Size)
	if !base.Kind.IsDevice() {
		base.Allocated += l.Allocated
	}
	b.moved[l.Path] = *base
	disk.Chain = slices.Delete(disk.Chain, k, k+1)
	if k < len(disk.Chain) {
		disk.Chain[k].Rebase(base)
	}
}

// resume takes over the commit if its job runs, and notes where data went if it is done.
func (commitWay) resume(b *builder, im *journal.Merge, g *Group) {
	disk := b.disk(im.Disk)
	if disk == nil {
		return
	}
	base := disk.Index(im.Base)
	if base < 0 {
		return
	}
	for _, f := range im.Gone {
		if disk.Index(f.Path) < 0 {
			b.moved[f.Path] = disk.Chain[base]
		}
	}
	if disk.Job == nil || !im.Runs(disk.Job, len(disk.Chain)-1 == base+len(im.Gone)) || disk.Index(im.Gone[len(im.Gone)-1].Path) != base+len(im.Gone) {
		return
	}
	m := b.mergeAt(disk, base+1)
	m.Adopt = true
	for range im.Gone {
		b.absorb(disk, base+1, &m)
	}
	m.After = slices.Clone(disk.Chain)
	disk.Job = nil
	g.Merges = append(g.Merges, m)
}

func (commitWay) collect(b *builder, im *journal.Merge, g *Group) { b.collectGone(im, g) }

func (commitWay) adopts(job *host.Job, _ *journal.Merge) bool {
	return job.Type == "commit" || job.Type == "active-commit"
}

// trustOld takes the layer above the merged ones to build on them still.
func (commitWay) trustOld(disk *host.Disk, im *journal.Merge) bool {
	if !im.MergedAbove(disk) {
		return false
	}
	top := im.Top(disk)
	disk.Chain[top+1].Rebase(&disk.Chain[top])
	return true
}

// checkStopped refuses a guest that has stopped while it was moved onto the base.
func (commitWay) checkStopped(b *builder, disk *host.Disk, im *journal.Merge) {
	if b.d.State.Live() || !im.Pivot || !im.OnTop(disk) {
		return
	}
	b.refuse(host.CodeStopped, im.Base, fmt.Sprintf("a run was cut off while it moved the guest from %s to this image, and the guest has stopped since: "+
		"which of the two it wrote to last is not known; see docs/recovery.md", disk.Active().Path))
}

// runsOn is about a guest that writes to the base, and not to the layer that libvirt
// takes for the active one.
func (commitWay) runsOn(b *builder, disk *host.Disk, im *journal.Merge) []host.Layer {
	if disk.Job != nil || !im.OnTop(disk) || !b.w.Left[im.Base].Written || !b.runsWithout(disk, disk.Active().Path) {
		return nil
	}
	return slices.Clone(disk.Chain[:disk.Index(im.Base)+1])
}
