package libvirthost

import (
	"fmt"
	"path/filepath"
	"strings"
)

// diskTypes are those of the schema.
var diskTypes = []string{"file", "file", "file", "file", "block", "dir", "network", "volume", "volume", "nvme", "vhostuser", "vhostvdpa"}

// diskType is one of these. With another one, the whole domain cannot be read.
func (g *gen) diskType(types ...string) string {
	if g.IntN(300) == 0 {
		return pick(g, "odd", "")
	}
	return pick(g, types...)
}

var imageFormats = []string{"qcow2", "qcow2", "qcow2", "raw", "raw", "vmdk", "vdi", "qcow", "luks", "vhdx", "dmg", "ploop", "bochs", "no-such", ""}

// disk is one disk of a domain.
func (g *gen) disk() string {
	kind := g.diskType(diskTypes...)
	parts := []string{
		g.maybe(90, g.driver), g.maybe(90, func() string { return g.source(kind) }), g.maybe(92, g.target),
		g.maybe(50, func() string { return g.backing(g.depth()) }), g.maybe(8, g.mirror),
		g.maybe(8, func() string { return "<readonly/>" }), g.maybe(4, func() string { return "<shareable/>" }), g.maybe(4, g.transient),
		g.maybe(4, g.encryption), g.maybe(10, g.iotune), g.maybe(30, g.address), g.maybe(30, func() string { return element("serial", escaped(g.word())) }),
		g.maybe(30, func() string { return "<alias" + attr("name", "virtio-disk0") + "/>" }), g.maybe(10, g.diskNoise),
	}
	return "<disk" + attr("type", kind) + g.device() + ">" + g.shuffled(parts...) + "</disk>"
}

func (g *gen) device() string {
	return g.maybe(85, func() string {
		return attr("device", pick(g, "disk", "disk", "disk", "disk", "cdrom", "floppy", "lun", "odd", ""))
	}) + g.maybe(5, func() string { return attr("snapshot", pick(g, "no", "internal", "external", "manual", "odd")) })
}

func (g *gen) depth() int { return pick(g, 0, 1, 1, 2, 3, 5, 40) }

func (g *gen) driver() string {
	return "<driver" + g.maybe(90, func() string { return attr("name", "qemu") }) + g.maybe(90, func() string { return attr("type", pick(g, imageFormats...)) }) +
		g.maybe(20, func() string { return attr("cache", pick(g, "none", "writeback", "odd")) }) + g.maybe(10, func() string { return attr("queues", g.figure()) }) + "/>"
}

func (g *gen) target() string {
	dev := pick(g, "vda", "vda", "vdb", "vdb", "vdc", "sda", "hda", "fda", "VDA", "vdaa", "", "a/b", "nvme0n1", "v d", strings.Repeat("v", 300))
	return "<target" + g.maybe(96, func() string { return attr("dev", dev) }) + g.maybe(80, func() string { return attr("bus", pick(g, "virtio", "scsi", "ide", "odd")) }) + "/>"
}

// source is the source of a disk of this type.
func (g *gen) source(kind string) string {
	if kind == "" || kind == "odd" { // what is in it stops the whole domain from being read
		return "<source" + g.where(kind) + "/>"
	}
	return "<source" + g.where(kind) + g.maybe(50, func() string { return attr("index", pick(g, "0", "1", "2", "3", "4294967295")) }) +
		g.maybe(5, func() string { return attr("startupPolicy", pick(g, "optional", "mandatory")) }) + ">" + g.inSource(kind) + "</source>"
}

func (g *gen) where(kind string) string {
	switch kind {
	case "file":
		return g.maybe(96, func() string { return attr("file", g.path()) })
	case "block":
		return g.maybe(96, func() string { return attr("dev", g.path()) })
	case "dir":
		return attr("dir", pick(g, g.dir, g.oddPath()))
	case "network":
		return attr("protocol", pick(g, "nbd", "rbd", "iscsi", "gluster", "http", "https", "ftp", "ssh", "nfs", "sheepdog", "vxhs", "")) +
			g.maybe(80, func() string { return attr("name", g.word()) }) + g.maybe(10, func() string { return attr("query", g.word()) })
	case "volume":
		return g.volume() + g.maybe(10, func() string { return attr("mode", "host") })
	case "nvme":
		return attr("type", "pci") + attr("managed", "yes") + attr("namespace", pick(g, "1", "0", "8"))
	case "vhostuser":
		return attr("type", "unix") + attr("path", "/run/x.sock")
	case "vhostvdpa":
		return attr("dev", pick(g, "/dev/vhost-vdpa-0", ""))
	}
	return attr("file", g.oddPath())
}

