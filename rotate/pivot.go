package rotate

import (
	"fmt"
	"slices"
)

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
	end := b.begin(group{keepIntent: true})
	for i := range in.Merges {
		im := &in.Merges[i]
		switch disk := b.disk(im.Disk); {
		case disk == nil:
		case b.w.unsure(im, disk) && b.w.Left[im.Graft.active().Path].Written && b.runsWithout(disk, disk.Active().Path):
			b.startFrom(disk, im.grafted(disk))
		case b.pivotMissed(disk, im):
			b.startFrom(disk, slices.Clone(disk.Chain[:disk.index(im.Base)+1]))
		}
	}
	end()
}

// pivotMissed tells whether the guest writes to the base, and not to the layer
// that libvirt takes for the active one.
func (b *builder) pivotMissed(disk *Disk, im *intentMerge) bool {
	if disk.Job != nil || !im.onTop(disk) || !b.w.Left[im.Base].Written {
		return false
	}
	return b.runsWithout(disk, disk.Active().Path)
}

// startFrom plans that the guest starts from the chain on which it runs.
func (b *builder) startFrom(disk *Disk, chain []Layer) {
	if len(chain) == 0 {
		return
	}
	base := chain[len(chain)-1].Path
	b.refuse(CodeRestart, base, fmt.Sprintf("the guest writes to this image, but libvirt missed the end of the merge and has %s on %s: "+
		"shut the guest down and start it (not from within), and it can be rotated again", disk.Target, disk.Active().Path))
	disk.Chain = chain
	if !b.d.Transient && inactiveProblem(disk) != "" {
		b.add(Step{Op: OpRedefine, Disk: disk.Target, Base: base,
			Reason: "the guest must start from the image that it writes to"})
	}
}

// startChain returns the chain that the disk has to be started from.
func (b *builder) startChain(target string) []Layer {
	b.missedPivots()
	if disk := b.disk(target); disk != nil {
		return disk.Chain
	}
	return nil
}
