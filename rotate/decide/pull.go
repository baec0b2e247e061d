package decide

import (
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A pull moves data up: the upper layer gets what the lower ones have, and these go
// if they were this domain's alone. On a guest that is shut off any layer can be
// pulled into; of a running one only the active layer. Only overlays of ours are
// pulled away: the image that the administrator gave the domain keeps its name.

type pullWay struct{ commitWay }

// Kind implements Way.
func (pullWay) Kind() journal.Kind { return journal.KindPull }

func (pullWay) at(b *builder, disk *host.Disk, k int) (Merge, bool) {
	if disk.Branch {
		return Merge{}, false
	}
	n := b.pullAt(disk, k)
	if n == 0 {
		return Merge{}, false
	}
	return b.pullUp(disk, k, n), true
}

func (pullWay) method(m *Merge) string {
	if m.Offline {
		return "offline-pull"
	}
	return "pull"
}

func (w pullWay) reason(m *Merge) string { return w.commitWay.reason(m) + ", which has less data" }

func (pullWay) allowed(c Case, m *Merge) error {
	b, _, err := c.stillFree(m)
	if err != nil {
		return err
	}
	return b.stillRoom(m)
}

// pullAt returns how many layers, from the one below layer k on, are better pulled up
// than layer k and those above it committed; 0 means that a commit it is.
func (b *builder) pullAt(disk *host.Disk, k int) int {
	base := &disk.Chain[k-1]
	if b.rule.Method != policy.MethodAuto && b.rule.Method != policy.MethodPull ||
		!base.Kind.IsFile() || !b.isOurs(base) {
		return 0
	}
	trial := b.clone()
	td := trial.disk(disk.Target)
	m := trial.commitAt(td, k)
	switch n := len(m.Gone); {
	case !m.Offline && (!m.Active || b.rule.Method != policy.MethodPull):
		return 0
	case m.Top.Format != "qcow2":
		return 0
	case b.rule.Method == policy.MethodPull || base.Allocated < m.Top.Allocated:
		return n
	}
	return 0
}

// pullUp takes n layers, from the one below layer k on, out of the builder's world:
// the layer above them has what they had.
func (b *builder) pullUp(disk *host.Disk, k, n int) Merge {
	first, top := k-1, k-1+n
	m := b.pullOf(disk, first, top)
	m.Gone = slices.Clone(disk.Chain[first:top])
	for _, l := range m.Gone {
		b.forest.Bypass(b.forest.Find(l.Key()))
		b.raise(disk.Target, l.Path, m.Top.Path)
	}
	b.shortenBelow(disk, first, top, &m)
	return m
}

// pullOf describes the pull of layers first and up into layer top.
func (b *builder) pullOf(disk *host.Disk, first, top int) Merge {
	m := Merge{Way: pullWay{}, Offline: !b.d.State.Live(), MergeSpec: host.MergeSpec{
		Domain: b.d.Name, Disk: disk.Target, Base: disk.Chain[first], Top: disk.Chain[top],
		Pull: true, Active: top == len(disk.Chain)-1, Bandwidth: int64(b.rule.Bandwidth),
	}}
	if first > 0 {
		m.Below = disk.Chain[first-1]
		image := m.Top.Image
		m.Relative = image != nil && image.Backing != "" && !filepath.IsAbs(image.Backing)
	}
	for _, l := range disk.Chain[first:top] {
		m.Bytes += l.Allocated
	}
	return m
}

// shortenBelow takes the layers from first to below top out of the disk's chain.
func (b *builder) shortenBelow(disk *host.Disk, first, top int, m *Merge) {
	l := &disk.Chain[top]
	if !l.Kind.IsDevice() {
		l.Allocated += growth(m)
	}
	if first > 0 {
		l.Rebase(&disk.Chain[first-1])
	} else {
		l.Rebase(&host.Layer{})
	}
	disk.Chain = slices.Delete(disk.Chain, first, top)
	m.After = slices.Clone(disk.Chain)
}

// raise lets the snapshots that came with the overlay at one path have come with the
// one at another path, which has its place now.
func (b *builder) raise(target, from, to string) {
	for i := range b.snaps {
		for j := range b.snaps[i].Disks {
			sd := &b.snaps[i].Disks[j]
			if sd.Target != target || sd.Overlay != from {
				continue
			}
			if sd.Stored == "" {
				sd.Stored = from
			}
			sd.Overlay = to
		}
	}
}

// resume takes over a pull that still runs, and notes what it has replaced.
func (pullWay) resume(b *builder, im *journal.Merge, g *Group) {
	disk := b.disk(im.Disk)
	if disk == nil {
		return
	}
	first, top := disk.Index(im.Base), disk.Index(im.Pull)
	if first < 0 {
		for _, f := range im.Gone {
			b.raise(disk.Target, f.Path, im.Pull)
		}
		return
	}
	if disk.Job == nil || disk.Job.Type != "pull" || top != len(disk.Chain)-1 || top <= first {
		return
	}
	m := b.pullOf(disk, first, top)
	m.Adopt = true
	for _, f := range im.Gone {
		b.raise(disk.Target, f.Path, im.Pull)
	}
	b.shortenBelow(disk, first, top, &m)
	disk.Job = nil
	g.Merges = append(g.Merges, m)
}

func (pullWay) adopts(job *host.Job, _ *journal.Merge) bool { return job.Type == "pull" }

// trustOld takes the layer that was filled to build on the others still.
func (pullWay) trustOld(disk *host.Disk, im *journal.Merge) bool {
	if !im.Pulled(disk) {
		return false
	}
	top := disk.Index(im.Pull)
	disk.Chain[top].Rebase(&disk.Chain[top-1])
	return true
}
