package host

import (
	"path/filepath"
	"strings"
)

// Firmware is where a guest's firmware keeps what it remembers, as far as that can be copied with
// a snapshot: in files of this host.
type Firmware struct {
	NVRAM string `json:",omitempty"` // the file with the UEFI variables, or ""
	TPM   string `json:",omitempty"` // the directory with the state of an emulated TPM, or ""
}

// Any tells whether there is anything.
func (f Firmware) Any() bool { return f != Firmware{} }

// FirmwareSuffix is how files end that hold the firmware's state of a snapshot.
const FirmwareSuffix = ".firmware.tar"

// FirmwareOf is where the firmware's state goes of the snapshot that an overlay comes with.
func FirmwareOf(overlay string) string {
	return strings.TrimSuffix(overlay, filepath.Ext(overlay)) + FirmwareSuffix
}

// FirmwareFile is the file with the firmware's state that the snapshot's description names; "" for
// none, and for a name that no such file has.
func (s *Snapshot) FirmwareFile() string {
	m, _ := s.Mark()
	if !filepath.IsAbs(m.Firmware) || filepath.Clean(m.Firmware) != m.Firmware || !IsFirmware(m.Firmware) {
		return ""
	}
	return m.Firmware
}

// IsFirmware tells whether a path is named as such files are.
func IsFirmware(path string) bool {
	stem, ok := strings.CutSuffix(path, FirmwareSuffix)
	return ok && IsOverlay(stem+".qcow2")
}
