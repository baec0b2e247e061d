package libvirthost

import (
	"fmt"
	"strings"
)

// domain is the XML of a whole domain; disks are in it in any case.
func (g *gen) domain(name, uuid, disks string) string {
	parts := []string{
		element("name", escaped(name)), g.maybe(97, func() string { return element("uuid", uuid) }), g.maybe(90, g.osElement), g.some(2, g.seclabel),
		"<memory unit='KiB'>1048576</memory>", g.maybe(50, func() string { return "<vcpu placement='static'>2</vcpu>" }),
		g.maybe(20, func() string { return "<metadata><x:a xmlns:x='urn:x' b='c'>d</x:a></metadata>" }),
		g.maybe(20, func() string { return element("description", escaped(g.word())) }),
		g.maybe(5, func() string {
			return "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-x'/></qemu:commandline>"
		}),
	}
	if disks != "" || g.in100(90) {
		parts = append(parts, g.devices(disks))
	}
	if g.in100(2) {
		parts = append(parts, g.devices(g.disk()))
	}
	return "<domain type='kvm'" + g.maybe(50, func() string { return attr("id", "7") }) + ">" + g.shuffled(parts...) + "</domain>"
}

// devices holds the disks and everything else.
func (g *gen) devices(disks string) string {
	parts := []string{disks, g.some(3, g.disk), g.some(2, g.channel), g.some(4, g.noise)}
	return element("devices", g.shuffled(parts...))
}

func (g *gen) osElement() string {
	return "<os" + g.maybe(20, func() string { return attr("firmware", "efi") }) + "><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>" +
		g.maybe(30, func() string { return "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>" }) + g.maybe(40, g.nvram) +
		g.maybe(10, func() string { return element("kernel", escaped(g.oddPath())) }) + "</os>"
}

func (g *gen) nvram() string {
	return pick(g, "<nvram/>", "<nvram>/var/lib/libvirt/qemu/nvram/a_VARS.fd</nvram>", "<nvram template='/t.fd' format='qcow2'>/n.qcow2</nvram>",
		"<nvram type='file'><source file='/n.fd'/></nvram>", "<nvram type='block'><source dev='/dev/n'/></nvram>",
		"<nvram type='network'><source protocol='iscsi' name='iqn'><host name='h' port='3260'/></source></nvram>")
}

func (g *gen) seclabel() string {
	return "<seclabel" + attr("type", pick(g, "dynamic", "static", "none")) + attr("model", pick(g, "apparmor", "dac", "selinux", "")) + attr("relabel", pick(g, "yes", "no")) + ">" +
		g.maybe(50, func() string { return element("label", escaped(g.word())) }) + "</seclabel>"
}

func (g *gen) channel() string {
	return "<channel" + attr("type", pick(g, "unix", "unix", "pty")) + ">" +
		g.maybe(80, func() string { return "<source mode='bind' path='/run/agent.sock'/>" }) +
		g.maybe(85, func() string {
			return "<target" + attr("type", pick(g, "virtio", "virtio", "guestfwd", "xen")) + g.maybe(90, func() string { return attr("name", pick(g, "org.qemu.guest_agent.0", "com.redhat.spice.0", "")) }) +
				g.maybe(70, func() string { return attr("state", pick(g, "connected", "disconnected", "")) }) + "/>"
		}) + "</channel>"
}

