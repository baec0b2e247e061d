package decide

import (
	"maps"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// placeFirmware says where the firmware's state of the snapshot goes: beside the first overlay. A
// name that is too long, or taken, leaves it out: the disks are worth a snapshot.
func (b *builder) placeFirmware(spec *host.SnapshotSpec) {
	if !b.d.Firmware.Any() || len(spec.Overlays) == 0 {
		return
	}
	first := slices.Sorted(maps.Keys(spec.Overlays))[0]
	path := host.FirmwareOf(spec.Overlays[first])
	if len(filepath.Base(path)) > maxFileName || b.w.Taken[path] {
		return
	}
	spec.Firmware = path
}

// droppedFirmware lists the firmware's states of snapshots that go, with the steps that delete them.
func (b *builder) droppedFirmware(names []string) (files []journal.File, steps []Step) {
	for _, name := range names {
		path := b.original(name).FirmwareFile()
		left, there := b.w.Left[path]
		if !there || b.firmwareOf(path) != "" {
			continue
		}
		files = append(files, journal.File{Path: path, ID: left.ID})
		steps = append(steps, Step{Op: OpDeleteFile, Path: path, Bytes: left.Allocated, Reason: "UEFI variables and TPM state of " + name})
	}
	return files, steps
}

// firmwareOf returns the snapshot whose firmware's state is in the file at path, or "". A domain
// whose snapshots were defined again as another's names that one's files.
func (b *builder) firmwareOf(path string) string {
	if who := b.w.FirmwareElsewhere(path, b.d); who != "" {
		return who
	}
	for i := range b.snaps {
		if path != "" && b.snaps[i].FirmwareFile() == path {
			return b.snaps[i].Name
		}
	}
	return ""
}
