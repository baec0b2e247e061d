package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// The lines that doctor prints for AppArmor are put where it says, and what libvirt's profile of
// a guest becomes is compiled: it has the rules, whatever the directories are called. It is not
// loaded: kernels of test machines rarely have AppArmor.
func TestRulesForAppArmorCompile(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/etc/apparmor.d/abstractions/libvirt-qemu"); err != nil {
		t.Log("libvirt has no AppArmor profiles on this system (Fedora family): nothing to compile")
		return
	}
	base := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "/etc/apparmor.d/.", base).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dirs := []string{"/srv/vm", "/srv/with space", `/srv/a"quote`, "/srv/[1]{2}*?^,@x", `/srv/back\slash`, "/srv/ümläut"}
	const oldPlace = "local/abstractions/libvirt-qemu"
	local := oldPlace
	if text, err := os.ReadFile(filepath.Join(base, "abstractions/libvirt-qemu")); err == nil && strings.Contains(string(text), "<abstractions/libvirt-qemu.d>") {
		local = "abstractions/libvirt-qemu.d/virt-rotate"
	}
	file := filepath.Join(base, local)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(strings.Join(decide.AppArmorRules(dirs), "\n")+"\n"), 0o644))
	template, err := os.ReadFile(filepath.Join(base, "libvirt/TEMPLATE.qemu"))
	must(t, err)
	profile := filepath.Join(base, "libvirt/libvirt-test")
	must(t, os.WriteFile(profile, []byte(strings.ReplaceAll(string(template), "LIBVIRT_TEMPLATE", "libvirt-test")), 0o644))
	for _, args := range [][]string{{"--skip-kernel-load", "--skip-cache"}, {"--preprocess"}} {
		out, err := exec.CommandContext(t.Context(), "apparmor_parser", append(args, "--base", base, profile)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		for _, rule := range decide.AppArmorRules(dirs) {
			if args[0] == "--preprocess" && !strings.Contains(string(out), strings.TrimSpace(rule)) {
				t.Errorf("%s is not in the profile", rule)
			}
		}
	}
	if host.AppArmorLocal != filepath.Join("/etc/apparmor.d", oldPlace) {
		t.Errorf("doctor names %s", host.AppArmorLocal)
	}
}
