package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

const resizable = `io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
qemu-img create -q -f qcow2 base.qcow2 4M; io base.qcow2 "write -P 7 0 4M"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2 1000K; io over.qcow2 "write -P 1 0 100k"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o extended_l2=on ext.qcow2 1000K; io ext.qcow2 "write -P 1 0 3k" "write -P 2 999k 1k"
qemu-img create -q -f qcow2 -o cluster_size=512 small.qcow2 1M; io small.qcow2 "write -P 1 0 1M"
qemu-img create -q -f qcow2 snap.qcow2 1M; io snap.qcow2 "write -P 1 0 1M"; qemu-img snapshot -c s snap.qcow2; io snap.qcow2 "write -P 2 0 64k"
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M; qemu-img snapshot -c s old.qcow2
qemu-img create -q -f qcow2 bits.qcow2 1M; qemu-img bitmap --add bits.qcow2 b
qemu-img create -q -f vpc disk.vhd 10M; qemu-img create -q -f vpc -o subformat=fixed,force_size fixed.vhd 1M
truncate -s 1M disk.raw
`

// Each line is done by qemu-img and by virt-rotate, to two copies of an image.
func TestResizeDoesWhatQemuImgDoes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, resizable)
	for _, line := range []string{
		"over.qcow2 +3M", "over.qcow2 2M", "over.qcow2 1G", "over.qcow2 1000K", "ext.qcow2 +3M", "ext.qcow2 1001k",
		"small.qcow2 +1G", "small.qcow2 1T", "small.qcow2 +512", "snap.qcow2 +1M", "disk.raw +1M", "disk.raw 1048577",
		"--shrink over.qcow2 -900K", "--shrink ext.qcow2 -100K", "--shrink small.qcow2 1000", "--shrink small.qcow2 512", "--shrink snap.qcow2 64K",
		"--shrink small.qcow2 -1000448", "--shrink disk.raw -1k", "--shrink over.qcow2 2M",
		"--preallocation=metadata small.qcow2 +100k", "--preallocation=metadata over.qcow2 +4M", "--preallocation=falloc ext.qcow2 +200k",
		"--preallocation=full over.qcow2 +1M", "--preallocation=off over.qcow2 +1M", "--preallocation=falloc disk.raw +1M", "--preallocation=full disk.raw +1M",
		"small.qcow2 -1k", "small.qcow2 -10G", "small.qcow2 0", "small.qcow2 1E", "small.qcow2 +300", "old.qcow2 2M", "bits.qcow2 -q",
		"--preallocation=metadata disk.raw +1M", "--preallocation=full over.qcow2 1000K", "--preallocation=frob over.qcow2 2M",
	} {
		t.Run(line, func(t *testing.T) { resizeTwice(t, strings.Fields(line)) })
	}
}

func resizeTwice(t *testing.T, args []string) {
	t.Helper()
	name := args[len(args)-2]
	format := formatOf(name)
	shell(t, ".", "cp --sparse=always "+name+" x; cp --sparse=always "+name+" theirs")
	defer shell(t, ".", "rm -f x theirs")
	with := func(file string) []string {
		all := append([]string{"resize", "-f", format}, args...)
		all[len(all)-2] = file
		return all
	}
	want, _, code := qemuImg(t, with("theirs")...)
	out, errs, ours := call(t, append([]string{"image"}, with("x")...)...)
	if (ours == 0) != (code == 0) || out != want {
		t.Fatalf("exit %d, %q (%s); qemu-img: exit %d, %q", ours, out, errs, code, want)
	}
	if code != 0 {
		if fileSum(t, "x") != fileSum(t, name) {
			t.Error("it failed, and the image has changed")
		}
		return
	}
	wantAlike(t, format)
}

// wantAlike compares image x with theirs: what the guest reads, and what is where.
func wantAlike(t *testing.T, format string) {
	t.Helper()
	if format == "raw" {
		a, b := mustStat(t, "x"), mustStat(t, "theirs")
		if a.Size() != b.Size() {
			t.Errorf("%d bytes, want %d", a.Size(), b.Size())
		}
		return
	}
	if got, want := infoOf(t, "x"), infoOf(t, "theirs"); !equalJSON(got, want) {
		t.Errorf("info: %v, want %v", got, want)
	}
	if out, errs, code := qemuImg(t, "check", "-f", format, "x"); code != 0 {
		t.Errorf("check: %s%s", out, errs)
	}
	if out, errs, code := qemuImg(t, "compare", "-f", format, "-F", format, "x", "theirs"); code != 0 {
		t.Errorf("%s%s", out, errs)
	}
}

