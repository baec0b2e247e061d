package decide

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// runsWithout tells whether the layer is not in the chain that QEMU has; if
// QEMU was not to be asked, whether nobody has it open.
func (b *builder) runsWithout(disk *host.Disk, layer string) bool {
	if disk.Running != nil {
		return !slices.Contains(disk.Running, layer)
	}
	left, seen := b.w.Left[layer]
	return seen && !left.InUse
}

// libvirtd can die just when QEMU has moved a guest onto the base of an active
// commit. It comes back with the old chain, and the guest would be started from
// a layer that is older than what it has written since. libvirt cannot be told
// what the running guest uses, but what it will start from. An intent of ours
// and QEMU's image locks together are the evidence; without locks there is none.

// missedPivots refuses a guest that runs on the base of a merge of ours while
// libvirt has it on the merged layer, and plans to correct what it starts from.
func (b *builder) missedPivots() {
	in := b.w.Intents[b.d.UUID]
	if in == nil || !b.d.State.Live() {
		return
	}
	end := b.begin(Group{KeepIntent: true})
	for i := range in.Merges {
		im := &in.Merges[i]
		if disk := b.disk(im.Disk); disk != nil {
			b.startFrom(disk, wayOf(im).runsOn(b, disk, im))
		}
	}
	end()
}

// startFrom plans that the guest starts from the chain on which it runs.
func (b *builder) startFrom(disk *host.Disk, chain []host.Layer) {
	if len(chain) == 0 {
		return
	}
	base := chain[len(chain)-1].Path
	b.refuse(host.CodeRestart, base, fmt.Sprintf("the guest writes to this image, but libvirt missed the end of the merge and has %s on %s: "+
		"shut the guest down and start it (not from within), and it can be rotated again", disk.Target, disk.Active().Path))
	disk.Chain = chain
	if !b.d.Transient && host.InactiveProblem(disk) != "" {
		b.add(Step{Op: OpRedefine, Disk: disk.Target, Base: base,
			Reason: "the guest must start from the image that it writes to"})
	}
}

// startChain returns the chain that the disk has to be started from.
func (b *builder) startChain(target string) []host.Layer {
	b.missedPivots()
	if disk := b.disk(target); disk != nil {
		return disk.Chain
	}
	return nil
}

// trustOldChains makes the builder see chains of which libvirt has missed that a merge has
// ended as libvirt has them.
func (b *builder) trustOldChains() {
	in := b.w.Intents[b.d.UUID]
	if in == nil {
		return
	}
	for i := range in.Merges {
		im := &in.Merges[i]
		if disk := b.disk(im.Disk); disk != nil && wayOf(im).trustOld(disk, im) {
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
			if disk := b.disk(im.Disk); disk != nil {
				wayOf(im).checkStopped(b, disk, im)
			}
		}
	}
	for _, im := range b.lost {
		gone := im.Highest(b.disk(im.Disk))
		if b.d.State.Live() && b.runsWithout(b.disk(im.Disk), gone) {
			b.refuse(host.CodeRestart, gone, "libvirt missed the end of a merge and still has this layer in the chain: the guest is sound; shut it down and start it, and it can be rotated again")
		}
	}
}
