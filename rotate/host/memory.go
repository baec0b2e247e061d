package host

import (
	"path/filepath"
	"strings"
	"time"
)

// MemorySuffix is how files end that hold the memory of a guest.
const MemorySuffix = ".memory"

// MemoryOf is where the guest's memory goes of the snapshot that an overlay comes with.
func MemoryOf(overlay string) string {
	return strings.TrimSuffix(overlay, filepath.Ext(overlay)) + MemorySuffix
}

// IsMemory tells whether a path is named as MemoryOf names files.
func IsMemory(path string) bool {
	stem, ok := strings.CutSuffix(path, MemorySuffix)
	return ok && filepath.IsAbs(path) && filepath.Clean(path) == path && IsOverlay(stem+".qcow2")
}

// Beside lists the files of ours that a snapshot has beside its layers, and which go with it: the
// state of the guest's firmware, and its memory.
func (s *Snapshot) Beside() (files []string) {
	if path := s.FirmwareFile(); path != "" {
		files = append(files, path)
	}
	if IsMemory(s.Memory) {
		files = append(files, s.Memory)
	}
	return files
}

// Kept lists all files that it has beside its layers, whoever made them.
func (s *Snapshot) Kept() []string {
	files := s.Beside()
	if s.Memory != "" && !IsMemory(s.Memory) {
		files = append(files, s.Memory)
	}
	return files
}

// FileOwner returns the snapshot that has the file at path beside its layers, or "".
func (d *Domain) FileOwner(path string) string {
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; path != "" && (s.FirmwareFile() == path || s.Memory == path) {
			return s.Name
		}
	}
	return ""
}

// A MemorySpec says how the memory of a guest is kept with a snapshot.
type MemorySpec struct {
	Path string // the file, which is empty already
	// Live lets the guest run while its memory is written, until no more than a moment is missing.
	Live bool
	Runs bool  // the guest runs now
	Size int64 // bytes that the guest can have, for the progress
	// Most is the size of the file, in bytes, from which on a guest is paused that writes faster than
	// can be saved: then what is missing is at most its memory once more.
	Most int64
}

// MemoryEvents are told to whoever lets memory be kept. All may be nil.
type MemoryEvents struct {
	Pausing  func() error            // the guest is paused in a moment, and may stay so if this process ends
	Progress func(done, total int64) // bytes in the file
	Stood    func(time.Duration)     // how long the guest stood still
}
