package pool

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Guest is a VM of the pool: no snapshot, no template and not the control domain.
type Guest struct {
	UUID, Name, Description string

	Memory    int64 // bytes that it can have at most (memory-static-max); 0: not told
	MemoryNow int64 // bytes that it has while it runs (memory-dynamic-max); 0: the same
	VCPUs     int   // at most; 0: not told
	VCPUsNow  int   // at startup; 0: all of them
	Cores     int   // of a socket; 0: not told

	// Paravirtual guests (PV) begin with a kernel that their host has found for them: there need
	// be no boot loader on the disk.
	Paravirtual bool
	UEFI        bool
	SecureBoot  bool
	Variables   []byte // the firmware's, as varstored keeps them; nil: not told
	BootOrder   string // letters of HVM-boot-params: c is a disk, d the CD, n the network
	Windows     bool
	OS          string // as its tools have told it
	Virtio      bool   // its early boot is known to have drivers for virtio
	LocalTime   bool   // its clock is at local time

	Disks    []Disk // by their number
	Networks []Network
}

// A Disk is a VDI that a guest has.
type Disk struct {
	VDI      string // UUID
	Device   string // which one: "0" is the first
	Bootable bool
	ReadOnly bool
}

// A Network is a network interface.
type Network struct {
	MAC    string
	Device string
	Name   string // of the network: any text
	Bridge string // of the network on the XenServer host
}

// ErrNoGuest means that no guest, or more than one, is called so.
var ErrNoGuest = errors.New("no such VM")

// Guests are all of them, by name.
func (p *Pool) Guests() (guests []*Guest) {
	for _, r := range p.all(classVM) {
		if !r.is("is_a_snapshot") && !r.is("is_a_template") && !r.is("is_control_domain") {
			guests = append(guests, p.newGuest(r))
		}
	}
	slices.SortStableFunc(guests, func(a, b *Guest) int { return cmp.Compare(a.Name, b.Name) })
	return guests
}

// Guest is the one of that UUID or name.
func (p *Pool) Guest(name string) (*Guest, error) {
	var found []*Guest
	var names, uuids []string
	for _, g := range p.Guests() {
		if strings.EqualFold(g.UUID, name) {
			return g, nil
		}
		if names = append(names, strconv.Quote(g.Name)); g.Name == name {
			found, uuids = append(found, g), append(uuids, g.UUID)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%w: %d are called %q: say which by its UUID: %s", ErrNoGuest, len(found), name, strings.Join(uuids, ", "))
	case len(names) == 0:
		return nil, fmt.Errorf("%w as %q: the names tell of no VM: give the pool's database", ErrNoGuest, name)
	}
	return nil, fmt.Errorf("%w as %q: there are %s", ErrNoGuest, name, strings.Join(names[:min(len(names), 20)], ", "))
}

func (p *Pool) newGuest(r *record) *Guest {
	g := &Guest{UUID: strings.ToLower(r.uuid()), Name: r.fields["name_label"], Description: r.fields["name_description"],
		Memory: r.number("memory_static_max"), MemoryNow: r.number("memory_dynamic_max"),
		VCPUs: int(r.number("VCPUs_max")), VCPUsNow: int(r.number("VCPUs_at_startup"))}
	g.readBoot(r)
	p.readSystem(g, r)
	for _, b := range p.all(classVBD) {
		if b.fields["VM"] == r.uuid() && b.fields["VDI"] != "" && b.fields["type"] != "CD" {
			g.Disks = append(g.Disks, Disk{VDI: strings.ToLower(b.fields["VDI"]), Device: b.fields["userdevice"],
				Bootable: b.is("bootable"), ReadOnly: b.fields["mode"] == "RO"})
		}
	}
	slices.SortStableFunc(g.Disks, func(a, b Disk) int { return cmp.Compare(deviceNumber(a.Device), deviceNumber(b.Device)) })
	for _, v := range p.all(classVIF) {
		if v.fields["VM"] == r.uuid() {
			g.Networks = append(g.Networks, p.newNetwork(v))
		}
	}
	slices.SortStableFunc(g.Networks, func(a, b Network) int { return cmp.Compare(deviceNumber(a.Device), deviceNumber(b.Device)) })
	return g
}

func (p *Pool) newNetwork(v *record) Network {
	n := Network{MAC: strings.ToLower(v.fields["MAC"]), Device: v.fields["device"], Name: v.fields["network_name_label"]}
	if net := p.get(classNetwork, v.fields["network"]); net != nil {
		n.Name, n.Bridge = cmp.Or(net.fields["name_label"], n.Name), net.fields["bridge"]
	}
	return n
}

// deviceNumber puts what has no number last.
func deviceNumber(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 1 << 20
	}
	return n
}

// mostNumber is more than any memory has bytes; what is beyond is not believed.
const mostNumber = 1 << 50

func (r *record) number(field string) int64 {
	n, err := strconv.ParseInt(r.fields[field], 10, 64)
	if err != nil || n < 0 || n > mostNumber {
		return 0
	}
	return n
}

func (g *Guest) readBoot(r *record) {
	boot := r.maps["HVM_boot_params"]
	policy, told := r.fields["HVM_boot_policy"]
	g.Paravirtual = told && policy == "" && r.fields["domain_type"] != "hvm" || r.fields["domain_type"] == "pv"
	g.UEFI, g.BootOrder = boot["firmware"] == "uefi", boot["order"]
	if g.UEFI {
		g.Variables, _ = base64.StdEncoding.DecodeString(r.maps["NVRAM"]["EFI-variables"]) // what is no base64 is none
	}
	platform := r.maps["platform"]
	g.SecureBoot = g.UEFI && (platform["secureboot"] == "true" || platform["secureboot"] == "auto")
	if n, err := strconv.Atoi(platform["cores-per-socket"]); err == nil && n > 0 && n <= 1<<12 {
		g.Cores = n
	}
	// XenServer sets viridian for Windows only: the interface of Hyper-V.
	g.Windows = platform["viridian"] == "true"
}

// readSystem takes what the tools in the guest have told of it.
func (p *Pool) readSystem(g *Guest, r *record) {
	system := r.maps["os_version"] // xe has it with the VM
	if m := p.get(classMetrics, r.fields["guest_metrics"]); m != nil {
		system = m.maps["os_version"]
	}
	g.OS = cmp.Or(system["name"], system["distro"])
	template := r.maps["other_config"]["base_template_name"]
	distro := strings.ToLower(system["distro"])
	if g.OS == "" {
		g.OS = template
	}
	if distro != "" {
		g.Windows = distro == "windows" || strings.Contains(strings.ToLower(system["name"]), "windows")
	} else if strings.HasPrefix(template, "Windows") {
		g.Windows = true
	}
	g.LocalTime = g.Windows
	// The initramfs of these has all drivers of disks; others build one for the host that they
	// find themselves on, which had no virtio.
	g.Virtio = !g.Windows && (distro == "debian" || distro == "ubuntu")
}
