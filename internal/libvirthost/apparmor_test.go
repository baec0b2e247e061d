package libvirthost

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func TestWhereRulesForAppArmorGo(t *testing.T) {
	dir := t.TempDir()
	profile := filepath.Join(dir, "libvirt-qemu")
	for text, want := range map[string]string{
		"":                             host.AppArmorLocal,
		"#include <abstractions/base>": host.AppArmorLocal,
		"  include if exists <abstractions/libvirt-qemu.d>\n  include if exists <local/abstractions/libvirt-qemu>\n": filepath.Join(dir, "libvirt-qemu.d/virt-rotate"),
	} {
		if text != "" {
			if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := appArmorFile(dir); got != want {
			t.Errorf("%q: %s", text, got)
		}
		_ = os.Remove(profile)
	}
}
