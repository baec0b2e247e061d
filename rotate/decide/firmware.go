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

// droppedFiles lists the files that snapshots which go have beside their layers, with the steps that
// delete them.
func (b *builder) droppedFiles(names []string) (files []journal.File, steps []Step) {
	for _, name := range names {
		for _, path := range b.original(name).Beside() {
			left, there := b.w.Left[path]
			if !there || b.ownerOf(path) != "" {
				continue
			}
			files = append(files, journal.File{Path: path, ID: left.ID})
			steps = append(steps, Step{Op: OpDeleteFile, Path: path, Bytes: left.Allocated, Reason: besideText(path) + " of " + name})
		}
	}
	return files, steps
}

// besideText says what is in a file that a snapshot has beside its layers.
func besideText(path string) string {
	if host.IsMemory(path) {
		return "the memory"
	}
	return "UEFI variables and TPM state"
}

// ownerOf returns the snapshot that has the file at path beside its layers, or "". A domain
// whose snapshots were defined again as another's names that one's files.
func (b *builder) ownerOf(path string) string {
	if who := b.w.FileElsewhere(path, b.d); who != "" {
		return who
	}
	for i := range b.snaps {
		if s := &b.snaps[i]; path != "" && slices.Contains(s.Kept(), path) {
			return s.Name
		}
	}
	return ""
}