func mustStat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// What virt-rotate can do and qemu-img cannot.
func TestResizeOfVHDs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, resizable+"qemu-io -f vpc -c 'write -P 1 0 1M' disk.vhd >/dev/null")
	must(t, "image", "create", "-f", "vhd", "-b", "disk.vhd", "-F", "vhd", "child.vhd", "5M")
	for _, c := range []struct{ file, size, shrink string }{{"child.vhd", "9M", ""}, {"child.vhd", "1M", "--shrink"}, {"disk.vhd", "40M", ""}} {
		args := []string{"image", "resize", c.file, c.size}
		if c.shrink != "" {
			args = append(args, c.shrink)
		}
		must(t, args...)
		must(t, "image", "check", c.file)
		if out := must(t, "image", "info", c.file); !strings.Contains(out, "virtual size: "+strings.TrimSuffix(c.size, "M")+" MiB") {
			t.Errorf("%v: %s", c, out)
		}
	}
	must(t, "image", "resize", "child.vhd", "12M")
	must(t, "image", "convert", "child.vhd", "child.raw")
	shell(t, dir, `cmp -n 1048576 child.raw <(head -c 1M /dev/zero | tr '\0' '\1'); cmp <(tail -c +1048577 child.raw) <(head -c 11M /dev/zero)`)
}

func TestResizeThatIsRefusedChangesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, resizable)
	wantUnchanged(t, dir, "resize", []refusal{
		{"small.qcow2 100k", term.ExitRefused, "say so with --shrink"},
		{"--dry-run --shrink base.qcow2 1M", term.ExitDone, ""}, // its overlays are shorter
		{"--shrink base.qcow2 100k", term.ExitRefused, ".qcow2: it builds on "},
		{"--dry-run bits.qcow2 2M", term.ExitDone, ""},
		{"-f vhd fixed.vhd 2M", term.ExitRefused, "convert it into a dynamic one first"},
		{"disk.raw 2M", term.ExitRefused, "-f raw"},
		{"old.qcow2 2M", term.ExitRefused, "version 2"},
		{"small.qcow2 -10G", term.ExitUsage, "SIZE -10G"},
		{"small.qcow2 1Q", term.ExitUsage, "SIZE 1Q"},
		{"small.qcow2", term.ExitUsage, "wants FILE [+|-]SIZE"},
		{"gone.qcow2 1M", term.ExitFailed, "gone.qcow2"},
		{"--dry-run small.qcow2 2M", term.ExitDone, ""},
	})
}

// A guest that runs has its image open.
func TestAnImageInUseIsNotResized(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, resizable)
	hold(t, "-f qcow2", "small.qcow2")
	for _, size := range []string{"+1M", "100k"} {
		if _, errs, code := call(t, "image", "resize", "--shrink", "small.qcow2", size); code != term.ExitRefused {
			t.Errorf("%s: exit %d, %s", size, code, errs)
		}
	}
	if out := must(t, "image", "resize", "over.qcow2", "--output=json", "2M"); !strings.Contains(out, fmt.Sprintf("from %d to %d bytes", 1000<<10, 2<<20)) {
		t.Error(out)
	}
}

// A refusal is a line of arguments, and what comes of it.
type refusal struct {
	line string
	code int
	want string // in what is said
}

// wantUnchanged calls an image command with each line, and wants all files as they were.
func wantUnchanged(t *testing.T, dir, command string, all []refusal) {
	t.Helper()
	before := treeSum(t, dir)
	for _, c := range all {
		_, errs, code := call(t, append([]string{"image", command}, strings.Fields(c.line)...)...)
		if code != c.code || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") > 1 {
			t.Errorf("%s: exit %d, %q; want exit %d, %q", c.line, code, errs, c.code, c.want)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ:\n%s\nbefore:\n%s", c.line, after, before)
		}
	}
}
