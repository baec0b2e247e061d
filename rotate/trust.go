package rotate

import (
	"fmt"
	"path/filepath"
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
				b.refuse(CodeStale, stored, fmt.Sprintf(
					"snapshot %s has its state of %s there by its metadata, but its overlay is on %s: virt-rotate doctor %s tells more",
					b.snaps[i].Name, sd.Target, actual, b.d.Name))
			}
		}
	}
}

// contradicts returns the layer below the overlay of a snapshot's disk if the
// metadata names another one and no merge of ours explains that.
func (b *builder) contradicts(sd *SnapshotDisk) string {
	disk, k := overlayIn(b.disks, sd.Overlay)
	if disk == nil || k < 1 || len(sd.State) == 0 || b.w.Intents[b.d.UUID].explains() {
		return ""
	}
	stored, actual := sd.State[len(sd.State)-1], &disk.Chain[k-1]
	for to, ok := b.moved[stored]; ok; to, ok = b.moved[stored] {
		stored = to.Path
	}
	if stored == actual.Path || b.w.key(stored) == actual.Key() || b.trustLost && !b.w.there(stored) || b.sunk(disk, stored, k) {
		return ""
	}
	return actual.Path
}

// sunk tells whether the metadata of the snapshot whose overlay is layer k names a layer
// further down in the same chain, and all between are overlays of ours that came with
// snapshots which are not listed any more: libvirt 9.0 writes that into the metadata of
// the next snapshot when one is deleted with --metadata, as if its layer had been merged.
// The layers are all there; so the state is where the chain has it.
func (b *builder) sunk(disk *Disk, stored string, k int) bool {
	at := disk.index(stored)
	if at < 0 || at >= k-1 {
		return false
	}
	for _, l := range disk.Chain[at+1 : k] {
		if !isOverlay(l.Path) || b.inMetadata(l.Path) {
			return false
		}
	}
	return true
}

// overlayIn finds the disk that has the overlay in its chain, and its place there. Disks
// get other targets, so those do not tell.
func overlayIn(disks []Disk, overlay string) (*Disk, int) {
	for i := range disks {
		if k := disks[i].index(overlay); k >= 0 && overlay != "" {
			return &disks[i], k
		}
	}
	return nil, -1
}

// checkStrangeOverlays refuses a disk on which another program has put an
// overlay above one of ours without telling libvirt, as backup programs do
// while they copy what is below.
func (b *builder) checkStrangeOverlays(disk *Disk) {
	for i := 1; i < len(disk.Chain); i++ {
		l, below := &disk.Chain[i], &disk.Chain[i-1]
		if isOverlay(below.Path) && !isOverlay(l.Path) && !b.inMetadata(l.Path) {
			b.refuse(CodeForeignOverlay, l.Path, fmt.Sprintf(
				"another program has put it on %s, and no snapshot names it: let that program finish, or merge it (virsh blockcommit)",
				filepath.Base(below.Path)))
		}
	}
}

func (b *builder) inMetadata(path string) bool {
	path = b.origin(path)
	for i := range b.d.Snapshots {
		for _, sd := range b.d.Snapshots[i].Disks {
			if sd.Overlay == path {
				return true
			}
		}
	}
	return b.willTake(path)
}
