package observe

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// findFirmware completes where the guest's firmware keeps its state. libvirt does not tell where
// that of a TPM is, nor where the variables are of a guest that is off, if it has chosen that itself.
func findFirmware(d *host.Domain) {
	if d.OwnNVRAM && d.Firmware.NVRAM == "" {
		d.Firmware.NVRAM = filepath.Join(nvramDir(), d.Name+"_VARS.fd")
	}
	if path := d.Firmware.NVRAM; path != "" && !isDir(filepath.Dir(path)) {
		d.Firmware.NVRAM = ""
	}
	if d.HasTPM && d.Firmware.TPM == "" {
		d.Firmware.TPM = tpmDir(d)
	}
	if dir := d.Firmware.TPM; dir != "" && !isDir(dir) {
		d.Firmware.TPM = ""
	}
}

// FileElsewhere returns the snapshot of another domain than d that has the file at path beside its
// layers, as "domain/snapshot", or "".
func (w *World) FileElsewhere(path string, d *host.Domain) string {
	for i := range w.Domains {
		o := &w.Domains[i]
		if s := o.FileOwner(path); s != "" && o.UUID != d.UUID {
			return o.Name + "/" + s
		}
	}
	return ""
}

// nvramDir is where libvirt puts variables by itself: the system's, or that of a user.
func nvramDir() string {
	if config, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
		return config + "/libvirt/qemu/nvram"
	}
	return "/var/lib/libvirt/qemu/nvram"
}

// tpmDir is the directory that the guest's swtpm has, if it runs, or the first that is there of
// those where libvirt keeps such states.
func tpmDir(d *host.Domain) string {
	if d.State.Live() {
		if dir := tpmDirOfProcess(d.UUID); dir != "" {
			return dir
		}
	}
	for _, base := range tpmBases(d.Firmware.NVRAM) {
		for _, version := range []string{"tpm2", "tpm1.2"} {
			if dir := filepath.Join(base, d.UUID, version); isDir(dir) {
				return dir
			}
		}
	}
	return ""
}

// tpmBases are beside libvirt's variables of the guest, if these are where libvirt puts them by
// itself, and where the system's and the user's libvirt have theirs.
func tpmBases(nvram string) (bases []string) {
	if dir := filepath.Dir(nvram); strings.HasSuffix(dir, "/qemu/nvram") {
		above := strings.TrimSuffix(dir, "/qemu/nvram")
		bases = append(bases, above+"/swtpm", above+"/qemu/swtpm")
	}
	bases = append(bases, "/var/lib/libvirt/swtpm")
	if config, err := os.UserConfigDir(); err == nil {
		bases = append(bases, config+"/libvirt/qemu/swtpm", config+"/libvirt/swtpm")
	}
	return bases
}

// tpmDirOfProcess looks for swtpm --tpmstate dir=…/UUID/….
func tpmDirOfProcess(uuid string) string {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return ""
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte("swtpm")) || !bytes.Contains(line, []byte(uuid)) {
			continue
		}
		for arg := range strings.SplitSeq(string(line), "\x00") {
			for option := range strings.SplitSeq(arg, ",") {
				if dir, ok := strings.CutPrefix(option, "dir="); ok && strings.Contains(dir, uuid) {
					return dir
				}
			}
		}
	}
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
