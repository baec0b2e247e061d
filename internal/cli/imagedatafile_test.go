package cli

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// external makes d ← o, where d keeps its data in files/d.raw, and plain, a
// copy of what the guest sees in o.
const external = `
io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
mkdir files
qemu-img create -q -f qcow2 -o data_file=files/d.raw$RAW d.qcow2 8M
io d.qcow2 "write -P 1 0 3M" "write -P 2 5M 1000" "write -z 1M 300k" "discard 2M 128k"
qemu-img create -q -f qcow2 -b d.qcow2 -F qcow2 o.qcow2; io o.qcow2 "write -P 3 2500k 700k" "write -z 64k 64k"
qemu-img convert -O qcow2 o.qcow2 plain.qcow2
qemu-img create -q -f qcow2 base.qcow2 8M; io base.qcow2 "write -P 9 0 8M"
qemu-img rebase -u -b base.qcow2 -F qcow2 d.qcow2
qemu-img convert -O qcow2 o.qcow2 all.qcow2
`

func TestDataInAnotherFileIsReadWhereThatIsAllowed(t *testing.T) {
	for _, raw := range []string{"", ",data_file_raw=on"} {
		dir := t.TempDir()
		t.Chdir(dir)
		script := external
		if raw != "" { // such an image has no backing file
			script = strings.ReplaceAll(script, "qemu-img rebase", "true")
		}
		shell(t, dir, "RAW="+raw+"\n"+script)
		want := guestSum(t, "qcow2", "o.qcow2")
		for _, line := range []string{"compare o.qcow2 all.qcow2", "map o.qcow2", "convert -O qcow2 o.qcow2 new.qcow2", "commit --keep --base base.qcow2 o.qcow2", "pull o.qcow2"} {
			if raw != "" && strings.HasPrefix(line, "commit") {
				continue
			}
			fields := append([]string{"image"}, strings.Fields(line)...)
			before := treeSum(t, dir)
			_, errs, code := call(t, fields...)
			if code != term.ExitRefused && !strings.HasPrefix(line, "compare") || !strings.Contains(errs, "--allow "+dir+"/files") {
				t.Errorf("%s: exit %d, %q", line, code, errs)
			}
			if treeSum(t, dir) != before {
				t.Errorf("%s: a refusal has changed files", line)
			}
			must(t, append([]string{fields[0], fields[1], "--allow", "files"}, fields[2:]...)...)
			switch fields[1] {
			case "convert":
				mustBe(t, line, map[string]string{"new.qcow2": want})
			case "commit":
				mustBe(t, line, map[string]string{"base.qcow2": want})
			default:
				mustBe(t, line, map[string]string{"o.qcow2": want})
			}
		}
	}
}

func TestDataInAnotherFileIsNeverWritten(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "RAW=\n"+external)
	before := treeSum(t, dir)
	for _, line := range []string{"commit o.qcow2", "pull d.qcow2", "rebase -b all.qcow2 -F qcow2 d.qcow2", "commit --base base.qcow2 o.qcow2", "commit d.qcow2"} {
		_, errs, code := call(t, append([]string{"image", strings.Fields(line)[0], "--allow", "files"}, strings.Fields(line)[1:]...)...)
		if code != term.ExitRefused || !strings.Contains(errs, "external") {
			t.Errorf("%s: exit %d, %q", line, code, errs)
		}
	}
	if treeSum(t, dir) != before {
		t.Error("a refusal has changed files")
	}
}
