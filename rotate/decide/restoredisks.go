package decide

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A restore lets those disks go back that the snapshot and the domain have, or the ones of
// them that are named. The others stay as they are: disks that the snapshot was taken
// without, that came later, or that are not named. A disk that stays is on the overlays of
// newer snapshots, and they are no branch then.

// chosen tells whether the disk is to go back.
func (s *Restoration) chosen(target string) bool {
	return len(s.o.Disks) == 0 || slices.Contains(s.o.Disks, target)
}

// choose sees that the snapshot and the domain have the disks that are named. What goes back
// is kept as it is now, whatever the policy says.
func (s *Restoration) choose(b *builder) {
	var has []string
	for _, state := range b.d.States(&s.Snapshot) {
		has = append(has, state.Target)
		if s.chosen(state.Target) {
			b.also = append(b.also, state.Target)
		}
	}
	for _, target := range s.o.Disks {
		switch {
		case !slices.Contains(has, target):
			b.refuse(host.CodeNoDisk, target, fmt.Sprintf("the snapshot has no such disk: it has %s", strings.Join(has, ", ")))
		case b.disk(target) == nil:
			b.refuse(host.CodeNoDisk, target, "the snapshot has the disk, the domain has not: attach one first")
		}
	}
}

// switched tells whether the disk goes back.
func (s *Restoration) switched(target string) bool {
	return slices.ContainsFunc(s.Switches, func(w DiskSwitch) bool { return w.Target == target })
}

// leavesNewer tells whether a disk stays that is on the overlay of a snapshot which is
// neither the one that is gone back to nor one that it descends from. libvirt must not
// take such a snapshot for one that nothing builds on: it would delete what its disks were.
func (s *Restoration) leavesNewer(b *builder) bool {
	return slices.ContainsFunc(b.disks, func(disk host.Disk) bool {
		return !s.switched(disk.Target) && slices.ContainsFunc(b.snaps, func(n host.Snapshot) bool {
			overlay := n.OverlayOf(disk.Target)
			return overlay != "" && disk.Index(overlay) >= 0 && n.Name != s.Snapshot.Name && !b.d.Descends(&s.Snapshot, n.Name)
		})
	})
}

// namesOthers tells whether the snapshot's metadata names, for a disk that stays, a file that
// others need. libvirt's own revert deletes what the current snapshot names.
func (s *Restoration) namesOthers(b *builder) bool {
	return slices.ContainsFunc(s.Snapshot.Disks, func(sd host.SnapshotDisk) bool {
		l := b.forest.Find(b.w.KeyOf(b.d, sd.Overlay))
		return sd.Overlay != "" && !s.switched(sd.Target) && l != nil && needed(l, observe.DiskKeeper(b.d.Name, sd.Target))
	})
}

// builtOn tells whether somebody but the disk itself needs what is above a state.
func (b *builder) builtOn(state *host.StateLayer) bool {
	l := b.forest.Find(b.w.KeyOf(b.d, state.Path))
	own := observe.DiskKeeper(b.d.Name, state.Target)
	return l == nil || slices.ContainsFunc(l.Children, func(c *chain.Layer) bool { return needed(c, own) })
}

// needed tells whether somebody else than the disk itself needs the layer, or one above it.
func needed(l *chain.Layer, own string) bool {
	return slices.ContainsFunc(l.Keepers, func(who string) bool { return who != own }) ||
		slices.ContainsFunc(l.Children, func(c *chain.Layer) bool { return needed(c, own) })
}

// tellOthers says which disks stay as they are, and why.
func (s *Restoration) tellOthers(b *builder) {
	var stay []string
	for i := range b.disks {
		disk := &b.disks[i]
		if s.switched(disk.Target) || disk.ReadOnly || disk.Device != "disk" && disk.Device != "lun" {
			continue
		}
		stay = append(stay, disk.Target+", "+s.whyStays(disk.Target))
	}
	if len(stay) > 0 && len(s.Switches) > 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s: as it is now, so that the guest's disks are of different moments then", strings.Join(stay, "; ")))
	}
}

// whyStays says why a disk does not go back.
func (s *Restoration) whyStays(target string) string {
	i := slices.IndexFunc(s.Snapshot.Disks, func(sd host.SnapshotDisk) bool { return sd.Target == target })
	switch {
	case i < 0:
		return "which came after the snapshot, stays"
	case s.Snapshot.Disks[i].Overlay == "":
		return "which the snapshot was taken without, stays"
	}
	return "which is not named, stays"
}
