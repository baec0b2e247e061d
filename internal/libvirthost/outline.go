//go:build cgo

package libvirthost

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/virt-rotate/virt-rotate/rotate"
)

// Outline returns all domains with no more than their names and their disks, as they are
// when the domain starts next. No QEMU is asked, and no file is looked at.
func (h *Host) Outline(ctx context.Context) (domains []rotate.Domain, err error) {
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

func outline(dom *libvirt.Domain) (d rotate.Domain, err error) {
	defer dom.Free()
	if d.Name, err = dom.GetName(); err != nil {
		return d, err
	}
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
	if err != nil {
		return d, err
	}
	return d, readDomain(&d, text)
}
