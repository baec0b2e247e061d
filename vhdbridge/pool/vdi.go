package pool

import (
	"time"

	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

// VDIs are the pool's disks by UUID, with the guest, or its snapshot, that has each.
func (p *Pool) VDIs() map[string]vhdbridge.VDI {
	vdis := map[string]vhdbridge.VDI{}
	for _, r := range p.all(classVDI) {
		vdis[r.uuid()] = newVDI(r)
	}
	had := map[string]int{} // how much it says that a VM has the disk
	for _, b := range p.all(classVBD) {
		uuid, vm := b.fields["VDI"], p.get(classVM, b.fields["VM"])
		if uuid == "" || b.fields["type"] == "CD" {
			continue
		}
		v, known := vdis[uuid]
		if rank := rankOf(vm, b); rank > had[uuid] {
			if had[uuid] = rank; !known {
				v = vhdbridge.VDI{UUID: uuid, Name: b.fields["vdi_name_label"], Managed: true}
			}
			p.own(&v, vm, b)
			vdis[uuid] = v
		}
	}
	return vdis
}

func newVDI(r *record) vhdbridge.VDI {
	v := vhdbridge.VDI{UUID: r.uuid(), Name: r.fields["name_label"], Description: r.fields["name_description"], Managed: r.is("managed"),
		Snapshot: r.is("is_a_snapshot"), SnapshotOf: r.fields["snapshot_of"], ReadOnly: r.is("read_only")}
	v.SnapshotTime = timeOf(r)
	return v
}

// timeOf is when a snapshot was taken; zero where it is not known.
func timeOf(r *record) time.Time {
	t, err := vhdbridge.PoolTime(r.fields["snapshot_time"])
	if err != nil {
		return time.Time{}
	}
	return t
}

// rankOf orders those who have one disk: a guest before its snapshots, these before
// templates, and the control domain, which has it for a backup, last.
func rankOf(vm, vbd *record) int {
	switch {
	case vm == nil && vbd.fields["vm_name_label"] == "":
		return 0
	case vm == nil:
		return 1
	case vm.is("is_control_domain"):
		return 1
	case vm.is("is_a_snapshot"):
		return 3
	case vm.is("is_a_template"):
		return 2
	}
	return 4
}

// own notes whose disk v is.
func (p *Pool) own(v *vhdbridge.VDI, vm, vbd *record) {
	v.Device = vbd.fields["userdevice"]
	if vm == nil {
		v.VM, v.Guest = vbd.fields["vm_name_label"], vhdbridge.Owner{}
		return
	}
	v.VM = vm.fields["name_label"]
	v.Guest = vhdbridge.Owner{UUID: vm.uuid(), Name: v.VM}
	if !vm.is("is_a_snapshot") {
		return
	}
	v.Guest = vhdbridge.Owner{Snapshot: vm.uuid(), SnapshotName: v.VM, UUID: vm.fields["snapshot_of"]}
	if whole := p.get(classVM, v.Guest.UUID); whole != nil {
		v.Guest.Name = whole.fields["name_label"]
	}
	if v.Snapshot = true; v.SnapshotTime.IsZero() {
		v.SnapshotTime = timeOf(vm)
	}
}
