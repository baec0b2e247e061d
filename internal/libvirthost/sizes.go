//go:build cgo

package libvirthost

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// observeSizes fills in what libvirt says of the layers' sizes, in bytes. It
// is for hosts whose files cannot be looked at directly; libvirt does not
// know the sizes of all layers of a domain that is shut off.
func (h *Host) observeSizes(dom *libvirt.Domain, d *host.Domain) error {
	all, err := h.conn.GetAllDomainStats([]*libvirt.Domain{dom}, libvirt.DOMAIN_STATS_BLOCK, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_BACKING)
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range all {
		for _, b := range all[i].Block {
			setSize(d, b)
		}
		_ = all[i].Domain.Free()
	}
	return nil
}

func setSize(d *host.Domain, b libvirt.DomainStatsBlock) {
	for i := range d.Disks {
		for j := range d.Disks[i].Chain {
			if l := &d.Disks[i].Chain[j]; l.Path == b.Path {
				l.Size, l.Allocated = int64(b.Capacity), int64(b.Allocation)
			}
		}
	}
}
