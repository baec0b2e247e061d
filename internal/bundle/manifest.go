package bundle

import (
	"path/filepath"
	"time"
)

// Version is that of the manifests that are written and read.
const Version = 1

// Names that no other file of a directory may have.
const (
	ManifestName = "manifest.json"
	SumsName     = "SHA256SUMS"
)

// A Manifest tells what a directory holds.
type Manifest struct {
	Version  int       `json:"version"`
	Domain   string    `json:"domain"`
	UUID     string    `json:"uuid"`
	Snapshot Snapshot  `json:"snapshot"`
	Exported time.Time `json:"exported"`
	Disks    []Disk    `json:"disks"`
	LeftOut  []LeftOut `json:"left-out,omitempty"`
	Files    []File    `json:"files"`
	Base     *Base     `json:"base,omitempty"` // of an increment
}

// A Snapshot is what was exported.
type Snapshot struct {
	Name        string    `json:"name"`
	Time        time.Time `json:"time"`
	Description string    `json:"description,omitempty"`
}

// A Disk is one disk of the guest, as it was.
type Disk struct {
	Target        string `json:"target"` // vda
	File          string `json:"file"`
	Format        string `json:"format"`
	Backing       string `json:"backing,omitempty"` // relative name of what it builds on, in an increment
	VirtualSize   int64  `json:"virtual-size"`
	ContentSHA256 string `json:"content-sha256"` // of what the guest reads, through all that it builds on
	Size          int64  `json:"size"`           // of the file
	SHA256        string `json:"sha256"`         // of the file
}

// A LeftOut is a disk that the directory has no image of, or the guest's memory.
type LeftOut struct {
	Target string `json:"target"`
	Reason string `json:"reason"`
}

// A File is anything but a disk that belongs to the state. Kind tells what it is to the guest.
type File struct {
	Kind   string `json:"kind"`
	File   string `json:"file"`
	Mode   string `json:"mode"`  // in octal, as it was on the host: 0600
	Owner  string `json:"owner"` // numbers, as they were on the host: 64055:64055
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// A Base is the earlier export that an increment builds on.
type Base struct {
	Dir            string `json:"dir"` // its name; it is beside the increment
	ManifestSHA256 string `json:"manifest-sha256"`
}

// LeftOutMemory is the target of the guest's memory where it is left out.
const LeftOutMemory = "memory"

// KindDomain is the domain's XML, in which disks are named relative to the directory; KindFirmware has
// UEFI variables and the state of a TPM, as internal/firmware writes them.
const (
	KindDomain   = "domain"
	KindFirmware = "firmware"
)

// Kinds lists the kinds of files that are known. A directory with another one is refused: its
// guest would come back without it.
func Kinds() []string { return []string{KindDomain, KindFirmware} }

// Disk is the disk with that target, or nil.
func (m *Manifest) Disk(target string) *Disk {
	for i := range m.Disks {
		if m.Disks[i].Target == target {
			return &m.Disks[i]
		}
	}
	return nil
}

// Kind is the first file of that kind, or nil.
func (m *Manifest) Kind(kind string) *File {
	for i := range m.Files {
		if m.Files[i].Kind == kind {
			return &m.Files[i]
		}
	}
	return nil
}

// sums are the files that the directory has beside the manifest, with their sizes and sums.
func (m *Manifest) sums() (all []File) {
	for _, d := range m.Disks {
		all = append(all, File{File: d.File, Size: d.Size, SHA256: d.SHA256})
	}
	return append(all, m.Files...)
}

// backingName is what a header has to say of the image below.
func backingName(base, file string) string { return filepath.Join("..", base, file) }
