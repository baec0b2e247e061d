// Package blockid names block devices as all hosts do that have them: by WWN, by LVM's UUIDs, by
// what an RBD image is called in its cluster. It reads what the kernel tells in sysfs, and opens no device.
package blockid

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Device is a block device as other hosts see it, too.
type Device struct {
	// Name is the same on all hosts; "" where there is none that could be trusted, as for a loop device or a disk
	// that only has a serial number.
	Name string `json:"name,omitempty"`
	// On is what it lies on, by name: disks, its volume group, its Ceph cluster. Hosts that see one of these can have
	// the device, too.
	On []string `json:"on,omitempty"`
}

// Sys is where the kernel tells of devices. The zero value is /sys.
type Sys struct{ Root string }

const (
	// deepest is how many devices may lie on one another.
	deepest = 16
	// mostSeen is how many names Visible returns.
	mostSeen = 4096
	// mostText is the most bytes that are read of an attribute.
	mostText = 512
)

func (s Sys) path(parts ...string) string {
	root := s.Root
	if root == "" {
		root = "/sys"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// Device tells of the block device with that number, as stat(2) has it in st_rdev. What is not known stays empty.
func (s Sys) Device(rdev uint64) Device {
	dir, err := filepath.EvalSymlinks(s.path("dev", "block", fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))))
	if err != nil {
		return Device{}
	}
	on := map[string]bool{}
	s.below(dir, on, deepest)
	return Device{Name: nameOf(dir), On: slices.Sorted(maps.Keys(on))}
}

// Visible lists all that devices of this host lie on, in the words of Device.On.
func (s Sys) Visible() []string {
	links, err := os.ReadDir(s.path("block"))
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, link := range links {
		if dir, err := filepath.EvalSymlinks(s.path("block", link.Name())); err == nil {
			s.below(dir, seen, deepest)
		}
	}
	names := slices.Sorted(maps.Keys(seen))
	return names[:min(len(names), mostSeen)]
}

// below adds what the device lies on, itself included if it is a disk.
func (s Sys) below(dir string, on map[string]bool, deep int) {
	if deep == 0 {
		return
	}
	if attribute(dir, "partition") != "" {
		s.below(filepath.Dir(dir), on, deep-1)
		return
	}
	name := nameOf(dir)
	switch kind, rest, _ := strings.Cut(name, ":"); kind {
	case "lvm":
		group, _, _ := strings.Cut(rest, "/")
		on["vg:"+group] = true
	case "wwn":
		if !strings.Contains(rest, "-part") { // of a partition, the disk is below it
			on[name] = true
		}
	case "rbd":
		cluster, _, _ := strings.Cut(rest, "/")
		on["ceph:"+cluster] = true
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil {
		return
	}
	for _, link := range slaves {
		if slave, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", link.Name())); err == nil {
			s.below(slave, on, deep-1)
		}
	}
}

// nameOf is how hosts call the device whose directory in sysfs that is; "" if they have no name for it.
func nameOf(dir string) string {
	if n := attribute(dir, "partition"); n != "" {
		return partOf(nameOf(filepath.Dir(dir)), n)
	}
	if uuid := attribute(dir, "dm/uuid"); uuid != "" {
		return mapped(uuid)
	}
	for _, file := range []string{"wwid", "device/wwid"} { // of NVMe, of SCSI
		if name := wwn(attribute(dir, file)); name != "" {
			return name
		}
	}
	return rbd(dir)
}

// partOf names a partition.
func partOf(disk, number string) string {
	if disk == "" {
		return ""
	}
	return disk + "-part" + number
}

// Lengths of what LVM writes into the UUID of a device: that of the volume group, and that of the volume, both without
// hyphens.
const lvmUUID = 32

// mapped names a device of the device mapper by its UUID, which whoever made it has given it.
func mapped(uuid string) string {
	kind, rest, _ := strings.Cut(uuid, "-")
	switch {
	case kind == "LVM" && len(rest) >= 2*lvmUUID:
		return "lvm:" + rest[:lvmUUID] + "/" + rest[lvmUUID:]
	case kind == "mpath":
		return multipath(rest)
	case strings.HasPrefix(kind, "part"): // kpartx: part1-mpath-…
		return partOf(mapped(rest), strings.TrimPrefix(kind, "part"))
	case kind == "CRYPT": // CRYPT-LUKS2-UUID-NAME; the name is each host's own
		if parts := strings.SplitN(rest, "-", 3); len(parts) == 3 && strings.HasPrefix(parts[0], "LUKS") {
			return "luks:" + parts[1]
		}
	}
	return ""
}

// multipath names a disk by multipath's ID, which begins with the type of what follows (scsi_id): 2 for EUI-64, 3 for NAA.
// The others need not be the disk's alone.
func multipath(id string) string {
	if len(id) > 1 && (id[0] == '2' || id[0] == '3') {
		return wwnOf(id[1:])
	}
	return ""
}

// wwn names a disk by what the kernel has as its WWID, unless that is made of a vendor's and a serial number (t10., nvme.):
// those of virtual disks are the same everywhere.
func wwn(id string) string {
	kind, rest, ok := strings.Cut(id, ".")
	if ok && slices.Contains([]string{"naa", "eui", "uuid"}, kind) {
		return wwnOf(rest)
	}
	return ""
}

// wwnOf is the name of a disk with that number; "" where it is no number, or zero.
func wwnOf(number string) string {
	number = strings.ToLower(number)
	if strings.Trim(number, "0123456789abcdef-") != "" || strings.Trim(number, "0-") == "" {
		return ""
	}
	return "wwn:" + number
}

// rbd names an image that the kernel has mapped: its cluster, pool, namespace, name, and snapshot, if it is of one.
func rbd(dir string) string {
	cluster, pool, image := attribute(dir, "device/cluster_fsid"), attribute(dir, "device/pool"), attribute(dir, "device/name")
	if cluster == "" || pool == "" || image == "" {
		return ""
	}
	if space := attribute(dir, "device/pool_ns"); space != "" {
		pool += "/" + space
	}
	if snap := attribute(dir, "device/current_snap"); snap != "" && snap != "-" {
		image += "@" + snap
	}
	return "rbd:" + cluster + "/" + pool + "/" + image
}

// attribute reads one of sysfs; "" where there is none.
func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || len(b) > mostText {
		return ""
	}
	return strings.TrimSpace(string(b))
}
