package rotate

import "github.com/virt-rotate/virt-rotate/internal/vfs"

// A merge can end just when QEMU or libvirtd dies. The header of the layer
// above then names the base already, while libvirt still has the old chain.
// The old chain is the one to trust: what the base got may not have reached
// the disk, and the merged layers, which nobody has deleted, hold all of it.
// A guest that starts from libvirt's XML reads through them, and the merge is
// done once more. An intent of ours tells this from what somebody else did.

// trustOldChains makes the builder see such chains as libvirt has them.
func (b *builder) trustOldChains() {
	in := b.w.Intents[b.d.UUID]
	if in == nil {
		return
	}
	for i := range in.Merges {
		im := &in.Merges[i]
		disk := b.disk(im.Disk)
		if disk == nil || len(im.Gone) == 0 {
			continue
		}
		base, top := disk.index(im.Base), disk.index(im.Gone[len(im.Gone)-1].Path)
		if base < 0 || top != base+len(im.Gone) || top+1 >= len(disk.Chain) {
			continue
		}
		above := &disk.Chain[top+1]
		if (above.BackingID != vfs.ID{}) && above.BackingID == disk.Chain[base].ID {
			above.rebase(&disk.Chain[top])
			b.lost = append(b.lost, im)
		}
	}
}

// checkLost refuses a guest that runs on the new chain while libvirt has the
// old one: QEMU no longer has the merged layer open.
func (b *builder) checkLost() {
	for _, im := range b.lost {
		gone := im.Gone[len(im.Gone)-1].Path
		if left, seen := b.w.Left[gone]; b.d.State.Live() && seen && !left.InUse {
			b.refuse(CodeRestart, gone, "libvirt missed the end of a merge and still has this layer in the chain: the guest is sound; shut it down and start it, and it can be rotated again")
		}
	}
}
