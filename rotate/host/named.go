package host

import (
	"slices"
)

// Named lists every path that is known of a domain, in whatever role.
func (d *Domain) Named() []string {
	list := append([]string{}, d.Elsewhere...)
	for i := range d.Disks {
		list = append(append(list, Paths(d.Disks[i].Chain)...), d.Disks[i].Inactive...)
	}
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			list = append(append(append(list, sd.State...), sd.Inactive...), sd.Overlay, sd.Reverted)
		}
	}
	return list
}

// HasBelow tells whether a disk's chain has a layer below that path.
func (d *Domain) HasBelow(path string) bool {
	return slices.ContainsFunc(d.Disks, func(disk Disk) bool { return disk.Index(path) > 0 })
}

// Uses tells whether path is in the chain of one of the domain's disks.
func (d *Domain) Uses(path string) bool {
	for i := range d.Disks {
		if d.Disks[i].Index(path) >= 0 {
			return true
		}
	}
	return false
}

// WrittenDown lists the layers of the chains that libvirt has of the domain. What was found
// by the headers of a guest that is off is not among them.
func (d *Domain) WrittenDown() []string {
	var list []string
	for i := range d.Disks {
		list = append(list, d.Disks[i].Inactive...)
		if d.State.Live() {
			list = append(list, Paths(d.Disks[i].Chain)...)
		}
	}
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			list = append(list, sd.State...)
		}
	}
	return list
}
