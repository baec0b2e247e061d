package libvirthost

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/virt-rotate/virt-rotate/rotate"
)

// leaveOutDisks takes the disks out of a snapshot that the configuration of any of its
// descendants lacks; "" where there are none. It is an error if libvirtxml does not know
// all that the text holds.
func leaveOutDisks(text string, descendants []string) (fixed string, err error) {
	var x libvirtxml.DomainSnapshot
	if err := x.Unmarshal(text); err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	changed := false
	for _, above := range descendants {
		has, err := targetsOf(above)
		if err != nil {
			return "", err
		}
		changed = leaveOutAllBut(&x, has) || changed
	}
	if !changed {
		return "", nil
	}
	if _, err := fixSnapshot(text, rotate.SnapshotFix{}); err != nil { // nothing else is to be lost
		return "", err
	}
	tidySnapshotDisks(&x)
	if x.Domain != nil {
		fixDomain(x.Domain, nil, true)
	}
	if x.InactiveDomain != nil {
		fixDomain(&x.InactiveDomain.Domain, nil, false)
	}
	return x.Marshal()
}

// leaveOutAllBut marks the disks that are not in has as no part of the snapshot.
func leaveOutAllBut(x *libvirtxml.DomainSnapshot, has map[string]bool) (changed bool) {
	if x.Disks == nil {
		return false
	}
	for i := range x.Disks.Disks {
		if d := &x.Disks.Disks[i]; d.Snapshot == "external" && !has[d.Name] {
			*d = libvirtxml.DomainSnapshotDisk{Name: d.Name, Snapshot: "no"}
			changed = true
		}
	}
	return changed
}

// targetsOf lists the disks of a snapshot's stored configurations: those that all have.
func targetsOf(text string) (map[string]bool, error) {
	var x libvirtxml.DomainSnapshot
	if err := x.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("snapshot XML: %w", err)
	}
	has := diskTargets(x.Domain)
	if x.InactiveDomain != nil {
		persistent := diskTargets(&x.InactiveDomain.Domain)
		for target := range has {
			if !persistent[target] {
				delete(has, target)
			}
		}
	}
	return has, nil
}

func diskTargets(x *libvirtxml.Domain) map[string]bool {
	has := map[string]bool{}
	if x == nil || x.Devices == nil {
		return has
	}
	for i := range x.Devices.Disks {
		if t := x.Devices.Disks[i].Target; t != nil {
			has[t.Dev] = true
		}
	}
	return has
}
