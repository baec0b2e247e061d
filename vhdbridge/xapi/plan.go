package xapi

import (
	"cmp"
	"fmt"
	"slices"
)

// mostSize is the largest disk of the format, in bytes.
const mostSize = 2040 << 30

// A State is what a disk has, or had when a snapshot was taken.
type State struct {
	VDI      *VDI
	Snapshot bool // nobody writes to it: a base copy gets what it has, for others to build on
	// Like is the snapshot whose content the disk is to have, for that of the disk itself
	// cannot be read; nil: its own.
	Like *VDI
}

// A Chain is a disk with its snapshots: each state is read as what has changed since the
// one before.
type Chain struct {
	VM     *VM
	Device string  // "" if the guest has the disk no more
	States []State // the oldest first

	started string // when the guest was last started; "": not known
}

// LeftOut is a disk, or a state of one, that is not read.
type LeftOut struct {
	VDI    string `json:"vdi"` // UUID
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// A Plan is what is to be read.
type Plan struct {
	Chains []Chain
	Left   []LeftOut
}

// Plan lists the disks of a guest, with all their snapshots and those of disks that only its
// snapshots have. Now, if not nil, is a snapshot of it whose content stands for that of the
// guest's disks, which cannot be read while it runs.
func (v *Inventory) Plan(vm, now *VM) *Plan {
	p := &planner{Inventory: v, vm: vm, now: now, taken: map[*VDI]bool{}, done: map[*VDI]bool{}, plan: &Plan{}}
	for _, b := range p.disks(vm) { // none of them is a snapshot of another, whatever is told
		p.taken[v.vdis[b.VDI]] = true
	}
	for _, b := range p.disks(vm) {
		p.disk(b)
	}
	for _, s := range v.snapshotsOf(vm) {
		for _, b := range p.disks(s) {
			p.lost(b)
		}
	}
	return p.plan
}

type planner struct {
	*Inventory
	vm, now *VM
	taken   map[*VDI]bool // they have their place in a chain, or are left out
	done    map[*VDI]bool // disks of the guest whose chain is made
	plan    *Plan
}

// snapshotsOf lists the snapshots of a guest, the oldest first.
func (v *Inventory) snapshotsOf(vm *VM) []*VM {
	all := slices.DeleteFunc(slices.Clone(v.VMs), func(m *VM) bool { return !m.Snapshot || m.SnapshotOf != vm.Ref || m == vm })
	slices.SortStableFunc(all, func(a, b *VM) int { return a.SnapshotTime.Compare(b.SnapshotTime) })
	return all
}

// disks lists what a VM has disks by, in order.
func (v *Inventory) disks(vm *VM) []*VBD {
	return slices.DeleteFunc(slices.Clone(v.VBDs), func(b *VBD) bool { return b.VM != vm.Ref || b.Type != "Disk" || v.vdis[b.VDI] == nil })
}

// disk plans one that the guest has.
func (p *planner) disk(b *VBD) {
	d := p.vdis[b.VDI]
	if p.done[d] {
		return
	}
	p.done[d] = true
	c := Chain{VM: p.vm, Device: b.Device, States: p.snapshots(d)}
	if s, ok := p.current(d, c.States); ok {
		c.States = append(c.States, s)
	}
	p.add(c)
}

// current is the state of the disk itself, if it can be read.
func (p *planner) current(d *VDI, snapshots []State) (State, bool) {
	if !p.usable(d) {
		return State{}, false
	}
	if p.vm.PowerState == "Halted" {
		return State{VDI: d}, true
	}
	if p.now != nil {
		for _, s := range snapshots {
			if p.ownerOf(s.VDI) == p.now {
				return State{VDI: d, Like: s.VDI}, true
			}
		}
	}
	p.leave(d, fmt.Sprintf("its guest is %s: shut it down, or have a snapshot taken with --snapshot; what snapshots have is read", state(p.vm.PowerState)))
	return State{}, false
}

// state is how a guest's power state is told.
func state(power string) string {
	if names := map[string]string{"Running": "running", "Paused": "paused", "Suspended": "suspended"}; names[power] != "" {
		return names[power]
	}
	return fmt.Sprintf("in the state %q", power)
}

// ownerOf is the VM, or its snapshot, that has the disk.
func (v *Inventory) ownerOf(d *VDI) *VM {
	for _, b := range v.VBDs {
		if b.VDI == d.Ref && b.Type == "Disk" && v.vms[b.VM] != nil {
			return v.vms[b.VM]
		}
	}
	return nil
}

// snapshots lists those of a disk, the oldest first.
func (p *planner) snapshots(d *VDI) (states []State) {
	for _, s := range p.VDIs {
		if s.Snapshot && s.SnapshotOf == d.Ref && !p.taken[s] {
			p.taken[s] = true
			if p.usable(s) {
				states = append(states, State{VDI: s, Snapshot: true})
			}
		}
	}
	slices.SortStableFunc(states, func(a, b State) int {
		return cmp.Or(a.VDI.SnapshotTime.Compare(b.VDI.SnapshotTime), cmp.Compare(a.VDI.UUID, b.VDI.UUID))
	})
	return states
}

// lost plans what only a snapshot of the guest has: its disk was removed, or was made anew
// when the guest went back to a snapshot. All snapshots of that disk are one chain.
func (p *planner) lost(b *VBD) {
	d := p.vdis[b.VDI]
	if p.taken[d] {
		return
	}
	if d.SnapshotOf != "" && d.SnapshotOf != nullRef && d.Snapshot {
		p.add(Chain{VM: p.vm, States: p.snapshots(&VDI{Ref: d.SnapshotOf})})
		return
	}
	p.taken[d] = true
	if p.usable(d) {
		p.add(Chain{VM: p.vm, States: []State{{VDI: d, Snapshot: true}}})
	}
}

func (p *planner) add(c Chain) {
	c.started = p.starts[p.vm.metrics]
	if len(c.States) > 0 {
		p.plan.Chains = append(p.plan.Chains, c)
	}
}

// usable tells whether a disk can be read as a VHD; if not, that is noted.
func (p *planner) usable(d *VDI) bool {
	switch {
	case d.Missing:
		p.leave(d, "its repository says that it is missing")
	case d.Type == "cbt_metadata":
		p.leave(d, "its data was deleted, and only what changed block tracking knows of it is left")
	case d.Size <= 0 || d.Size%512 != 0:
		p.leave(d, fmt.Sprintf("its size is told as %d bytes", d.Size))
	case d.Size > mostSize:
		p.leave(d, fmt.Sprintf("it has %d bytes, and a VHD at most 2040 GiB: xe vm-export writes an XVA, which sr convert reads", d.Size))
	default:
		return true
	}
	return false
}

func (p *planner) leave(d *VDI, reason string) {
	p.plan.Left = append(p.plan.Left, LeftOut{d.UUID, d.Name, reason})
}
