package libvirthost

import (
	"fmt"
	"html"
	"regexp"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// readDomain fills d from the XML of the domain as it is: the live one of a
// running domain.
func readDomain(d *host.Domain, text string, v *volumes) error {
	x, err := v.read().domain(text)
	if err != nil {
		noteNames(d, text, v)
		return fmt.Errorf("%s: domain XML: %w", d.Name, err)
	}
	d.UUID, d.Own = x.UUID, ownPolicy(x.Metadata)
	d.UEFI = x.OS != nil && (x.OS.NVRam != nil || x.OS.Firmware == "efi")
	d.Memory = memoryOf(x)
	readFirmware(d, x)
	d.AppArmor = slices.ContainsFunc(x.SecLabel, func(l libvirtxml.DomainSecLabel) bool { return l.Model == "apparmor" })
	if x.Devices == nil {
		return nil
	}
	for i := range x.Devices.Disks {
		d.Disks = append(d.Disks, readDisk(&x.Devices.Disks[i], v))
	}
	d.Agent = slices.ContainsFunc(x.Devices.Channels, agentConnected)
	return nil
}

func agentConnected(c libvirtxml.DomainChannel) bool {
	t := c.Target
	return t != nil && t.VirtIO != nil && t.VirtIO.Name == "org.qemu.guest_agent.0" && t.VirtIO.State == "connected"
}

// readInactive adds what the persistent configuration of a running domain
// says: its chains, and the files of disks that the domain has only there.
func readInactive(d *host.Domain, text string, v *volumes) error {
	x, err := v.read().domain(text)
	if err != nil {
		noteNames(d, text, v)
		return fmt.Errorf("%s: persistent configuration: %w", d.Name, err)
	}
	if d.Own == nil {
		d.Own = ownPolicy(x.Metadata)
	}
	if x.Devices == nil {
		return nil
	}
	for i := range x.Devices.Disks {
		disk := readDisk(&x.Devices.Disks[i], v)
		live := slices.IndexFunc(d.Disks, func(l host.Disk) bool { return l.Target == disk.Target })
		if live < 0 || d.Disks[live].Inactive != nil { // of two with one target, the first is the disk
			d.Elsewhere = append(d.Elsewhere, layerPaths(disk.Chain)...)
			continue
		}
		d.Disks[live].Inactive = layerPaths(disk.Chain)
	}
	return nil
}

// readElsewhere adds the files of a configuration that is neither the live
// nor the persistent one, such as that of a saved state.
func readElsewhere(d *host.Domain, text string, v *volumes) error {
	x, err := v.read().domain(text)
	if err != nil {
		noteNames(d, text, v)
		return fmt.Errorf("%s: saved state: %w", d.Name, err)
	}
	if x.Devices == nil {
		return nil
	}
	for i := range x.Devices.Disks {
		d.Elsewhere = append(d.Elsewhere, layerPaths(readDisk(&x.Devices.Disks[i], v).Chain)...)
	}
	return nil
}

func readDisk(x *libvirtxml.DomainDisk, v *volumes) host.Disk {
	d := host.Disk{
		Device:    x.Device,
		ReadOnly:  x.ReadOnly != nil || x.Device == "cdrom",
		Shareable: x.Shareable != nil,
		Transient: x.Transient != nil,
		Encrypted: x.Encryption != nil || x.Source != nil && x.Source.Encryption != nil,
	}
	if d.Device == "" {
		d.Device = "disk"
	}
	if x.Target != nil {
		d.Target = x.Target.Dev
	}
	active := layerAt(x.Source)
	v.locate(&active)
	d.Kind = active.Kind
	d.Chain, _ = readChain(x, v)
	if len(d.Chain) > 0 && len(d.Chain) < len(allLayers(x)) {
		d.Problem = "libvirt does not name all layers of the disk"
	}
	if x.Mirror != nil {
		target := layerAt(x.Mirror.Source)
		v.locate(&target)
		d.Job = &host.Job{Type: x.Mirror.Job, Ready: x.Mirror.Ready == "yes", Target: target.Path}
	}
	return d
}

// readChain returns the disk's layers that have names, base first. Cut tells that the
// XML does not say where the chain ends, or what all of it is.
func readChain(x *libvirtxml.DomainDisk, v *volumes) (layers []host.Layer, cut bool) {
	all := allLayers(x)
	for _, l := range slices.Backward(all) {
		if l.Path != "" {
			v.locate(&l)
			layers = append(layers, l)
		}
	}
	return layers, len(layers) < len(all) || len(all) == 0 || endless(x)
}

// endless tells whether the XML does not say where the chain ends.
func endless(x *libvirtxml.DomainDisk) bool {
	b := x.BackingStore
	for hasLayer(b) {
		b = b.BackingStore
	}
	return b == nil && x.Driver != nil && x.Driver.Type != "" && x.Driver.Type != "raw"
}

// allLayers returns the disk's layers, active first, whether they have names or not.
func allLayers(x *libvirtxml.DomainDisk) []host.Layer {
	active := layerAt(x.Source)
	if active.Path == "" && x.BackingStore == nil {
		return nil
	}
	if x.Driver != nil && x.Driver.Type != "" {
		active.Format = x.Driver.Type
	}
	layers := []host.Layer{active}
	for b := x.BackingStore; hasLayer(b); b = b.BackingStore {
		layers = append(layers, backingLayer(b))
	}
	return layers
}

// hasLayer tells whether b is a layer, and not the end of the chain.
func hasLayer(b *libvirtxml.DomainDiskBackingStore) bool {
	if b == nil {
		return false
	}
	kind, _ := sourceOf(b.Source)
	return kind != ""
}

func backingLayer(b *libvirtxml.DomainDiskBackingStore) host.Layer {
	l := layerAt(b.Source)
	if b.Index != 0 {
		l.Index = b.Index
	}
	if b.Format != nil && b.Format.Type != "" {
		l.Format = b.Format.Type
	}
	return l
}

// layerAt is the layer of a source, raw until its format is known.
func layerAt(s *libvirtxml.DomainDiskSource) host.Layer {
	kind, path := sourceOf(s)
	l := host.Layer{Path: path, Kind: kind, Format: "raw"}
	if s != nil {
		l.Index, l.Volume = s.Index, volumeOf(s)
	}
	return l
}

// volumeOf is the volume that a source names; none if it names another kind of thing.
func volumeOf(s *libvirtxml.DomainDiskSource) host.Volume {
	if s == nil || s.Volume == nil {
		return host.Volume{}
	}
	return host.Volume{Pool: s.Volume.Pool, Name: s.Volume.Volume, Mode: s.Volume.Mode}
}

// sourceOf returns libvirt's disk type and the file, device or volume of a source.
func sourceOf(s *libvirtxml.DomainDiskSource) (kind host.Kind, path string) {
	switch {
	case s == nil:
		return "", ""
	case s.File != nil:
		return host.KindFile, s.File.File
	case s.Block != nil:
		return host.KindBlock, s.Block.Dev
	case s.Network != nil:
		return host.KindNetwork, s.Network.Protocol + ":" + s.Network.Name
	case s.Volume != nil:
		return host.KindVolume, volumeOf(s).String()
	case s.Dir != nil:
		return host.KindDir, s.Dir.Dir
	case s.NVME != nil:
		return host.KindNVMe, "nvme"
	case s.VHostUser != nil:
		return host.KindVHostUser, "vhostuser"
	case s.VHostVDPA != nil:
		return "vhostvdpa", s.VHostVDPA.Dev
	}
	return "", ""
}

// pathInXML is an attribute that is an absolute path, sourceInXML an element that can name
// a volume.
var (
	pathInXML   = regexp.MustCompile(`=\s*(?:"(/[^"]+)"|'(/[^']+)')`)
	sourceInXML = regexp.MustCompile(`<source\s[^>]*>`)
)

// noteNames adds every absolute path and every volume that a text of XML has as an
// attribute, read or not: where the rest of it is not understood, each could be an image
// in use.
func noteNames(d *host.Domain, text string, v *volumes) {
	for _, m := range pathInXML.FindAllStringSubmatch(text, -1) {
		addElsewhere(d, html.UnescapeString(m[1]+m[2]))
	}
	if v == nil {
		return
	}
	for _, source := range sourceInXML.FindAllString(text, -1) {
		volume := host.Volume{Pool: attributeOf(source, "pool"), Name: attributeOf(source, "volume"), Mode: attributeOf(source, "mode")}
		if volume.Pool == "" && volume.Name == "" {
			continue
		}
		if p := v.at(volume); p.path != "" {
			addElsewhere(d, p.path)
		}
	}
}

// attributeOf is the value that an element has for an attribute, or "".
func attributeOf(element, name string) string {
	m := regexp.MustCompile(`\s` + name + `\s*=\s*(?:"([^"]*)"|'([^']*)')`).FindStringSubmatch(element)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1] + m[2])
}

func layerPaths(layers []host.Layer) []string {
	var paths []string
	for _, l := range layers {
		paths = append(paths, l.Path)
	}
	return paths
}
