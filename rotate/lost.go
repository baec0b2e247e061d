package rotate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A merge can end just when QEMU or libvirtd dies. The header of the layer
// above then names the base already, while libvirt still has the old chain.
// The old chain is the one to trust: what the base got may not have reached
// the disk, and the merged layers, which nobody has deleted, hold all of it.
// A guest that starts from libvirt's XML reads through them, and the merge is
// done once more. An intent of ours tells this from what somebody else did.
// What a guest uses that runs on, QEMU is asked.

// SettleTime is how long libvirt is given to take note of a merge that QEMU
// has just ended, before it is taken to have missed that.
const SettleTime = 500 * time.Millisecond

// settled looks, and once more a moment later if libvirt may have missed the
// end of a merge; then it asks QEMU.
func (o *Observer) settled(ctx context.Context, look func() (*World, error)) (*World, error) {
	w, err := look()
	if err != nil || w.Remote || len(w.doubtful()) == 0 {
		return w, err
	}
	wait := o.Probes.Settle
	if wait == 0 {
		wait = SettleTime
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(wait):
	}
	if w, err = look(); err != nil {
		return nil, err
	}
	for _, d := range w.doubtful() {
		o.askQEMU(ctx, d)
	}
	return w, nil
}

// askQEMU fills in what chains QEMU has. Where it does not tell, image locks
// are the evidence.
func (o *Observer) askQEMU(ctx context.Context, d *Domain) {
	chains, err := o.Host.QEMUChains(ctx, d.Name)
	if err != nil {
		return
	}
	for i := range d.Disks {
		d.Disks[i].Running = chains[d.Disks[i].Target]
	}
}

// doubtful returns the running domains of which libvirt may have missed the
// end of a merge of ours.
func (w *World) doubtful() []*Domain {
	var found []*Domain
	for i := range w.Domains {
		d := &w.Domains[i]
		in := w.Intents[d.UUID]
		if in == nil || !d.State.Live() {
			continue
		}
		if slices.ContainsFunc(in.Merges, func(m intentMerge) bool {
			disk := diskOf(d, m.Disk)
			return disk != nil && disk.Job == nil && (w.unsure(&m, disk) || m.mergedAbove(disk) || m.pulled(disk) || m.onTop(disk) && w.Left[m.Base].Written)
		}) {
			found = append(found, d)
		}
	}
	return found
}

// top returns the place of the merge's highest layer in the chain if all of
// its layers are there, else -1.
func (m *intentMerge) top(disk *Disk) int {
	if len(m.Gone) == 0 || m.Graft != nil {
		return -1
	}
	base, top := disk.index(m.Base), disk.index(m.Gone[len(m.Gone)-1].Path)
	if base < 0 || top != base+len(m.Gone) {
		return -1
	}
	return top
}

// onTop tells whether libvirt still has the merge's layers as the top of the chain.
func (m *intentMerge) onTop(disk *Disk) bool {
	top := m.top(disk)
	return top >= 0 && top == len(disk.Chain)-1
}

// mergedAbove tells whether the layer above the merge's names the base in its
// header, while libvirt still has all of the merge's layers.
func (m *intentMerge) mergedAbove(disk *Disk) bool {
	top := m.top(disk)
	if top < 0 || top+1 >= len(disk.Chain) {
		return false
	}
	below := disk.Chain[top+1].BackingID
	return below != vfs.ID{} && below == disk.Chain[disk.index(m.Base)].ID
}

// highest returns the highest layer that the merge makes superfluous.
func (m *intentMerge) highest(disk *Disk) string {
	if top := disk.index(m.Pull); m.Pull != "" && top > 0 {
		return disk.Chain[top-1].Path
	}
	return m.Gone[len(m.Gone)-1].Path
}

// trustOldChains makes the builder see such chains as libvirt has them.
func (b *builder) trustOldChains() {
	in := b.w.Intents[b.d.UUID]
	if in == nil {
		return
	}
	for i := range in.Merges {
		im := &in.Merges[i]
		switch disk := b.disk(im.Disk); {
		case disk == nil:
		case im.pulled(disk):
			top := disk.index(im.Pull)
			disk.Chain[top].rebase(&disk.Chain[top-1])
			b.lost = append(b.lost, im)
		case im.mergedAbove(disk):
			top := im.top(disk)
			disk.Chain[top+1].rebase(&disk.Chain[top])
			b.lost = append(b.lost, im)
		}
	}
}

// checkLost refuses a guest that runs on the new chain while libvirt has the
// old one, and one that has stopped where it is not known which one it ran on.
func (b *builder) checkLost() {
	if in := b.w.Intents[b.d.UUID]; in != nil {
		for i := range in.Merges {
			im := &in.Merges[i]
			if disk := b.disk(im.Disk); disk != nil && b.w.unsure(im, disk) {
				b.refuse(CodeStopped, im.Graft.active().Path, fmt.Sprintf("a run was cut off while it moved the guest from %s to this image, and libvirt has it on the former: "+
					"which of the two it wrote to last is not known; see docs/recovery.md", disk.Active().Path))
			}
		}
	}
	if in := b.w.Intents[b.d.UUID]; in != nil && !b.d.State.Live() {
		for i := range in.Merges {
			im := &in.Merges[i]
			if disk := b.disk(im.Disk); disk != nil && im.Pivot && im.onTop(disk) {
				b.refuse(CodeStopped, im.Base, fmt.Sprintf("a run was cut off while it moved the guest from %s to this image, and the guest has stopped since: "+
					"which of the two it wrote to last is not known; see docs/recovery.md", disk.Active().Path))
			}
		}
	}
	for _, im := range b.lost {
		gone := im.highest(b.disk(im.Disk))
		if b.d.State.Live() && b.runsWithout(b.disk(im.Disk), gone) {
			b.refuse(CodeRestart, gone, "libvirt missed the end of a merge and still has this layer in the chain: the guest is sound; shut it down and start it, and it can be rotated again")
		}
	}
}

// runsWithout tells whether the layer is not in the chain that QEMU has; if
// QEMU was not to be asked, whether nobody has it open.
func (b *builder) runsWithout(disk *Disk, layer string) bool {
	if disk.Running != nil {
		return !slices.Contains(disk.Running, layer)
	}
	left, seen := b.w.Left[layer]
	return seen && !left.InUse
}
