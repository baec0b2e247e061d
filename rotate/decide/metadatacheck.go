package decide

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// checkStates refuses a domain one of whose snapshots names another layer for
// its state than the one below its overlay, unless a merge of ours explains
// it. After a pull or a rebase by hand, nobody but the one who did it knows
// where the state is.
func (b *builder) checkStates() {
	for i := range b.snaps {
		for j := range b.snaps[i].Disks {
			sd := &b.snaps[i].Disks[j]
			if actual := b.contradicts(sd); actual != "" {
				stored := sd.State[len(sd.State)-1]
				b.refuse(host.CodeStale, stored, fmt.Sprintf(
					"snapshot %s has its state of %s there by its metadata, but its overlay is on %s: virt-rotate doctor %s tells more",
					b.snaps[i].Name, sd.Target, actual, b.d.Name))
			}
		}
	}
}

// contradicts returns the layer below the overlay of a snapshot's disk if the
// metadata names another one and no merge of ours explains that.
func (b *builder) contradicts(sd *host.SnapshotDisk) string {
	disk, k := OverlayIn(b.disks, sd.Overlay)
	if disk == nil || k < 1 || len(sd.State) == 0 || b.w.Intents[b.d.UUID].Explains() {
		return ""
	}
	stored, actual := sd.State[len(sd.State)-1], &disk.Chain[k-1]
	for to, ok := b.moved[stored]; ok; to, ok = b.moved[stored] {
		stored = to.Path
	}
	if stored == actual.Path || b.w.Key(stored) == actual.Key() || b.trustLost && !b.w.There(stored) && !b.shared(sd, actual.Path) || b.sunk(disk, stored, k) {
		return ""
	}
	return actual.Path
}

// shared tells whether another snapshot, whose overlay is in no chain any more, has its
// state in the same layer: that has been merged into it then, and one of the two is lost.
func (b *builder) shared(sd *host.SnapshotDisk, path string) bool {
	return slices.ContainsFunc(b.d.Snapshots, func(s host.Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(o host.SnapshotDisk) bool {
			disk, _ := OverlayIn(b.disks, o.Overlay)
			return o.Overlay != sd.Overlay && disk == nil && host.StateOf(b.d, &o) == path
		})
	})
}

// doubtful says why it is not certain that a snapshot's states are where they are looked
// for; "" if it is. A layer on which the overlay of a later snapshot stands by hand may
// have been merged into.
func (b *builder) doubtful(s *host.Snapshot) string {
	for i := range s.Disks {
		if actual := b.contradicts(&s.Disks[i]); actual != "" {
			return fmt.Sprintf("its overlay stands on %s, and its metadata names %s", actual, s.Disks[i].State[len(s.Disks[i].State)-1])
		}
		path := host.StateOf(b.d, &s.Disks[i])
		for j := range b.snaps {
			if other := b.standing(&b.snaps[j], path); other != "" && b.snaps[j].Name != s.Name {
				return fmt.Sprintf("%s may have been merged into: %s of %s stands on it now", path, filepath.Base(other), b.snaps[j].Name)
			}
		}
	}
	return ""
}

// standing returns the overlay of a snapshot that stands on that layer against its metadata.
func (b *builder) standing(s *host.Snapshot, path string) string {
	for i := range s.Disks {
		if b.contradicts(&s.Disks[i]) == path && path != "" {
			return s.Disks[i].Overlay
		}
	}
	return ""
}

// sunk tells whether the metadata of the snapshot whose overlay is layer k names a layer
// further down in the same chain, and all between are overlays of ours: libvirt 9.0 writes
// that into the metadata of the next snapshot when one is deleted with --metadata, as if
// its layer had been merged. The layers are all there; so the state is where the chain has
// it, even if the snapshot between has been defined again since.
func (b *builder) sunk(disk *host.Disk, stored string, k int) bool {
	at := disk.Index(stored)
	if at < 0 || at >= k-1 {
		return false
	}
	for _, l := range disk.Chain[at+1 : k] {
		if !host.IsOverlay(l.Path) {
			return false
		}
	}
	return true
}

// checkStrangeOverlays refuses a disk on which another program has put an
// overlay above one of ours without telling libvirt, as backup programs do
// while they copy what is below.
func (b *builder) checkStrangeOverlays(disk *host.Disk) {
	for i := 1; i < len(disk.Chain); i++ {
		l, below := &disk.Chain[i], &disk.Chain[i-1]
		if host.IsMade(below.Path) && !host.IsOverlay(l.Path) && !b.accounted(l) {
			b.refuse(host.CodeForeignOverlay, l.Path, fmt.Sprintf(
				"another program has put it on %s, and no snapshot names it: let that program finish, or see virt-rotate doctor %s",
				filepath.Base(below.Path), b.d.Name))
		}
	}
}

// accounted tells whether it is known how the layer came about: libvirt has it on record, or
// this program has. What a snapshot of ours has for its state was accounted for when that was
// taken.
func (b *builder) accounted(l *host.Layer) bool {
	return b.inMetadata(l.Path) || b.w.IsReleased(b.d, l) || slices.ContainsFunc(b.d.Snapshots, func(s host.Snapshot) bool {
		return s.Ours() && b.hasState(&s, l.Path)
	})
}

// inMetadata tells whether a snapshot names the file at path: it came into being with that, or
// when libvirt went back to it.
func (b *builder) inMetadata(path string) bool {
	path = b.origin(path)
	for i := range b.d.Snapshots {
		for _, sd := range b.d.Snapshots[i].Disks {
			if sd.Overlay == path || path != "" && sd.Reverted == path {
				return true
			}
		}
	}
	return b.willTake(path)
}
