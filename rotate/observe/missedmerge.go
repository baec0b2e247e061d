package observe

import (
	"context"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// FollowGrafts lets the snapshots of a domain whose guest a graft has moved have come
// with the overlays that it has now: what the metadata says is mended later.
func FollowGrafts(d *host.Domain, in *journal.Intent) {
	if in == nil {
		return
	}
	for i := range in.Merges {
		im := &in.Merges[i]
		if im.Graft == nil || !im.Graft.Ended(host.DiskOf(d, im.Disk)) {
			continue
		}
		d.Snapshots = host.CloneSnapshots(d.Snapshots)
		for j := range d.Snapshots {
			for k := range d.Snapshots[j].Disks {
				im.Follow(&d.Snapshots[j].Disks[k])
			}
		}
	}
}

// copyLag is how long after the guest could have been moved its copy may be written to
// although it was not: QEMU copies what the guest writes until the copy is ended.
const copyLag = 5 * time.Second

// Unsure tells whether it is not known which of its two chains a guest was on last: a
// run was cut off while it moved it. It was not moved if the new image has gone, which is
// a person's word, or if QEMU has the guest on the former one, and nobody has written to
// the new one since. A guest that was moved, stopped and started from its former image is
// on that, too, but has written to the other.
func (w *World) Unsure(im *journal.Merge, disk *host.Disk) bool {
	if im.Graft == nil || im.Graft.Ready.IsZero() || disk.Job != nil || im.Graft.Ended(disk) || len(disk.Chain) == 0 {
		return false
	}
	left, there := w.Left[im.Graft.Active().Path]
	former := slices.Contains(disk.Running, im.Gone[len(im.Gone)-1].Path)
	return there && (!former || left.ModTime.After(im.Graft.Ready.Add(copyLag)))
}

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
func (o *Observer) askQEMU(ctx context.Context, d *host.Domain) {
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
func (w *World) doubtful() []*host.Domain {
	var found []*host.Domain
	for i := range w.Domains {
		d := &w.Domains[i]
		in := w.Intents[d.UUID]
		if in == nil || !d.State.Live() {
			continue
		}
		if slices.ContainsFunc(in.Merges, func(m journal.Merge) bool {
			disk := host.DiskOf(d, m.Disk)
			return disk != nil && disk.Job == nil && (w.Unsure(&m, disk) || m.MergedAbove(disk) || m.Pulled(disk) || m.OnTop(disk) && w.Left[m.Base].Written)
		}) {
			found = append(found, d)
		}
	}
	return found
}
