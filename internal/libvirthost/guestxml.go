package libvirthost

import (
	"strings"
	"unicode"

	"libvirt.org/go/libvirtxml"
)

// A Guest is one of another hypervisor, as it is to be defined here. Sizes are bytes.
type Guest struct {
	Name, UUID, Description string

	Memory, MemoryNow int64 // what it can have, and what it has; 0: the same
	VCPUs, VCPUsNow   int   // likewise
	Cores             int   // of a socket; 0: not told

	UEFI      bool
	Firmware  *Firmware // which, and with variables in a file; nil: libvirt chooses
	LocalTime bool
	HyperV    bool // it runs better with the interfaces of Hyper-V, as Windows does
	NetBoot   bool // the network comes before the disks
	CDBoot    bool // so does the CD

	Disks    []GuestDisk
	Networks []GuestNetwork
}

// A GuestDisk is a place for a disk. The first that is bootable is booted from.
type GuestDisk struct {
	Target, Bus string
	Bootable    bool
}

// A GuestNetwork is a network interface. Without bridge and network its link is down.
type GuestNetwork struct{ MAC, Model, Bridge, Network string }

// The machine is the one that XenServer, too, shows to its guests (i440FX and PIIX): what
// they boot with they have drivers for.
const guestMachine = "pc"

// mostVCPUs is what the machine takes.
const mostVCPUs = 255

// guestXML is the domain. Virt is the kind of domain that this host runs: kvm or qemu.
func guestXML(g *Guest, virt string) (string, error) {
	x := libvirtxml.Domain{
		Type: virt, Name: g.Name, UUID: g.UUID, Description: printable(g.Description),
		Memory:   &libvirtxml.DomainMemory{Value: uint(g.Memory >> 10), Unit: "KiB"},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: guestMachine, Type: "hvm"}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}, PAE: &libvirtxml.DomainFeature{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
	}
	if g.MemoryNow > 0 && g.MemoryNow < g.Memory {
		x.CurrentMemory = &libvirtxml.DomainCurrentMemory{Value: uint(g.MemoryNow >> 10), Unit: "KiB"}
	}
	g.processors(&x, virt)
	g.firmware(&x)
	if g.LocalTime {
		x.Clock.Offset = "localtime"
	}
	if g.HyperV && virt == "kvm" {
		x.Features.HyperV = &libvirtxml.DomainFeatureHyperV{Relaxed: &libvirtxml.DomainFeatureState{State: "on"},
			VAPIC: &libvirtxml.DomainFeatureState{State: "on"}, Spinlocks: &libvirtxml.DomainFeatureHyperVSpinlocks{DomainFeatureState: libvirtxml.DomainFeatureState{State: "on"}, Retries: 8191}}
		x.Clock.Timer = append(x.Clock.Timer, libvirtxml.DomainTimer{Name: "hypervclock", Present: "yes"})
	}
	x.Devices = g.devices()
	return x.Marshal()
}

// printable leaves out what XML cannot hold.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' {
			return -1
		}
		return r
	}, text)
}

func (g *Guest) processors(x *libvirtxml.Domain, virt string) {
	n := min(max(g.VCPUs, 1), mostVCPUs)
	x.VCPU = &libvirtxml.DomainVCPU{Value: uint(n)}
	if g.VCPUsNow > 0 && g.VCPUsNow < n {
		x.VCPU.Current = uint(g.VCPUsNow)
	}
	cpu := &libvirtxml.DomainCPU{}
	if virt == "kvm" {
		cpu.Mode = "host-model"
	}
	if g.Cores > 0 && n%g.Cores == 0 {
		cpu.Topology = &libvirtxml.DomainCPUTopology{Sockets: n / g.Cores, Cores: g.Cores, Threads: 1}
	}
	if cpu.Mode != "" || cpu.Topology != nil {
		x.CPU = cpu
	}
}

func (g *Guest) firmware(x *libvirtxml.Domain) {
	switch {
	case g.Firmware != nil:
		x.OS.Loader = &libvirtxml.DomainLoader{Path: g.Firmware.Code, Readonly: "yes", Type: "pflash"}
		x.OS.NVRam = &libvirtxml.DomainNVRam{NVRam: g.Firmware.Variables, Template: g.Firmware.Template}
	case g.UEFI:
		x.OS.Firmware = "efi"
	}
}

func (g *Guest) devices() *libvirtxml.DomainDeviceList {
	l := &libvirtxml.DomainDeviceList{}
	order := uint(1)
	boot := func() *libvirtxml.DomainDeviceBoot {
		order++
		return &libvirtxml.DomainDeviceBoot{Order: order - 1}
	}
	var cd, net *libvirtxml.DomainDeviceBoot
	if g.CDBoot {
		cd = boot()
	}
	if g.NetBoot && len(g.Networks) > 0 {
		net = boot()
	}
	orders := g.diskOrders(order)
	for i, d := range g.Disks {
		l.Disks = append(l.Disks, libvirtxml.DomainDisk{
			Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: "/"}},
			Target: &libvirtxml.DomainDiskTarget{Dev: d.Target, Bus: d.Bus}, Boot: &libvirtxml.DomainDeviceBoot{Order: orders[i]},
		})
	}
	l.Disks = append(l.Disks, libvirtxml.DomainDisk{Device: "cdrom", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Target: &libvirtxml.DomainDiskTarget{Dev: "hdd", Bus: "ide"}, ReadOnly: &libvirtxml.DomainDiskReadOnly{}, Boot: cd})
	for i, n := range g.Networks {
		nic := n.device()
		if i == 0 {
			nic.Boot = net
		}
		l.Interfaces = append(l.Interfaces, nic)
	}
	port, zero := uint(0), uint(0)
	l.Serials = []libvirtxml.DomainSerial{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}, Target: &libvirtxml.DomainSerialTarget{Port: &port}}}
	l.Consoles = []libvirtxml.DomainConsole{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}, Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &zero}}}
	l.Channels = []libvirtxml.DomainChannel{{Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}}}}
	l.Inputs = []libvirtxml.DomainInput{{Type: "tablet", Bus: "usb"}}
	l.Graphics = []libvirtxml.DomainGraphic{{VNC: &libvirtxml.DomainGraphicVNC{AutoPort: "yes", Port: -1, Listen: "127.0.0.1"}}}
	l.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}}
	return l
}

// diskOrders are the places of the disks in the order of booting, from first on. All have one:
// the BIOS shows no others, and a boot loader may need them.
func (g *Guest) diskOrders(first uint) []uint {
	orders := make([]uint, len(g.Disks))
	for _, bootable := range []bool{true, false} {
		for i, d := range g.Disks {
			if d.Bootable == bootable {
				orders[i] = first
				first++
			}
		}
	}
	return orders
}

func (n *GuestNetwork) device() libvirtxml.DomainInterface {
	nic := libvirtxml.DomainInterface{Model: &libvirtxml.DomainInterfaceModel{Type: n.Model}}
	if n.MAC != "" {
		nic.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
	}
	switch {
	case n.Bridge != "":
		nic.Source = &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: n.Bridge}}
	case n.Network != "":
		nic.Source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}}
	default:
		nic.Source = &libvirtxml.DomainInterfaceSource{User: &libvirtxml.DomainInterfaceSourceUser{}}
		nic.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	return nic
}

// A Firmware is UEFI for guests, with a file of its own for the guest's variables.
type Firmware struct {
	Code      string
	Template  string // the variables of a new guest
	Variables string // the guest's
}