// noise is a device that no rotation is about.
func (g *gen) noise() string {
	return pick(g,
		"<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><model type='virtio'/></interface>",
		"<interface type='bridge'><source bridge='br0'/><target dev='vnet0'/></interface>", "<interface type='hostdev'><source><address type='pci' domain='0' bus='1' slot='0' function='0'/></source></interface>",
		"<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source></hostdev>",
		"<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='iqn'><host name='h' port='3260'/></source></hostdev>",
		"<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>",
		"<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
		"<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/x'/><target dir='t'/></filesystem>",
		"<filesystem type='file'><source file='/fs.img'/><target dir='/'/></filesystem>", "<memory model='nvdimm'><source><path>/tmp/nvdimm</path></source><target><size unit='KiB'>524288</size></target></memory>",
		"<memory model='dimm'><target><size unit='KiB'>524287</size><node>0</node></target></memory>", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
		"<controller type='scsi' index='0' model='virtio-scsi'/>", "<input type='tablet' bus='usb'/>", "<graphics type='vnc' port='-1' autoport='yes'/>", "<video><model type='virtio'/></video>",
		"<sound model='ich9'/>", "<watchdog model='itco' action='reset'/>", "<memballoon model='virtio'/>", "<panic model='isa'/>", "<iommu model='intel'/>", "<vsock model='virtio'/>",
		"<serial type='pty'><target port='0'/></serial>", "<serial type='file'><source path='/log'/></serial>", "<console type='pty'/>", "<parallel type='dev'><source path='/dev/parport0'/></parallel>",
		"<smartcard mode='host'/>", "<redirdev bus='usb' type='spicevmc'/>", "<redirfilter><usbdev allow='no'/></redirfilter>", "<shmem name='s'/>", "<lease><lockspace>l</lockspace><key>k</key><target path='/lease'/></lease>",
		"<audio id='1' type='none'/>", "<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>", "<emulator>/usr/bin/qemu-system-x86_64</emulator>", "<odd><odder/></odd>")
}

// snapshot is the XML of a snapshot of a domain with this XML.
func (g *gen) snapshot(name, parent, domain string) string {
	parts := []string{
		element("name", escaped(name)), g.maybe(80, func() string { return element("description", escaped(g.description())) }),
		element("creationTime", g.time()), g.maybe(80, func() string { return element("state", pick(g, "running", "shutoff", "disk-snapshot", "")) }),
		g.maybe(85, func() string { return element("parent", element("name", escaped(parent))) }),
		g.maybe(60, func() string {
			return "<memory" + attr("snapshot", pick(g, "no", "no", "no", "external", "internal", "odd", "")) + "/>"
		}),
		g.maybe(92, func() string { return element("disks", g.some(4, g.snapshotDisk)) }),
		g.maybe(90, func() string { return g.spoil(domain) }),
		g.maybe(30, func() string { return inactive(g.spoil(domain)) }),
		g.maybe(5, func() string { return element("revertDisks", g.some(3, g.snapshotDisk)) }),
		g.maybe(5, func() string { return "<cookie><cpu><model/></cpu></cookie>" }), g.maybe(5, func() string { return element("active", "1") }),
	}
	return element("domainsnapshot", g.shuffled(parts...))
}

func inactive(domain string) string {
	return strings.NewReplacer("<domain ", "<inactiveDomain ", "</domain>", "</inactiveDomain>").Replace(domain)
}

func (g *gen) description() string {
	return pick(g, "Taken by virt-rotate (policy p)", "Taken by virt-rotate (policy p)", "before the upgrade", "Taken by virt-rotate (policy", "Taken by virt-rotate (policy \n)", g.word())
}

func (g *gen) time() string {
	if g.in100(97) {
		return fmt.Sprint(1767225600 + g.IntN(12*3600))
	}
	return pick(g, "0", "-1", "9223372036854775807", "4102444800", "1e9", "", "x")
}

func (g *gen) snapshotDisk() string {
	kind := g.diskType("file", "file", "file", "block", "network")
	body := ""
	g.quietly(func() { body = g.maybe(85, func() string { return g.source(kind) }) + g.maybe(70, g.driver) })
	return "<disk" + g.maybe(96, func() string {
		return attr("name", pick(g, "vda", "vda", "vdb", "vdc", "sda", "", "VDA", "/a/path.qcow2"))
	}) +
		g.maybe(96, func() string {
			return attr("snapshot", pick(g, "external", "external", "external", "no", "internal", "manual", "odd"))
		}) + attr("type", kind) + ">" + body + "</disk>"
}
