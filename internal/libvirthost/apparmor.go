package libvirthost

import (
	"bytes"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// appArmorFile is where an administrator's rules for guests go: into the directory for them, if
// the profile that all guests share includes that. Older ones include one file.
func appArmorFile(abstractions string) string {
	text, err := os.ReadFile(filepath.Join(abstractions, "libvirt-qemu"))
	if err == nil && bytes.Contains(text, []byte("<abstractions/libvirt-qemu.d>")) {
		return filepath.Join(abstractions, "libvirt-qemu.d", "virt-rotate")
	}
	return host.AppArmorLocal
}
