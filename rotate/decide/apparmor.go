package decide

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// appArmorFinding is the remedy for a profile that lets QEMU only read the
// layers below the active one. Newer libvirt opens them for a merge itself.
func appArmorFinding(disk *host.Disk, d *host.Domain) Finding {
	dirs := []string{}
	for _, l := range disk.Chain {
		if dir := filepath.Dir(l.Path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	file := cmp.Or(d.AppArmorFile, host.AppArmorLocal)
	return Finding{Code: FindAppArmor, Path: disk.Target, Note: true,
		Detail: "AppArmor confines the guest, and this libvirt (before 12.1) may let QEMU only read the layers below the active one: a merge is then denied",
		Remedy: fmt.Sprintf("if a merge is denied, add to %s the lines\n%s\nand load the guest's profile again: apparmor_parser -r /etc/apparmor.d/libvirt/libvirt-%s",
			file, strings.Join(AppArmorRules(dirs), "\n"), d.UUID)}
}

// AppArmorRules are lines of a profile, each of which allows QEMU to write and lock what is in
// one of the directories, and below it: apparmor.d(5).
func AppArmorRules(dirs []string) []string {
	lines := make([]string, len(dirs))
	for i, dir := range dirs {
		lines[i] = fmt.Sprintf("  \"%s/**\" rwk,", notAPattern.Replace(dir))
	}
	return lines
}

// notAPattern takes from what a name has the meaning that it has in a rule.
var notAPattern = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`, `^`, `\^`, `,`, `\,`, `@`, `\@`)
