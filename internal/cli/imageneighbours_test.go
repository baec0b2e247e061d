package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// lookAlikes make files beside base.qcow2 ← top.qcow2, as other programs leave them.
var lookAlikes = map[string]struct{ script, path, want string }{
	"broken-off download":              {`q -f qcow2 x 100M; truncate -s 150000 x`, "x", ""},
	"broken off within the header":     {`q -f qcow2 x 100M; truncate -s 400 x`, "x", ""},
	"60 bytes":                         {`q -f qcow2 x 100M; truncate -s 60 x`, "x", ""},
	"junk":                             {`printf 'QFI\xfb' > x`, "x", ""},
	"broken off, on the base":          {`q -f qcow2 -b base.qcow2 -F qcow2 x; truncate -s 70000 x`, "x", "it builds on"},
	"broken off before the name":       {`q -f qcow2 -b base.qcow2 -F qcow2 x; truncate -s 200 x`, "x", "cannot be read"},
	"features of the future":           {`q -f qcow2 x 1M; printf '\x10' | dd of=x bs=1 seek=79 conv=notrunc status=none`, "x", ""},
	"features of the future, on base":  {`q -f qcow2 -b base.qcow2 -F qcow2 x; printf '\x10' | dd of=x bs=1 seek=79 conv=notrunc status=none`, "x", "it builds on"},
	"qcow":                             {`q -f qcow x 1M`, "x", ""},
	"qcow, on the base":                {`q -f qcow -b base.qcow2 -F qcow2 x`, "x", "it builds on"},
	"QED":                              {`q -f qed x 1M`, "x", ""},
	"QED, on the base":                 {`q -f qed -b base.qcow2 -F qcow2 x`, "x", "it builds on"},
	"QED, on another":                  {`q -f qcow2 other 1M; q -f qed -b other -F qcow2 x`, "x", ""},
	"VMDK":                             {`q -f vmdk x 1M; truncate -s 600 x`, "x", ""},
	"VDI":                              {`q -f vdi x 1M; truncate -s 600 x`, "x", ""},
	"VHDX":                             {`q -f vhdx x 1M; truncate -s 600 x`, "x", ""},
	"Parallels":                        {`q -f parallels x 1M`, "x", ""},
	"damaged VHD":                      {`head -c 70000 /dev/urandom > x; printf conectix | dd of=x conv=notrunc status=none`, "x", ""},
	"below, on the base":               {`mkdir s; (cd s; q -f qcow2 -b ../base.qcow2 -F qcow2 x)`, "s/x", "builds on a layer that the merge would change"},
	"two levels below, on the base":    {`mkdir -p s/t; (cd s/t; q -f qcow2 -b ../../base.qcow2 -F qcow2 x)`, "s/t/x", "builds on a layer that the merge would change"},
	"of another mount point":           {`q -f qcow2 -u -b /mnt/share/base.qcow2 -F qcow2 x 1M`, "x", "which is not here"},
	"of another mount point, the top":  {`mkdir s; q -f qcow2 -u -b /mnt/share/top.qcow2 -F qcow2 s/x 1M`, "s/x", "which is not here"},
	"of another mount point, another":  {`q -f qcow2 -u -b /mnt/share/other.qcow2 -F qcow2 x 1M`, "x", ""},
	"a link that goes round in a ring": {`ln -s x x`, "x", ""},
}

func TestCommitGoesOnBesideWhatCannotBuildOnItsLayers(t *testing.T) {
	for what, c := range lookAlikes {
		dir := t.TempDir()
		t.Chdir(dir)
		shell(t, dir, `q() { qemu-img create -q "$@"; }
q -f qcow2 base.qcow2 1M; q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2; qemu-io -c 'write -P 2 0 64k' top.qcow2 >/dev/null
`+c.script)
		before := treeSum(t, dir)
		_, errs, code := call(t, "image", "commit", "top.qcow2")
		path := filepath.Join(dir, c.path)
		switch {
		case c.want == "" && code == 0:
			continue
		case c.want == "" || code != term.ExitRefused || !strings.Contains(errs, path) || !strings.Contains(errs, c.want):
			t.Errorf("%s: exit %d, %q; want %q", what, code, errs, c.want)
		case treeSum(t, dir) != before:
			t.Errorf("%s: files differ", what)
		}
		certain := strings.Contains(c.want, "builds on") // what is seen is not to be ignored
		if _, errs, code := call(t, "image", "commit", "--ignore", "nothing", "--ignore", c.path, "top.qcow2"); (code == 0) == certain {
			t.Errorf("%s, ignored: exit %d, %q", what, code, errs)
		}
	}
}

