//go:build cgo

package libvirthost

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"
)

// Configuration is the persistent configuration of a domain whose disks can be replaced.
// One that runs, or that has a saved state, snapshots or checkpoints, which all go with
// its disks, is an error; "" means that there is no domain of that name.
func (h *Host) Configuration(name string) (text string, err error) {
	defer plain(&err)
	dom, err := h.domain(name)
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dom.Free()
	if err := replaceable(dom); err != nil {
		return "", fmt.Errorf("%s: its disks are not replaced: %w", name, err)
	}
	return dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
}

func replaceable(dom *libvirt.Domain) error {
	active, err := dom.IsActive()
	if err != nil || active {
		return errors.Join(err, errWhen(active, "it runs"))
	}
	saved, err := dom.HasManagedSaveImage(0)
	if err != nil || saved {
		return errors.Join(err, errWhen(saved, "it has a saved state"))
	}
	snapshots, err := dom.SnapshotNum(0)
	if err != nil || snapshots > 0 {
		return errors.Join(err, errWhen(snapshots > 0, "it has snapshots"))
	}
	checkpoints, err := dom.ListAllCheckpoints(0)
	for i := range checkpoints {
		_ = checkpoints[i].Free()
	}
	return errors.Join(err, errWhen(len(checkpoints) > 0, "it has checkpoints"))
}

func errWhen(yes bool, reason string) error {
	if yes {
		return errors.New(reason)
	}
	return nil
}

// PlainDomain is a plain domain with places for so many disks, of what libvirt says that
// this host can run: KVM where it is there.
func (h *Host) PlainDomain(name string, disks int) (text string, err error) {
	defer plain(&err)
	virt, err := h.virt(plainMachine)
	if err != nil {
		return "", fmt.Errorf("a plain domain: %w", err)
	}
	return plainXML(name, virt, disks)
}

// virt is how this host runs such a machine: kvm or qemu.
func (h *Host) virt(machine string) (string, error) {
	text, err := h.conn.GetDomainCapabilities("", "x86_64", machine, "", 0)
	if err != nil {
		return "", err
	}
	var caps struct {
		Domain string `xml:"domain"`
	}
	if err := xml.Unmarshal([]byte(text), &caps); err != nil {
		return "", fmt.Errorf("domain capabilities: %w", err)
	}
	return caps.Domain, nil
}

// GuestDomain is the domain of a guest of another hypervisor. Where another domain has its
// UUID already it gets none, which is told.
func (h *Host) GuestDomain(g Guest) (text string, sameUUID bool, err error) {
	defer plain(&err)
	virt, err := h.virt(guestMachine)
	if err != nil {
		return "", false, fmt.Errorf("domain %s: %w", g.Name, err)
	}
	if g.UUID != "" {
		dom, err := h.conn.LookupDomainByUUIDString(g.UUID)
		if err == nil {
			defer dom.Free()
			if name, err := dom.GetName(); err != nil || name != g.Name {
				g.UUID, sameUUID = "", true
			}
		}
	}
	text, err = guestXML(&g, virt)
	return text, sameUUID, err
}

// Define defines the domain and its snapshots, which are metadata of layers that are
// there. It returns the targets of the disks. When anything fails, all is as it was.
func (h *Host) Define(_ context.Context, d NewDomain) (targets []string, err error) {
	defer plain(&err)
	before, err := h.Configuration(d.Name)
	if err != nil {
		return nil, err
	}
	text, targets, _, err := DomainXML(d.XML, d.Name, d.Disks)
	if err != nil {
		return nil, err
	}
	dom, err := h.conn.DomainDefineXML(text)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	if err := takeAll(dom, d.Snapshots, targets); err != nil {
		return nil, errors.Join(err, h.takeBack(dom, before))
	}
	return targets, nil
}

// takeBack takes the snapshots away, which are all new, and the domain, too, if it is.
func (h *Host) takeBack(dom *libvirt.Domain, before string) error {
	if before == "" {
		return dom.UndefineFlags(libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
	}
	snapshots, err := dom.ListAllSnapshots(0)
	for i := range snapshots {
		err = errors.Join(err, snapshots[i].Delete(libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY), snapshots[i].Free())
	}
	return errors.Join(err, h.redefine(before))
}

// takeAll writes the metadata of the snapshots.
func takeAll(dom *libvirt.Domain, snapshots []NewSnapshot, targets []string) error {
	if len(snapshots) == 0 {
		return nil
	}
	domain, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return err
	}
	parent := ""
	for i, s := range snapshots {
		text, err := takenXML(s, parent, domain, targets)
		if err != nil {
			return err
		}
		flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE
		if i == len(snapshots)-1 {
			flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_CURRENT
		}
		snap, err := dom.CreateSnapshotXML(text, flags)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
		if err := snap.Free(); err != nil {
			return err
		}
		parent = s.Name
	}
	return nil
}
