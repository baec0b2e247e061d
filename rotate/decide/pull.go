package decide

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A pull moves data up: the upper layer gets what the lower ones have, and these go
// if they were this domain's alone. On a guest that is shut off any layer can be
// pulled into; of a running one only the active layer. Only overlays of ours are
// pulled away: the image that the administrator gave the domain keeps its name.

// pullAt returns how many layers, from the one below layer k on, are better pulled up
// than layer k and those above it committed; 0 means that a commit it is.
func (b *builder) pullAt(disk *host.Disk, k int) int {
	base := &disk.Chain[k-1]
	if b.rule.Method != policy.MethodAuto && b.rule.Method != policy.MethodPull ||
		base.Kind != "file" || !b.isOurs(base) || disk.Branch {
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
	m := Merge{Offline: !b.d.State.Live(), MergeSpec: host.MergeSpec{
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
	if l.Kind != "block" {
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

// sharedBelow returns the place of the lowest layer that is to be the disk's own: all
// below it is shared, or was there before the image that the domain was made with.
// It is 0 where the disk builds on nothing that is not its own.
func (b *builder) sharedBelow(disk *host.Disk) (own int, who string) {
	for own < len(disk.Chain)-1 && !b.isOurs(&disk.Chain[own+1]) && !b.inMetadata(disk.Chain[own+1].Path) {
		own++
	}
	if own > 0 {
		who = "the domain's own image is " + filepath.Base(disk.Chain[own].Path)
	}
	for k := range len(disk.Chain) - 1 {
		if other := b.outsider(disk, k); other != "" && k+1 >= own {
			own, who = k+1, disk.Chain[k].Path+" is used by "+other
		}
	}
	return own, who
}

// outsider returns who else than this domain, its snapshots and their branches needs
// layer k of the disk, or "".
func (b *builder) outsider(disk *host.Disk, k int) string {
	l, above := b.forest.Find(disk.Chain[k].Key()), disk.Chain[k+1].Key()
	if l == nil {
		return ""
	}
	for _, c := range l.Children {
		if c.Key != above && !b.onRecord(c.Path) {
			return c.Path
		}
	}
	for _, who := range l.Keepers {
		if !b.own(who) && !strings.HasPrefix(who, observe.SnapshotKeeper(b.d.Name, "")) {
			return who
		}
	}
	return ""
}

// onRecord tells whether a snapshot of the domain names the layer.
func (b *builder) onRecord(path string) bool {
	return slices.ContainsFunc(b.d.Snapshots, func(s host.Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool {
			return sd.Overlay == path || slices.Contains(sd.State, path)
		})
	})
}

// detach plans to pull the disks off what they share with others.
func (b *builder) detach() {
	if !b.rule.Detach && !b.o.Detach {
		return
	}
	var merges []Merge
	var reasons []string
	trial := b.clone()
	for i := range trial.disks {
		disk := &trial.disks[i]
		if !trial.covers(disk) || !trial.mergeable(disk) {
			continue
		}
		if own, who := trial.sharedBelow(disk); own > 0 {
			merges = append(merges, trial.detachAt(disk, own))
			reasons = append(reasons, "detach: "+who)
		}
	}
	if len(merges) == 0 {
		return
	}
	if !b.o.Detach && !b.rule.Window.Open(b.now) {
		b.plan.Waiting = "merges start only within the window " + b.rule.Window.String()
		return
	}
	if why := b.busy(b, merges); why != "" {
		b.plan.Waiting = why
		return
	}
	if refused := trial.preflight(merges); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	end := trial.begin(Group{Merges: merges})
	for i := range merges {
		step := mergeStep(&merges[i], nil)
		step.Reason = reasons[i]
		trial.add(step)
	}
	trial.redefine(nil)
	end()
	*b = *trial
}

// detachAt pulls all that is below the disk's own layers into the lowest of them; on a
// running guest into the active one.
func (b *builder) detachAt(disk *host.Disk, own int) Merge {
	if b.d.State.Live() {
		own = len(disk.Chain) - 1
	}
	m := b.pullOf(disk, 0, own)
	m.detach = true
	b.forest.Detach(b.forest.Find(m.Top.Key()))
	b.shortenBelow(disk, 0, own, &m)
	return m
}

// mayDetach decides anew whether a pull off shared layers may be done.
func (b *builder) mayDetach(disk *host.Disk, m *Merge) error {
	own, _ := b.sharedBelow(disk)
	if top := disk.Index(m.Top.Path); own == 0 || top < own || disk.Index(m.Base.Path) != 0 {
		return fmt.Errorf("the chain has changed: %v", host.Paths(disk.Chain))
	}
	if r := b.preflight([]Merge{*m}); r != nil {
		return errors.New(r.Detail)
	}
	return nil
}

// resumePull takes over a pull that still runs, and notes what it has replaced.
func (b *builder) resumePull(disk *host.Disk, im *journal.Merge, g *Group) {
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
