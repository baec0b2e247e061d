//go:build cgo

package libvirthost

import (
	"context"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// Outline returns all domains with no more than their names and their disks, as they are
// when the domain starts next. No QEMU is asked, and no file is looked at.
func (h *Host) Outline(ctx context.Context) (domains []host.Domain, err error) {
	defer plain(&err)
	found, err := h.conn.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := outline(&found[i])
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
	}
	return domains, nil
}

func outline(dom *libvirt.Domain) (d host.Domain, err error) {
	defer dom.Free()
	if d.Name, err = dom.GetName(); err != nil {
		return d, err
	}
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
	if err != nil {
		return d, err
	}
	return d, readDomain(&d, text, nil)
}
