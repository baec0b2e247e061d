package rotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	disk := b.disk(sd.Target)
	if disk == nil || sd.Overlay == "" || len(sd.State) == 0 || b.w.Intents[b.d.UUID].explains() {
		return ""
	}
	k := disk.index(sd.Overlay)
	if k < 1 {
		return ""
	}
	stored, actual := sd.State[len(sd.State)-1], &disk.Chain[k-1]
	for to, ok := b.moved[stored]; ok; to, ok = b.moved[stored] {
		stored = to.Path
	}
	if stored == actual.Path || b.w.key(stored) == actual.Key() || b.trustLost && lost(stored) {
		return ""
	}
	return actual.Path
}

func lost(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
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
