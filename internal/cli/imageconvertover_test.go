package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// A file that is there is replaced, as scripts expect it of qemu-img.
func TestConvertReplacesAFileThatIsThere(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `head -c 20M /dev/urandom > old; chmod 640 old; chown 1000:1001 old; setfattr -n user.note -v mine old`)
	for _, line := range []string{"-O raw", "-O qcow2", "-c -O qcow2", "-O vhd", "-O raw"} {
		must(t, append(append([]string{"image", "convert"}, strings.Fields(line)...), "top.qcow2", "old")...)
		format := strings.Fields(line)[len(strings.Fields(line))-1]
		if format == "vhd" {
			must(t, "image", "compare", "-F", "vhd", "top.qcow2", "old")
		} else if guestSum(t, format, "old") != guestSum(t, "qcow2", "top.qcow2") {
			t.Errorf("%s: the guest reads other data", line)
		}
		if got := shell(t, dir, "stat -c '%a %u %g' old; getfattr --only-values -n user.note old"); got != "640 1000 1001\nmine" {
			t.Errorf("%s: owner, mode and attributes: %q", line, got)
		}
	}
}

// Whenever a conversion ends early, the old file is there, whole.
func TestConvertThatIsInterruptedLeavesTheOldFile(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, "seq 1000000 > old")
	before := treeSum(t, dir)
	stopped := 0
	for n := 0; ; n += 1 + n/4 {
		_, errs, code := callCtx(newFuse(t.Context(), n), "image", "convert", "-O", "qcow2", "top.qcow2", "old")
		if code == term.ExitDone {
			break
		}
		stopped++
		if after := treeSum(t, dir); code != term.ExitFailed || after != before {
			t.Fatalf("cancelled at %d: exit %d, %s: files differ:\n%s", n, code, errs, after)
		}
	}
	if stopped < 5 {
		t.Errorf("%d interruptions", stopped)
	}
	if guestSum(t, "qcow2", "old") != guestSum(t, "qcow2", "top.qcow2") {
		t.Error("the guest reads other data")
	}
}

func TestAFileInUseIsNotReplaced(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, "cp odd.qcow2 used.qcow2; truncate -s 20M medium")
	hold(t, "-f qcow2", "used.qcow2")
	device := loopOn(t, "medium")
	before := treeSum(t, dir)
	for _, line := range []string{"-O qcow2 odd.qcow2 used.qcow2", "-n -O qcow2 odd.qcow2 used.qcow2", "-O raw odd.qcow2 medium", "-n -O raw odd.qcow2 medium",
		"-O qcow2 odd.qcow2 " + device} {
		if _, errs, code := call(t, append([]string{"image", "convert"}, strings.Fields(line)...)...); code != term.ExitRefused {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ", line)
		}
	}
}

// loopOn is a loop device on a file.
func loopOn(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup, which needs root: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v: %s", err, out)
		}
	})
	return device
}

// Over a device goes the disk, zeros included, and not a byte behind it.
func TestConvertOntoADevice(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `head -c 20M /dev/urandom > medium; cp medium was
qemu-img create -q -f qcow2 zeros.qcow2 12M; qemu-io -f qcow2 -c "write -P 0 0 6M" -c "write -P 1 6M 1M" zeros.qcow2 >/dev/null`)
	device := loopOn(t, "medium")
	for _, src := range []string{"top.qcow2", "far.raw", "zeros.qcow2"} {
		for _, line := range []string{"-n -O raw", "-O raw", ""} {
			shell(t, dir, "cat was > "+device)
			must(t, append(append([]string{"image", "convert", "-f", formatOf(src)}, strings.Fields(line)...), src, device)...)
			wantOnDevice(t, src, device)
		}
	}
	if got := strings.TrimSpace(shell(t, dir, "stat -c %b medium")); got > "20000" {
		t.Errorf("zeros were not discarded: %s blocks of 512 bytes of 20 MiB", got)
	}
	shell(t, dir, "mkfs.ext4 -q -F "+device+"; mkdir mnt; mount "+device+" mnt")
	defer shell(t, dir, "umount mnt")
	if _, errs, code := call(t, "image", "convert", "-n", "-O", "raw", "top.qcow2", device); code != term.ExitRefused || !strings.Contains(errs, "mounted") {
		t.Errorf("mounted: exit %d, %s", code, errs)
	}
}

func wantOnDevice(t *testing.T, src, device string) {
	t.Helper()
	shell(t, ".", fmt.Sprintf(`qemu-img convert -f %s -O raw %s raw; n=$(stat -c %%s raw); cmp -n $n raw %s
cmp -i $n was %s; rm raw`, formatOf(src), src, device, device))
}

// The other images that a script may name with -n, as qemu-img has written to them.
func TestConvertIntoAnImageThatIsThere(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `io base.qcow2 "write -P 9 7M 1M" 2>/dev/null || true
qemu-img create -q -f qcow2 full.qcow2 12M; qemu-io -f qcow2 -c "write -P 9 0 12M" full.qcow2 >/dev/null
mkdir t; cp full.qcow2 t/on.qcow2; qemu-img create -q -f qcow2 -b on.qcow2 -F qcow2 t/onto.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k,extended_l2=off t/small.qcow2 12M; qemu-io -f qcow2 -c "write -P 8 100k 11M" t/small.qcow2 >/dev/null; qemu-img snapshot -c s t/small.qcow2
head -c 12M /dev/urandom > t/disk.raw`)
	for _, src := range []string{"top.qcow2", "far.raw", "packed.qcow2"} {
		for _, target := range []string{"onto.qcow2", "small.qcow2", "disk.raw"} {
			for _, flags := range []string{"", "-S 4k", "-S 0"} {
				shell(t, dir, "cp t/* .; cp "+target+" theirs")
				defer func(name string) { _ = os.Remove(name) }(filepath.Join(dir, target))
				args := append([]string{"-n", "-f", formatOf(src), "-O", formatOf(target)}, strings.Fields(flags)...)
				must(t, append(append([]string{"image", "convert"}, args...), src, target)...)
				if _, errs, code := qemuImg(t, append(append([]string{"convert"}, args...), src, "theirs")...); code != 0 {
					t.Fatal(errs)
				}
				if a, b := guestSum(t, formatOf(target), target), guestSum(t, formatOf(target), "theirs"); a != b {
					t.Errorf("%s -> %s %s: the guest reads other data", src, target, flags)
				}
				if out, errs, code := qemuImg(t, "check", "-f", formatOf(target), target); code != 0 && code != 63 {
					t.Errorf("%s -> %s: %s%s", src, target, out, errs)
				}
			}
		}
	}
}