// A clone that is nowhere but below a directory of --allow or --scan.
func TestCommitLooksBelowTheDirectoriesThatAreNamed(t *testing.T) {
	dir := newLayers(t)
	for _, flag := range []string{"--allow", "--scan"} {
		other := t.TempDir()
		shell(t, other, `mkdir -p a/b; cd a/b; qemu-img create -q -f qcow2 -b `+dir+`/a.qcow2 -F qcow2 clone`)
		clone := filepath.Join(other, "a", "b", "clone")
		want := guestSum(t, "qcow2", clone)
		_, errs, code := call(t, "image", "commit", flag, other, "b.qcow2")
		if code != term.ExitRefused || !strings.Contains(errs, clone) {
			t.Errorf("%s: exit %d, %q", flag, code, errs)
		}
		if got := guestSum(t, "qcow2", clone); got != want {
			t.Errorf("%s: the clone has changed", flag)
		}
	}
}

// What a run asks of the files beside layers, which are of no format that it knows.
func TestInspectTellsOfAnyFileWhatItBuildsOn(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, `q() { qemu-img create -q "$@"; }
q -f raw raw 1M
q -f qcow2 -b raw -F raw whole; cp whole cut; truncate -s 1000 cut; cp whole early; truncate -s 200 early
q -f qcow2 plain 1M; truncate -s 70000 plain
q -f qcow -b raw -F raw qcow; q -f qed -b raw -F raw qed
q -f vmdk vmdk 1M; q -f vdi vdi 1M; q -f vhdx vhdx 1M; q -f vpc vhd 1M; q -f parallels parallels 1M
printf conectixjunk > damaged; printf 'QFI\xfb' > junk; : > empty`)
	for name, want := range map[string]string{
		"raw": "raw", "whole": "qcow2 on raw", "cut": "qcow2 on raw", "early": "error", "plain": "qcow2", "qcow": "qcow on raw",
		"qed": "qed on raw", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "vhd": "vhd", "parallels": "parallels",
		"damaged": "vhd", "junk": "qcow2", "empty": "raw",
	} {
		image, err := formats.Inspect(filepath.Join(dir, name), "")
		got := image.Format
		if image.Backing != "" {
			got += " on " + image.Backing
		}
		if err != nil {
			got = "error"
		}
		if got != want || err != nil && !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %+v, %v; want %s", name, image, err, want)
		}
	}
	for _, name := range []string{"cut", "plain", "qcow", "vmdk"} { // as the layer of a guest
		if image, err := formats.Inspect(filepath.Join(dir, name), "qcow2"); err == nil {
			t.Errorf("%s as qcow2: %+v", name, image)
		}
	}
}

// XenServer has VHDs on raw disks; one on a VHD does not matter to a guest of libvirt.
func TestInspectTellsOfVHDsOnRawDisks(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("raw", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "image", "create", "-f", "vhd", "-b", "raw", "-F", "raw", "on-raw")
	must(t, "image", "create", "-f", "vhd", "parent", "1M")
	must(t, "image", "create", "-f", "vhd", "-b", "parent", "-F", "vhd", "on-vhd")
	for name, want := range map[string]string{"on-raw": "raw", "parent": "", "on-vhd": ""} {
		image, err := formats.Inspect(name, "")
		if err != nil || image.Format != "vhd" || filepath.Base("/"+image.Backing) != filepath.Base("/"+want) {
			t.Errorf("%s: %+v, %v", name, image, err)
		}
	}
}
