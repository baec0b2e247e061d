package observe

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// Going back to a snapshot leaves a branch: layers that hold states, and which no disk
// has in its chain. No guest has them open, whether the domain runs or not: the engine
// merges them by the same rules as all others. Nothing in a chain tells that this was
// done before the metadata does: the intent says so.

// branches looks at the chains of the domain's states that are on branches, one for
// each end of a branch. What cannot be read in full is left out: nothing of it changes.
func (o *Observer) branches(d *host.Domain, in *journal.Intent) []host.Disk {
	var found []host.Disk
	look := newLooker(o) // of its own: for the others these are neighbours
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			path := host.StateOf(d, &sd)
			if path == "" || d.HasBelow(sd.Overlay) || !host.IsMade(path) || d.Uses(path) {
				continue
			}
			end := sd.Overlay // it goes with the branch as long as it is there
			if !exists(end) {
				end = path
			}
			disk := look.branch(sd.Target, end)
			d.NameVolumes(disk.Chain)
			code, _, _ := host.ChainProblem(&disk)
			if code == "" && (disk.Index(path) >= 0 || in.MergedOnBranch(path)) {
				found = append(found, disk)
			}
		}
	}
	return slices.DeleteFunc(found, func(disk host.Disk) bool {
		return slices.ContainsFunc(found, func(o host.Disk) bool { return o.Within(&disk) })
	})
}

// stateChains looks at what the states of the first n domains build on that are in no
// disk's chain, as a restore wants to know.
func (o *Observer) stateChains(w *World, n int) {
	look := newLooker(o)
	w.each(func(d *host.Domain) {
		if !slices.ContainsFunc(w.Domains[:n], func(fresh host.Domain) bool { return fresh.Name == d.Name }) {
			return
		}
		for i := range d.Snapshots {
			for _, state := range d.States(&d.Snapshots[i]) {
				if format := state.KnownFormat(); format != "" && !d.Uses(state.Path) {
					c := look.chain(state.Target, state.Path, format)
					d.NameVolumes(c.Chain)
					w.StateChains[state.Path] = c
				}
			}
		}
	})
}

// branch looks at the chain that ends at path.
func (k *looker) branch(target, path string) host.Disk {
	disk := k.chain(target, path, "qcow2")
	disk.Branch = true
	return disk
}

// chain looks at the image at path, and at what it builds on.
func (k *looker) chain(target, path, format string) host.Disk {
	disk := host.Disk{Target: target, Kind: host.KindFile, Device: "disk", Chain: []host.Layer{{Path: path, Format: format, Kind: host.KindFile}}}
	k.disk(newWorld(), &host.Domain{State: host.ShutOff}, &disk)
	return disk
}