// volume is a volume of a pool that runs, as a rule: of an image, or of none.
func (g *gen) volume() string {
	if g.sound != nil && g.in100(50) {
		path := pick(g, g.sound...)
		g.touched[path] = true
		return soundVolume(pick(g, soundPools...), path)
	}
	name := pick(g, "v1.qcow2", "v2", "../x", "")
	if len(g.images) > 0 && g.in100(60) {
		name = filepath.Base(pick(g, g.images...))
	}
	return attr("pool", pick(g, "here", "here", "here", "here", "here", "here", "here", "stopped", "network", "nowhere")) + attr("volume", name)
}

// soundPools have the layers of the sound domain: one runs, and one is stopped.
var soundPools = []string{"sound", "sound-off"}

// soundVolume is how a layer of the sound domain is named as a volume.
func soundVolume(pool, path string) string {
	return attr("pool", pool) + attr("volume", filepath.Base(path))
}

// inSource is what a source can hold.
func (g *gen) inSource(kind string) string {
	hosts := ""
	if kind == "network" {
		hosts = g.some(3, func() string {
			return "<host" + attr("name", g.word()) + attr("port", pick(g, "0", "10809", "99999")) + g.maybe(20, func() string { return attr("transport", pick(g, "tcp", "unix", "rdma")) }) + "/>"
		})
	}
	return g.shuffled(hosts,
		g.maybe(4, func() string { return "<slices><slice type='storage' offset='0' size='65536'/></slices>" }),
		g.maybe(3, func() string {
			return "<reservations managed='no'><source type='unix' path='/run/pr.sock' mode='client'/></reservations>"
		}),
		g.maybe(3, func() string { return "<cookies><cookie" + attr("name", "c") + ">v</cookie></cookies>" }),
		g.maybe(3, g.encryption), g.maybe(8, g.seclabel),
		g.maybe(2, func() string { return "<ssl verify='no'/><readahead size='1'/><timeout seconds='6'/>" }),
		g.maybe(2, func() string { return "<auth username='u'><secret type='ceph' usage='x'/></auth>" }),
		g.maybe(2, func() string { return "<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>" }))
}

// backing is a backing store of so many layers, which may end without an end.
func (g *gen) backing(depth int) string {
	if depth == 0 || g.in100(3) {
		return pick(g, "<backingStore/>", "<backingStore/>", "", "<backingStore></backingStore>", "<backingStore type='file'/>")
	}
	kind := g.diskType("file", "file", "file", "file", "block", "network", "volume")
	return "<backingStore" + attr("type", kind) + g.maybe(50, func() string { return attr("index", fmt.Sprint(g.IntN(5))) }) + ">" +
		g.shuffled(g.maybe(92, func() string { return "<format" + attr("type", pick(g, imageFormats...)) + "/>" }),
			g.maybe(97, func() string { return g.source(kind) }), g.backing(depth-1)) + "</backingStore>"
}

func (g *gen) mirror() string {
	kind := g.diskType("file", "block", "network")
	g.quietly(func() { kind += g.maybe(80, func() string { return "|" + g.source(kind) }) })
	kind, source, _ := strings.Cut(kind, "|")
	return "<mirror" + attr("type", kind) + attr("job", pick(g, "copy", "active-commit", "commit", "odd", "")) +
		g.maybe(60, func() string { return attr("ready", pick(g, "yes", "no", "abort", "pivot", "odd")) }) + ">" +
		g.maybe(70, func() string { return "<format type='qcow2'/>" }) + source + g.maybe(20, func() string { return "<backingStore/>" }) + "</mirror>"
}

// quietly does something that names no layer of the sound domain.
func (g *gen) quietly(do func()) {
	sound := g.sound
	g.sound = nil
	do()
	g.sound = sound
}

func (g *gen) transient() string { return pick(g, "<transient/>", "<transient shareBacking='yes'/>") }

func (g *gen) encryption() string {
	return "<encryption" + attr("format", pick(g, "luks", "qcow", "default", "luks2")) + g.maybe(20, func() string { return attr("engine", "librbd") }) + "><secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/></encryption>"
}

func (g *gen) iotune() string {
	return "<iotune><total_iops_sec>" + pick(g, "1", "0", "18446744073709551615") + "</total_iops_sec><group_name>g</group_name></iotune>"
}

func (g *gen) address() string {
	return pick(g, "<address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>", "<address type='drive' controller='0' bus='0' target='0' unit='1'/>",
		"<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0000'/>", "<address type='virtio-mmio'/>")
}

func (g *gen) diskNoise() string {
	if g.sound == nil && g.in100(20) { // of two that contradict each other, one is read
		return pick(g, "<source file='/second.qcow2'/>", "<target dev='vdz'/>", "<backingStore/>")
	}
	return pick(g, "<boot order='1'/>", "<wwn>5000c50015ea71ad</wwn>", "<vendor>V</vendor>", "<product>P</product>", "<geometry cyls='1' heads='2' secs='3'/>",
		"<blockio logical_block_size='512' physical_block_size='4096'/>", "<throttlefilters><filter group='g'/></throttlefilters>", "<unknown xmlns='urn:x'><a/></unknown>",
		"<auth username='u'/>")
}
