package libvirthost

import (
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// goingOn returns the configuration in a saved state with these chains for its disks, and everything
// else as it was, and whose it is. It is an error if something of it would be lost.
func goingOn(text string, chains map[string][]host.Layer) (fixed string, who *libvirtxml.Domain, err error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return "", nil, fmt.Errorf("the saved configuration: %w", err)
	}
	fixDomain(&x, chains, true)
	if fixed, err = whole(text, x.Marshal); err != nil {
		return "", nil, fmt.Errorf("the saved configuration: %w", err)
	}
	return fixed, &x, sameElements(text, fixed)
}

// memoryOf is the most that the guest's memory and that of its video devices can be, in bytes.
func memoryOf(x *libvirtxml.Domain) (bytes int64) {
	if m := x.Memory; m != nil {
		bytes = int64(m.Value) * unitOf(m.Unit)
	}
	if x.Devices == nil {
		return bytes
	}
	for i := range x.Devices.Videos {
		v := &x.Devices.Videos[i].Model
		bytes += (int64(v.Ram) + int64(v.VRam) + int64(v.VRam64)) << 10
	}
	return bytes
}

// unitOf is how many bytes a unit of memory has; libvirt itself tells KiB.
func unitOf(unit string) int64 {
	switch strings.ToLower(unit) {
	case "b", "bytes", "byte":
		return 1
	case "m", "mib":
		return 1 << 20
	case "g", "gib":
		return 1 << 30
	case "t", "tib":
		return 1 << 40
	}
	return 1 << 10
}
