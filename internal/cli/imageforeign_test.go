package cli

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// Images of other formats are told from junk, with the program that reads them.
func TestImagesOfOtherFormatsAreNamed(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `for o in vdi vhdx qcow qed parallels "vmdk -o subformat=monolithicSparse" "vmdk -o subformat=streamOptimized"; do
set -- $o; truncate -s 1M raw; qemu-img convert -f raw -O $o raw $1${3:-}; done; head -c 4096 /dev/urandom > junk`)
	for file, format := range map[string]string{"vdi": "vdi", "vhdx": "vhdx", "qcow": "qcow", "qed": "qed", "parallels": "parallels",
		"vmdksubformat=monolithicSparse": "vmdk", "vmdksubformat=streamOptimized": "vmdk", "junk": ""} {
		want := "qemu-img convert -f " + format + " -O qcow2"
		if format == "" {
			want = "name it with -f"
		}
		for _, args := range [][]string{{"convert", "-O", "qcow2", file, "new"}, {"info", file}, {"map", file}} {
			if _, errs, code := call(t, append([]string{"image"}, args...)...); code != term.ExitRefused || !strings.Contains(errs, want) {
				t.Errorf("%v: exit %d, %s; want %q", args, code, errs, want)
			}
		}
		if _, errs, code := call(t, "image", "convert", "-f", "raw", "-n", "junk", file); format != "" && (code != term.ExitRefused || !strings.Contains(errs, format)) {
			t.Errorf("%s was written over: %s", file, errs)
		}
	}
	if _, errs, code := call(t, "image", "info", "-f", "vmdk", "junk"); code != term.ExitUsage || !strings.Contains(errs, "qemu-img convert") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
