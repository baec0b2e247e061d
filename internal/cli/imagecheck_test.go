package cli

import (
	"os"
	"strings"
	"testing"
)

// An image that has lost a table is not opened by any program. The error names the repair,
// which brings it back with its snapshots; nothing else changes it.
func TestCheckBringsLostTablesBack(t *testing.T) {
	for name, at := range map[string]int64{"refcount table": 48, "snapshot table": 64} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			shell(t, dir, `
				qemu-img create -q -f qcow2 web.qcow2 8M
				qemu-io -f qcow2 -c "write -P 7 0 1M" web.qcow2 >/dev/null
				qemu-img snapshot -c before web.qcow2
				qemu-io -f qcow2 -c "write -P 8 0 64k" web.qcow2 >/dev/null
				cp web.qcow2 sound.qcow2
				qemu-img convert -f qcow2 -O raw -l before web.qcow2 before.raw`)
			overwrite(t, "web.qcow2", at, "\x00\x00\x01\x00\x00\x00\x00\x00")
			damaged := treeSum(t, dir)
			for _, line := range []string{"info", "check", "check -r leaks", "commit", "map"} {
				_, errs, code := call(t, append([]string{"image"}, append(strings.Fields(line), "web.qcow2")...)...)
				if code == 0 || !strings.Contains(errs, "offset ") || strings.HasPrefix(line, "check") != strings.Contains(errs, "image check -r all") {
					t.Errorf("%s: exit %d, %s", line, code, errs)
				}
			}
			if now := treeSum(t, dir); now != damaged {
				t.Fatalf("files differ: %s", now)
			}
			out, errs, code := call(t, "image", "check", "-r", "all", "web.qcow2")
			if code != 0 || !strings.Contains(out, "repaired: a new "+name) {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			shell(t, dir, `
				qemu-img check -q web.qcow2
				qemu-img compare -q web.qcow2 sound.qcow2
				qemu-img convert -f qcow2 -O raw -l before web.qcow2 after.raw
				cmp before.raw after.raw`)
		})
	}
}

// One flipped bit says that the data is elsewhere: its clusters are not given free.
func TestCheckLeavesAnImageAloneThatMayHaveADataFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 web.qcow2 8M
		qemu-io -f qcow2 -c "write -P 7 0 1M" web.qcow2 >/dev/null`)
	overwrite(t, "web.qcow2", 79, "\x04")
	before := treeSum(t, dir)
	for _, line := range []string{"check -r leaks web.qcow2", "check -r all web.qcow2", "compact web.qcow2"} {
		_, errs, code := call(t, append([]string{"image"}, strings.Fields(line)...)...)
		if code == 0 || !strings.Contains(errs, "its data may be in the image itself") {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if after := treeSum(t, dir); after != before {
		t.Errorf("files differ: %s", after)
	}
}

func overwrite(t *testing.T, path string, at int64, what string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(what), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Some programs make images of odd sizes. What is within the last sector is read, too.
func TestADiskOfAnOddSizeIsRead(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 odd.qcow2 1M
		qemu-io -f qcow2 -c "write -P 7 960k 64k" odd.qcow2 >/dev/null`)
	overwrite(t, "odd.qcow2", 24, "\x00\x00\x00\x00\x00\x0f\x42\x3f") // 999,999
	must(t, "image", "convert", "-O", "raw", "odd.qcow2", "odd.raw")
	must(t, "image", "check", "odd.qcow2")
	if out := must(t, "image", "info", "odd.qcow2"); !strings.Contains(out, "(1000448 bytes)") {
		t.Error(out)
	}
	shell(t, dir, `
		qemu-img convert -f qcow2 -O raw odd.qcow2 qemu.raw
		cmp -n 999936 odd.raw qemu.raw`)
	b, err := os.ReadFile("odd.raw")
	if err != nil || len(b) != 1000448 || b[999990] != 7 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	shell(t, dir, `qemu-img create -q -f qcow2 -b odd.qcow2 -F qcow2 top.qcow2; qemu-io -f qcow2 -c "write -P 8 0 64k" top.qcow2 >/dev/null; cp odd.qcow2 was.qcow2`)
	must(t, "image", "rebase", "-u", "-b", "was.qcow2", "-F", "qcow2", "top.qcow2")
	must(t, "image", "commit", "top.qcow2")
	shell(t, dir, `test $(qemu-img compare -f qcow2 -F raw was.qcow2 odd.raw >/dev/null; echo $?) = 1; qemu-img check -q was.qcow2`)
}

// Data of an overlay that is larger than its base is counted, wherever it lies.
func TestWhatACommitMovesBeyondTheBaseIsCounted(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		dir := t.TempDir()
		t.Chdir(dir)
		shell(t, dir, `
			qemu-img create -q -f `+format+` base 1M
			qemu-img create -q -f qcow2 -b base -F `+format+` more.qcow2 4M
			qemu-io -f qcow2 -c "write -P 7 960k 128k" -c "write -P 7 3M 64k" -c "write -z 2M 64k" more.qcow2 >/dev/null`)
		if out := must(t, "image", "commit", "--dry-run", "more.qcow2"); !strings.Contains(out, "192 KiB to copy") {
			t.Errorf("%s: %s", format, out)
		}
		if out := must(t, "image", "commit", "more.qcow2"); !strings.Contains(out, "192 KiB copied") {
			t.Errorf("%s: %s", format, out)
		}
	}
}
