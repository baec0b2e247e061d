package rotate

import (
	"context"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// libvirt can miss that a merge was finished: when it dies in that moment, it
// comes back with the old chain in its XML. The images are sound then, but the
// configuration would start the guest on a chain that is no more. An intent of
// ours tells this from a chain that somebody else has changed.

// lostMerge returns the disk's chain as it is, if an intent's merge into it
// was finished and libvirt still has the layers that went; else nil.
func (b *builder) lostMerge(im *intentMerge) []Layer {
	disk := b.disk(im.Disk)
	if disk == nil || disk.Job != nil || len(im.Gone) == 0 {
		return nil
	}
	base := disk.index(im.Base)
	top := base + len(im.Gone)
	if base < 0 || top >= len(disk.Chain) || disk.Chain[top].Path != im.Gone[len(im.Gone)-1].Path {
		return nil
	}
	if top == len(disk.Chain)-1 {
		if !b.pivotedAway(disk, im.Base) {
			return nil
		}
	} else if above := &disk.Chain[top+1]; (above.BackingID == vfs.ID{}) || above.BackingID != disk.Chain[base].ID {
		return nil
	}
	return slices.Concat(disk.Chain[:base+1], disk.Chain[top+1:])
}

// pivotedAway tells whether the guest writes to base, and no longer has the
// layer open that libvirt takes for the active one. QEMU's locks tell; where
// there are none, nothing is concluded.
func (b *builder) pivotedAway(disk *Disk, base string) bool {
	left, seen := b.w.Left[disk.Active().Path]
	return b.d.State.Live() && seen && !left.InUse && b.w.Written[base]
}

// mendLost plans what makes the persistent configuration right again. A guest
// that runs has to be restarted before libvirt knows its chain.
func (b *builder) mendLost() bool {
	in := b.w.Intents[b.d.UUID]
	if in == nil || b.w.Remote {
		return false
	}
	g := group{rechain: map[string][]Layer{}}
	end := b.begin(g)
	found := false
	for i := range in.Merges {
		chain := b.lostMerge(&in.Merges[i])
		if chain == nil {
			continue
		}
		found = true
		disk := b.disk(in.Merges[i].Disk)
		if b.d.State.Live() {
			b.refuse(CodeRestart, disk.Target, "libvirt died just when a merge was finished and still has the old chain: the guest is sound; shut it down and start it, and it can be rotated again")
		}
		if !slices.Equal(disk.Inactive, paths(chain)) {
			g.rechain[disk.Target] = chain
			b.add(Step{Op: OpRedefine, Disk: disk.Target, Base: in.Merges[i].Base,
				Reason: "libvirt missed the end of a merge: its configuration must name the chain as it is"})
		}
	}
	end()
	return found
}

// rechain makes the persistent configuration name the chains as they are.
func (r *domainRun) rechain(ctx context.Context, d *Domain, g *group, steps []Step) error {
	for _, s := range steps {
		r.starts(d.Name, s)
	}
	if err := r.Observer.Host.Rechain(ctx, d.Name, g.rechain); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	for _, s := range steps {
		r.did(d.Name, s)
	}
	return nil
}
