package firmware

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// descriptor is what a host says of a firmware (QEMU docs/interop/firmware.json).
type descriptor struct {
	Interfaces []string `json:"interface-types"`
	Mapping    struct {
		Device     string `json:"device"`
		Executable struct {
			Filename, Format string
		} `json:"executable"`
		Template struct {
			Filename, Format string
		} `json:"nvram-template"`
	} `json:"mapping"`
	Targets []struct {
		Architecture string
		Machines     []string
	} `json:"targets"`
	Features []string `json:"features"`
}

// descriptorDirs are where hosts have them; a file of an earlier one hides those of its name
// in later ones.
func descriptorDirs() []string { return []string{"/etc/qemu/firmware", "/usr/share/qemu/firmware"} }

// ErrNoUEFI says that this host has no UEFI for such guests.
var ErrNoUEFI = errors.New("this host has no UEFI with variables of their own for x86-64 guests: install OVMF (package ovmf, edk2-ovmf)")

// FindUEFI is the firmware, and the variables that a new guest gets, for an x86-64 machine
// such as "pc-i440fx-7.2", without Secure Boot.
func FindUEFI(machine string) (code, template string, err error) {
	return findUEFI(descriptorDirs(), machine)
}

func findUEFI(dirs []string, machine string) (code, template string, err error) {
	files := map[string]string{}
	for _, dir := range slices.Backward(dirs) {
		found, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			return "", "", err
		}
		for _, path := range found {
			files[filepath.Base(path)] = path
		}
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var d descriptor
		text, err := os.ReadFile(files[name])
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", files[name], err)
		}
		if d.fits(machine) {
			return d.Mapping.Executable.Filename, d.Mapping.Template.Filename, nil
		}
	}
	return "", "", ErrNoUEFI
}

func (d *descriptor) fits(machine string) bool {
	m := &d.Mapping
	if !slices.Contains(d.Interfaces, "uefi") || m.Device != "flash" || m.Executable.Format != "raw" || m.Template.Format != "raw" ||
		slices.Contains(d.Features, "requires-smm") || slices.Contains(d.Features, "secure-boot") {
		return false
	}
	for _, t := range d.Targets {
		for _, pattern := range t.Machines {
			if ok, err := filepath.Match(pattern, machine); ok && err == nil && t.Architecture == "x86_64" {
				return true
			}
		}
	}
	return false
}
