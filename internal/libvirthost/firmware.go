package libvirthost

import (
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// readFirmware notes where the guest's firmware keeps its state, as far as the XML says so and
// it is in files: variables in qcow2 are an image that QEMU writes to.
func readFirmware(d *host.Domain, x *libvirtxml.Domain) {
	if x.OS != nil && x.OS.NVRam != nil {
		d.Firmware.NVRAM = nvramFile(x.OS.NVRam)
	}
	d.OwnNVRAM = d.UEFI && x.OS.NVRam == nil
	if x.Devices == nil {
		return
	}
	for _, t := range x.Devices.TPMs {
		if t.Backend == nil || t.Backend.Emulator == nil {
			continue
		}
		d.HasTPM = true
		if s := t.Backend.Emulator.Source; s != nil && s.Dir != nil {
			d.Firmware.TPM = s.Dir.Path
		}
	}
}

func nvramFile(n *libvirtxml.DomainNVRam) string {
	switch {
	case n.Format != "" && n.Format != "raw":
		return ""
	case n.Source == nil:
		return strings.TrimSpace(n.NVRam)
	case n.Source.File != nil:
		return n.Source.File.File
	}
	return ""
}
