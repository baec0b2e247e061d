package libvirthost

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// A NewDomain is one to be defined on chains that are there already.
type NewDomain struct {
	Name      string
	XML       string // what it is to be like, with places for its disks
	Disks     []NewDisk
	Snapshots []NewSnapshot // the oldest first; each descends from the one before
}

// A NewDisk replaces a disk. Without a target the n-th of Disks is the n-th disk.
type NewDisk struct {
	Target string
	Active host.Layer
}

// A NewSnapshot is a snapshot of some of a domain's new disks, or of all.
type NewSnapshot struct {
	Name, Description string
	Time              time.Time
	Disks             []NewState
}

// A NewState is what a snapshot has of one disk.
type NewState struct {
	Disk    int          // place in Disks of the domain
	Overlay string       // the layer above the state
	State   []host.Layer // the chain of the state, base first
}

// DomainXML puts the disks into text, which must have them already, and gives it the
// name unless that is "". It returns the targets of the disks, and of those of text
// that are left as they are. It is an error if libvirtxml does not know all that text holds.
func DomainXML(text, name string, disks []NewDisk) (out string, targets, left []string, err error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return "", nil, nil, fmt.Errorf("domain XML: %w", err)
	}
	if name != "" {
		x.Name = name
	}
	targets, left, err = replaceDisks(&x, disks)
	if err != nil {
		return "", nil, nil, err
	}
	fixDomain(&x, nil, false)
	out, err = x.Marshal()
	if err != nil {
		return "", nil, nil, fmt.Errorf("domain XML: %w", err)
	}
	return out, targets, left, sameElements(text, out)
}

// replaceDisks finds a place for each disk. CDs and read-only disks are none.
func replaceDisks(x *libvirtxml.Domain, disks []NewDisk) (targets, left []string, err error) {
	var places []*libvirtxml.DomainDisk
	if x.Devices != nil {
		for i := range x.Devices.Disks {
			d := &x.Devices.Disks[i]
			if (d.Device == "" || d.Device == "disk") && d.ReadOnly == nil && d.Target != nil {
				places = append(places, d)
			}
		}
	}
	filled := map[string]bool{}
	for i, disk := range disks {
		place := placeOf(places, disk.Target, i)
		switch {
		case place == nil && disk.Target != "":
			return nil, nil, fmt.Errorf("the domain has no writable disk %s", disk.Target)
		case place == nil:
			return nil, nil, fmt.Errorf("the domain has %d writable disks: there is no place for disk %d", len(places), i+1)
		case filled[place.Target.Dev]:
			return nil, nil, fmt.Errorf("two disks for %s", place.Target.Dev)
		}
		filled[place.Target.Dev] = true
		fixDisk(place, []host.Layer{disk.Active}, false)
		targets = append(targets, place.Target.Dev)
	}
	for _, p := range places {
		if !filled[p.Target.Dev] {
			left = append(left, p.Target.Dev)
		}
	}
	return targets, left, nil
}

func placeOf(places []*libvirtxml.DomainDisk, target string, n int) *libvirtxml.DomainDisk {
	for i, p := range places {
		if target == p.Target.Dev || target == "" && i == n {
			return p
		}
	}
	return nil
}

// What a plain domain has: enough to start with, and to be edited. SATA works with what
// guests of XenServer have; the firmware is BIOS, as theirs usually is.
const (
	plainMachine = "q35"
	plainMemory  = 1 // GiB
)

// plainXML is a domain with places for so many disks: sda, sdb …, and no network.
func plainXML(name, virt string, disks int) (string, error) {
	x := libvirtxml.Domain{
		Type: virt, Name: name,
		Memory:   &libvirtxml.DomainMemory{Value: plainMemory, Unit: "GiB"},
		VCPU:     &libvirtxml.DomainVCPU{Value: 1},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: plainMachine, Type: "hvm"}, BootDevices: []libvirtxml.DomainBootDevice{{Dev: "hd"}}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Devices:  &libvirtxml.DomainDeviceList{},
	}
	for i := range disks {
		x.Devices.Disks = append(x.Devices.Disks, libvirtxml.DomainDisk{
			Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: "/"}},
			Target: &libvirtxml.DomainDiskTarget{Dev: "sd" + string(rune('a'+i)), Bus: "sata"},
		})
	}
	return x.Marshal()
}

// takenXML is the metadata of an external snapshot of a domain with that configuration, whose
// new disks have these targets. Other disks are no part of it.
func takenXML(s NewSnapshot, parent, domain string, targets []string) (string, error) {
	stored := &libvirtxml.Domain{}
	if err := stored.Unmarshal(domain); err != nil {
		return "", fmt.Errorf("persistent configuration: %w", err)
	}
	stored.XMLName = xml.Name{Local: "domain"}
	x := libvirtxml.DomainSnapshot{
		Name: s.Name, Description: s.Description, State: "disk-snapshot", CreationTime: strconv.FormatInt(s.Time.Unix(), 10),
		Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}, Disks: &libvirtxml.DomainSnapshotDisks{}, Domain: stored,
	}
	if parent != "" {
		x.Parent = &libvirtxml.DomainSnapshotParent{Name: parent}
	}
	states, overlays := map[string][]host.Layer{}, map[string]string{}
	for _, d := range s.Disks {
		states[targets[d.Disk]], overlays[targets[d.Disk]] = d.State, d.Overlay
	}
	for i := range stored.Devices.Disks {
		dev := stored.Devices.Disks[i].Target.Dev
		d := libvirtxml.DomainSnapshotDisk{Name: dev, Snapshot: "no"}
		if overlay := overlays[dev]; overlay != "" {
			d.Snapshot, d.Driver = "external", &libvirtxml.DomainDiskDriver{Type: "qcow2"}
			d.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: overlay}}
		}
		x.Disks.Disks = append(x.Disks.Disks, d)
	}
	fixDomain(stored, states, true)
	return x.Marshal()
}
