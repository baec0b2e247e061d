package sr

import (
	"cmp"
	"fmt"
	"net"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Buses that disks can have. IDE is what XenServer, too, shows: every guest can boot from it.
const (
	busAuto   = "auto"
	busIDE    = "ide"
	busSATA   = "sata"
	busVirtio = "virtio"
)

func buses() []string { return []string{busAuto, busVirtio, busSATA, busIDE} }

// mostIDE is how many IDE disks there are beside the CD.
const mostIDE = 3

// lessMemory is what a guest gets of which nothing is told, in bytes.
const defaultMemory = 1 << 30

// likeGuest makes the domain of what is known of the guest, with its disks on the bus.
func (d *target) likeGuest(bus string) error {
	g := d.guest
	d.notes = nil
	x := libvirthost.Guest{Name: d.name, UUID: validUUID(g.UUID), Description: g.Description, Memory: g.Memory, MemoryNow: g.MemoryNow,
		VCPUs: g.VCPUs, VCPUsNow: g.VCPUsNow, Cores: g.Cores, UEFI: g.UEFI, LocalTime: g.LocalTime, HyperV: g.Windows}
	if x.Memory == 0 {
		x.Memory = defaultMemory
		d.note("its memory is not told: it has %s now (virsh edit)", host.Bytes(defaultMemory))
	}
	x.CDBoot = strings.HasPrefix(g.BootOrder, "d")
	n := strings.IndexByte(g.BootOrder, 'n')
	x.NetBoot = n >= 0 && n < strings.IndexByte(g.BootOrder, 'c')
	bus = d.busOf(bus)
	places := placesOf(len(g.Disks), bus)
	for i, disk := range g.Disks {
		places[i].Bootable = disk.Bootable
		if disk.ReadOnly {
			d.note("disk %s was read-only on XenServer; it is not here", disk.Device)
		}
	}
	x.Disks = places
	err := d.networks(&x, bus)
	if err != nil {
		return err
	}
	if x.Firmware, err = d.firmware(); err != nil {
		return err
	}
	d.noteBoot()
	text, same, err := d.host.GuestDomain(x)
	if same {
		d.note("another domain here has the guest's UUID: it gets a new one")
	}
	d.like.XML, d.like.Plain = text, false
	return err
}

func (d *target) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// validUUID leaves out what libvirt would refuse.
func validUUID(text string) string {
	if len(text) != 36 || strings.Count(text, "-") != 4 || strings.Trim(text, "0123456789abcdef-") != "" {
		return ""
	}
	return text
}

// busOf is the bus that the guest can boot from, as far as anybody knows.
func (d *target) busOf(bus string) string {
	if bus != busAuto {
		return bus
	}
	if d.guest.Virtio {
		d.note("its disks are on virtio, since its tools said that it is %s, whose initramfs has the drivers; else --bus ide", d.guest.OS)
		return busVirtio
	}
	d.note("its disks are on IDE, as XenServer shows them at boot: slow, but it has the drivers; with those of virtio in the guest: --bus virtio")
	return busIDE
}

// placesOf are places for so many disks. What IDE has no place for is on SATA.
func placesOf(n int, bus string) (places []libvirthost.GuestDisk) {
	letters := map[string]int{}
	for i := range n {
		at := bus
		if bus == busIDE && i >= mostIDE {
			at = busSATA
		}
		prefix := map[string]string{busIDE: "hd", busSATA: "sd", busVirtio: "vd"}[at]
		places = append(places, libvirthost.GuestDisk{Target: prefix + letter(letters[at]), Bus: at})
		letters[at]++
	}
	return places
}

// letter counts a … z, aa, ab ….
func letter(n int) string {
	text := string(rune('a' + n%26))
	if n >= 26 {
		text = letter(n/26-1) + text
	}
	return text
}

// networks gives the guest its interfaces. One that --network does not tell a place for has
// its address and no link: while XenServer's guest runs, too, nobody is disturbed.
func (d *target) networks(x *libvirthost.Guest, bus string) error {
	to, err := networksOf(d.Run)
	if err != nil {
		return err
	}
	model := "e1000"
	if bus == busVirtio {
		model = "virtio"
	}
	for _, n := range d.guest.Networks {
		nic := libvirthost.GuestNetwork{MAC: n.MAC, Model: model}
		if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 {
			nic.MAC = ""
			d.note("interface %s has no address that is one: %q", n.Device, n.MAC)
		}
		place, there := to[n.Name]
		if !there {
			place, there = to[n.Bridge]
		}
		if !there {
			place = to[""]
		}
		if nic.Bridge, nic.Network = place.bridge, place.network; place == (netPlace{}) {
			d.note("interface %s (%s, network %q) has no link: tell where it belongs with --network, or by virsh edit", n.Device, n.MAC, cmp.Or(n.Name, n.Bridge))
		}
		x.Networks = append(x.Networks, nic)
	}
	return nil
}

// noteBoot tells what may keep the guest from booting.
func (d *target) noteBoot() {
	g := d.guest
	if g.Paravirtual {
		d.note("it was paravirtual (PV): XenServer took a kernel from its disk and started that. It needs a boot loader and a kernel for real hardware: docs/migration.md, \"Paravirtual guests\"")
	}
	if g.UEFI && d.vars == nil {
		d.note("it boots by UEFI, and which boot loader is not told: the firmware looks for \\EFI\\BOOT\\BOOTX64.EFI; if that is not there, choose the boot loader in the firmware's menu")
	}
	if g.SecureBoot {
		d.note("Secure Boot was on; it is off here")
	}
}

// A netPlace is where an interface is connected.
type netPlace struct{ bridge, network string }

// networksOf reads --network: what is called so on XenServer, "" for all others.
func networksOf(r *images.Run) (map[string]netPlace, error) {
	to := map[string]netPlace{}
	for _, text := range r.StringSlice("network") {
		name, place := "", text
		if i := strings.LastIndexByte(text, '='); i >= 0 {
			name, place = text[:i], text[i+1:]
		}
		kind, value, ok := strings.Cut(place, ":")
		switch {
		case ok && kind == "bridge" && value != "":
			to[name] = netPlace{bridge: value}
		case ok && kind == "network" && value != "":
			to[name] = netPlace{network: value}
		default:
			return nil, term.Usagef("--network %s: want [NAME=]bridge:BRIDGE or [NAME=]network:NETWORK; NAME is the network's on XenServer", text)
		}
	}
	return to, nil
}
