package libvirthost

import (
	"encoding/xml"
	"fmt"
	"strconv"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// States of snapshots, as libvirt has them for those of disks alone.
const (
	diskSnapshot    = "disk-snapshot" // of a guest that ran
	shutOffSnapshot = "shutoff"
)

// externalXML returns the metadata of an internal snapshot as that of an external one of
// disks alone, and everything else as it was. It is an error if something of it would be
// lost.
func externalXML(text string, e *host.External) (string, error) {
	var x libvirtxml.DomainSnapshot
	if err := x.Unmarshal(text); err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	tidySnapshotDisks(&x)
	if err := makeExternal(&x, e); err != nil {
		return "", err
	}
	if x.Domain != nil {
		fixDomain(x.Domain, e.Chains, true)
	}
	if x.InactiveDomain != nil {
		fixDomain(&x.InactiveDomain.Domain, e.Chains, false)
	}
	fixed, err := whole(text, x.Marshal)
	if err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	return fixed, sameElements(text, fixed)
}

// makeExternal lets each disk have come with the layer above its state.
func makeExternal(x *libvirtxml.DomainSnapshot, e *host.External) error {
	if x.State != shutOffSnapshot {
		x.State = diskSnapshot
	}
	x.Memory = &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}
	x.Parent = nil
	if e.Parent != "" {
		x.Parent = &libvirtxml.DomainSnapshotParent{Name: e.Parent}
	}
	left := len(e.Overlays)
	for i := 0; x.Disks != nil && i < len(x.Disks.Disks); i++ {
		d := &x.Disks.Disks[i]
		overlay := e.Overlays[d.Name]
		switch {
		case overlay != "":
			*d = externalDisk(d.Name, overlay)
			left--
		case d.Snapshot != "no":
			return fmt.Errorf("snapshot %s: nothing is known of the state of %s", x.Name, d.Name)
		}
	}
	if left != 0 {
		return fmt.Errorf("snapshot %s: libvirt does not list all of its disks", x.Name)
	}
	return nil
}

func externalDisk(target, overlay string) libvirtxml.DomainSnapshotDisk {
	return libvirtxml.DomainSnapshotDisk{
		Name: target, Snapshot: "external", Driver: &libvirtxml.DomainDiskDriver{Type: "qcow2"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: overlay}},
	}
}

// unlistedXML is the metadata of a snapshot that libvirt has not listed, in a domain with that
// configuration. Disks without a state are no part of it.
func unlistedXML(e *host.External, domain string) (string, error) {
	stored := &libvirtxml.Domain{}
	if err := stored.Unmarshal(domain); err != nil {
		return "", fmt.Errorf("persistent configuration: %w", err)
	}
	stored.XMLName = xml.Name{Local: "domain"}
	x := libvirtxml.DomainSnapshot{
		Name: e.Snapshot, Description: e.Description, State: shutOffSnapshot, CreationTime: strconv.FormatInt(e.Time.Unix(), 10),
		Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}, Disks: &libvirtxml.DomainSnapshotDisks{}, Domain: stored,
	}
	if e.Parent != "" {
		x.Parent = &libvirtxml.DomainSnapshotParent{Name: e.Parent}
	}
	for i := 0; stored.Devices != nil && i < len(stored.Devices.Disks); i++ {
		dev := stored.Devices.Disks[i].Target.Dev
		d := libvirtxml.DomainSnapshotDisk{Name: dev, Snapshot: "no"}
		if path := e.Overlays[dev]; path != "" {
			d = externalDisk(dev, path)
		}
		x.Disks.Disks = append(x.Disks.Disks, d)
	}
	fixDomain(stored, e.Chains, true)
	out, err := x.Marshal()
	if err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	return out, nil
}
