//go:build cgo

package libvirthost

import (
	"errors"

	"libvirt.org/go/libvirt"
)

// forget deletes a snapshot's metadata. libvirt 9 changes those of its descendants, and
// fails half-way at one whose configuration lacks a disk of the snapshot: it was taken out
// of the domain in between. Such disks are taken out of the snapshot before it goes.
func forget(dom *libvirt.Domain, snap *libvirt.DomainSnapshot) error {
	if err := leaveOut(dom, snap); err != nil {
		return err
	}
	return snap.Delete(libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
}

// leaveOut takes the disks out of the snapshot that one of its descendants lacks.
func leaveOut(dom *libvirt.Domain, snap *libvirt.DomainSnapshot) error {
	above, err := descendants(snap)
	if err != nil || len(above) == 0 {
		return err
	}
	text, err := snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
	if err != nil {
		return err
	}
	fixed, err := leaveOutDisks(text, above)
	if err != nil || fixed == "" {
		return err
	}
	return redefineSnapshot(dom, snap, fixed)
}

// descendants returns the metadata of the snapshots that descend from this one.
func descendants(snap *libvirt.DomainSnapshot) (texts []string, err error) {
	above, err := snap.ListAllChildren(libvirt.DOMAIN_SNAPSHOT_LIST_DESCENDANTS)
	if err != nil {
		return nil, err
	}
	for i := range above {
		text, failed := above[i].GetXMLDesc(0)
		err = errors.Join(err, failed, above[i].Free())
		texts = append(texts, text)
	}
	return texts, err
}

func redefineSnapshot(dom *libvirt.Domain, snap *libvirt.DomainSnapshot, text string) error {
	current, err := snap.IsCurrent(0)
	if err != nil {
		return err
	}
	flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE
	if current {
		flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_CURRENT
	}
	again, err := dom.CreateSnapshotXML(text, flags)
	if err != nil {
		return err
	}
	return again.Free()
}
