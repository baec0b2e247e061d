package guestfs

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A Disk is one disk of a guest, as an image has it.
type Disk struct {
	Target string // as the guest's definition names it: vda
	Image
	// Below is what the image builds on, where Shared is set; it is opened with locks.
	Below *Image
	// Shared tells that a guest may write to the image: it is opened without QEMU's locks.
	Shared bool
}

// An Image is a file or a block device, and its format.
type Image struct{ Path, Format string }

// A node is an image as QEMU's -blockdev has it.
type node struct {
	Driver     string `json:"driver"`
	ForceShare bool   `json:"force-share"`
	File       file   `json:"file"`
	Backing    *node  `json:"backing,omitempty"`
}

type file struct {
	Driver   string `json:"driver"`
	Filename string `json:"filename"`
}

func nodeOf(i *Image, shared bool) *node {
	driver := "file"
	if info, err := os.Stat(i.Path); err == nil && info.Mode()&fs.ModeDevice != 0 {
		driver = "host_device"
	}
	return &node{Driver: i.Format, ForceShare: shared, File: file{driver, i.Path}}
}

// arguments name the disk for qemu-nbd. A comma or a colon in a path is part of it.
func (d *Disk) arguments() ([]string, error) {
	top := nodeOf(&d.Image, d.Shared)
	if d.Shared && d.Below != nil {
		top.Backing = nodeOf(d.Below, false)
	}
	text, err := json.Marshal(top)
	return []string{"json:" + string(text)}, err
}

// Names of disks: a guest's definition says vda, libguestfs says /dev/sda of the first disk
// that it is given, whatever the guest calls it.

// applianceName is what libguestfs calls the i-th disk.
func applianceName(i int) string {
	letters := ""
	for i++; i > 0; i = (i - 1) / 26 {
		letters = string(rune('a'+(i-1)%26)) + letters
	}
	return "/dev/sd" + letters
}

// toAppliance makes vda1 the name that libguestfs has; other names are left as they are, with
// /dev/ before them where it is missing: vg/root.
func toAppliance(name string, disks []Disk) string {
	bare := strings.TrimPrefix(name, "/dev/")
	for i := range disks {
		if part, ok := strings.CutPrefix(bare, disks[i].Target); ok && isNumber(part) {
			return applianceName(i) + part
		}
	}
	if strings.Contains(name, ":") { // a subvolume of btrfs
		return name
	}
	return "/dev/" + bare
}

// fromAppliance is the way back.
func fromAppliance(device string, disks []Disk) string {
	for i := range disks {
		if part, ok := strings.CutPrefix(device, applianceName(i)); ok && isNumber(part) {
			return disks[i].Target + part
		}
	}
	return strings.TrimPrefix(device, "/dev/")
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// A FileSystem is one that an image has.
type FileSystem struct {
	Name string // vda1, vda, vg/root
	Type string // as blkid tells it: ext4
}

func (f FileSystem) String() string { return fmt.Sprintf("%s (%s)", f.Name, f.Type) }

// A ChoiceError says that it is not clear which file system is meant.
type ChoiceError struct {
	Wanted string // "" for none
	Found  []FileSystem
	Why    string // what else there is to say
}

func (e *ChoiceError) Error() string {
	text := "there are several file systems: name one with --filesystem"
	switch {
	case e.Wanted != "":
		text = "there is no file system " + e.Wanted
	case len(e.Found) == 0:
		text = "there is no file system that could be read"
	}
	if e.Why != "" {
		text += "; " + e.Why
	}
	var names []string
	for _, f := range e.Found {
		names = append(names, f.String())
	}
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	return text
}

// choose takes the file system that is wanted, or the only one.
func choose(wanted string, found []FileSystem, why string) (*FileSystem, error) {
	i := slices.IndexFunc(found, func(f FileSystem) bool { return f.Name == wanted })
	switch {
	case i >= 0:
		return &found[i], nil
	case wanted == "" && len(found) == 1:
		return &found[0], nil
	}
	return nil, &ChoiceError{wanted, found, why}
}
