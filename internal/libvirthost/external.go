//go:build cgo

package libvirthost

import (
	"context"
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// Externals returns the metadata of snapshots as it is, and as it is to be once their states
// are layers. It changes nothing.
func (h *Host) Externals(_ context.Context, domain string, snapshots []host.External) (all []host.Replacement, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	for i := range snapshots {
		r, err := replacement(dom, &snapshots[i])
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", snapshots[i].Snapshot, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func replacement(dom *libvirt.Domain, e *host.External) (r host.Replacement, err error) {
	r = host.Replacement{External: *e}
	if e.New {
		text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
		if err != nil {
			return r, err
		}
		r.After, err = unlistedXML(e, text)
		return r, err
	}
	snap, err := dom.SnapshotLookupByName(e.Snapshot, 0)
	if err != nil {
		return r, err
	}
	defer snap.Free()
	if r.Before, err = snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE); err != nil {
		return r, err
	}
	r.After, err = externalXML(r.Before, e)
	return r, err
}

// Replace forgets the metadata of a snapshot, if libvirt has any, and writes it as it is to
// be: libvirt does not let an internal snapshot become an external one.
func (h *Host) Replace(ctx context.Context, domain string, r host.Replacement) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if err := h.DropMetadata(ctx, domain, r.Snapshot); err != nil {
		return err
	}
	return defineSnapshot(dom, keptSnapshot{r.Snapshot, r.After, r.Current})
}
