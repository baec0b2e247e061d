package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// lavish is a directory with images that take more than they need.
func lavish(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
qemu-img create -q -f qcow2 base.qcow2 8M; io base.qcow2 "write -P 1 0 2M" "write -P 0 2M 2M"
qemu-img snapshot -c s base.qcow2; io base.qcow2 "write -P 2 1M 1M" "write -P 0 4M 1M"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2; io over.qcow2 "write -P 0 0 1M" "write -P 3 6M 1M"
qemu-img snapshot -c t over.qcow2
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 8M; io old.qcow2 "write -P 1 0 1M" "write -P 0 2M 2M"
truncate -s 1M disk.raw
mkdir sub`)
	return dir
}

func TestCompactKeepsWhatImagesOnTheImageRead(t *testing.T) {
	lavish(t)
	before := map[string]string{}
	for _, f := range []string{"base.qcow2", "over.qcow2", "old.qcow2"} {
		before[f] = guestSum(t, "qcow2", f)
	}
	for f := range before {
		out := must(t, "image", "compact", "--output=json", f)
		var r image.CompactReport
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Zeros == 0 || r.AllocatedAfter >= r.AllocatedBefore {
			t.Errorf("%s: %v, %s", f, err, out)
		}
	}
	for f, sum := range before {
		if guestSum(t, "qcow2", f) != sum {
			t.Errorf("%s: the guest reads something else", f)
		}
	}
}

// A copy in another directory builds on the same image.
func TestCompactToAnotherDirectoryBuildsOnTheSame(t *testing.T) {
	lavish(t)
	want, was := guestSum(t, "qcow2", "over.qcow2"), fileSum(t, "over.qcow2")
	must(t, "image", "compact", "-o", "sub/new.qcow2", "over.qcow2")
	must(t, "image", "compact", "-o", "new.qcow2", "over.qcow2")
	for _, f := range []string{"sub/new.qcow2", "new.qcow2"} {
		if guestSum(t, "qcow2", f) != want {
			t.Errorf("%s reads as something else", f)
		}
		if info, err := os.Stat(f); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	if fileSum(t, "over.qcow2") != was {
		t.Error("the image itself was changed")
	}
	if out, _, _ := qemuImg(t, "info", "--output=json", "new.qcow2"); !strings.Contains(out, `"backing-filename": "base.qcow2"`) {
		t.Errorf("beside the image it names its backing file otherwise: %s", out)
	}
}

func TestCompactThatIsRefusedChangesNothing(t *testing.T) {
	dir := lavish(t)
	shell(t, dir, `cp base.qcow2 corrupt.qcow2; printf '\x02' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none
cp base.qcow2 dirty.qcow2; printf '\x01' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc status=none
qemu-img create -q -f qcow2 -o data_file=data.raw data.qcow2 1M
qemu-img create -q -f vpc v.vhd 8M`)
	busy := exec.Command("stdbuf", "-oL", "qemu-io", "-f", "qcow2", "-c", "read 0 512", "-c", "sleep 10000000", "old.qcow2")
	says, err := busy.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		busy.Process.Kill()
		busy.Wait()
	}()
	if line, err := bufio.NewReader(says).ReadString('\n'); err != nil { // it has the image open then
		t.Fatal(line, err)
	}
	before := treeSum(t, dir)
	for line, want := range map[string]string{
		"old.qcow2":                        "another process",
		"corrupt.qcow2":                    "check and repair it first",
		"dirty.qcow2":                      "check and repair it first",
		"--to new dirty.qcow2":             "check and repair it first",
		"--to new data.qcow2":              "in another file",
		"--to base.qcow2 over.qcow2":       "there already",
		"-f raw disk.raw":                  "cannot be made compact",
		"v.vhd":                            "cannot be made compact",
		"--dry-run --to sub over.qcow2":    "there already",
		"--dry-run --to new.qcow2 v.vhd":   "cannot be made compact",
		"--dry-run --zeros no dirty.qcow2": "check and repair it first",
	} {
		_, errs, code := call(t, append([]string{"image", "compact"}, strings.Fields(line)...)...)
		if code != term.ExitRefused || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	for _, line := range []string{"--zeros maybe base.qcow2", "", "base.qcow2 over.qcow2"} {
		if _, _, code := call(t, append([]string{"image", "compact"}, strings.Fields(line)...)...); code != term.ExitUsage {
			t.Errorf("%s: exit %d", line, code)
		}
	}
	must(t, "image", "compact", "--dry-run", "base.qcow2")
	must(t, "image", "compact", "--dry-run", "--to", "new", "base.qcow2")
	if treeSum(t, dir) != before {
		t.Error("something was changed")
	}
}

// A merge whose journal notes how an image was is finished before the image is changed.
func TestCompactWaitsForAMergeThatWasInterrupted(t *testing.T) {
	dir := lavish(t)
	info, err := vfs.Lstat("base.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	journal := fmt.Sprintf(`{"version":1,"base":{"path":"%[1]s/base.qcow2","format":"qcow2","id":{"dev":%d,"ino":%d}},"gone":[{"path":"%[1]s/over.qcow2","format":"qcow2"}]}`,
		dir, info.ID.Dev, info.ID.Ino)
	if err := os.WriteFile(filepath.Join(dir, ".virt-rotate-commit-over.qcow2.json"), []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := call(t, "image", "compact", "base.qcow2"); code != term.ExitRefused || !strings.Contains(errs, "interrupted") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
