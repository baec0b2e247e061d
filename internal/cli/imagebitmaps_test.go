package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// dirtyIn are the stretches of a disk that a bitmap says to have changed, as QEMU exports
// it to a backup, in units of 64 KiB.
func dirtyIn(t *testing.T, image, name string) (units []int64) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "nbd")
	server := exec.Command("qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", sock, "-B", name, image)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	for range 500 {
		if conn, err := net.Dial("unix", sock); err == nil {
			_ = conn.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	out, errs, code := qemuImg(t, "map", "--output=json", "--image-opts",
		"driver=nbd,server.type=unix,server.path="+sock+",x-dirty-bitmap=qemu:dirty-bitmap:"+name)
	if code != 0 {
		t.Fatalf("%s of %s: %s", name, image, errs)
	}
	var list []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		for at := x.Start; !x.Data && at < x.Start+x.Length; at += 65536 { // dirty is what is no data
			units = append(units, at/65536)
		}
	}
	return units
}

// newBitmapped is a chain base ← mid ← top, as libvirt leaves it under checkpoints: "since" is
// in all of them, "later" in two, "old" is disabled.
const newBitmapped = `
	qemu-img create -q -f qcow2 base.qcow2 64M
	qemu-io -f qcow2 -c "write -P 1 0 4M" base.qcow2 >/dev/null
	qemu-img bitmap --add base.qcow2 since
	qemu-img bitmap --add base.qcow2 old
	qemu-io -f qcow2 -c "write -P 2 8M 256k" base.qcow2 >/dev/null
	qemu-img bitmap --disable base.qcow2 old
	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
	qemu-img bitmap --add mid.qcow2 since
	qemu-img bitmap --add mid.qcow2 later
	qemu-io -f qcow2 -c "write -P 3 16M 128k" -c "write -z 1M 64k" mid.qcow2 >/dev/null
	qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
	qemu-img bitmap --add top.qcow2 since
	qemu-img bitmap --add top.qcow2 later
	qemu-io -f qcow2 -c "write -P 4 32M 64k" -c "write -P 5 16M 64k" top.qcow2 >/dev/null
	qemu-img convert -f qcow2 -O raw top.qcow2 want.raw`

func units(stretches ...int64) (list []int64) { // from, count, in units of 64 KiB
	for i := 0; i < len(stretches); i += 2 {
		for n := range stretches[i+1] {
			list = append(list, stretches[i]+n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Bitmaps survive a merge: what is written is dirty in those that are enabled, those of the
// merged layers are joined by name. QEMU reads them, and its own merge says the same.
func TestBitmapsSurviveMerges(t *testing.T) {
	base, mid, top := []int64{128, 4}, []int64{256, 2, 16, 1}, []int64{512, 1, 256, 1}
	for _, c := range []struct {
		line, image string
		want        map[string][]int64
	}{
		{"commit mid.qcow2", "base.qcow2", map[string][]int64{
			"since": units(slices.Concat(base, mid)...), "later": units(mid...), "old": units(base...),
		}},
		{"commit --base base.qcow2 top.qcow2", "base.qcow2", map[string][]int64{
			"since": units(slices.Concat(base, mid, top)...), "later": units(slices.Concat(mid, top)...), "old": units(base...),
		}},
		{"pull --base base.qcow2 top.qcow2", "top.qcow2", map[string][]int64{
			"since": units(slices.Concat(mid, top)...), "later": units(slices.Concat(mid, top)...),
		}},
		{"rebase -b base.qcow2 -F qcow2 top.qcow2", "top.qcow2", map[string][]int64{
			"since": units(slices.Concat(mid, top)...), "later": units(slices.Concat(mid, top)...),
		}},
	} {
		t.Run(c.line, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			shell(t, dir, newBitmapped)
			must(t, append([]string{"image"}, strings.Fields(c.line)...)...)
			shell(t, dir, "qemu-img check -q "+c.image)
			last := "top.qcow2"
			if c.image == "base.qcow2" && strings.Contains(c.line, "top") {
				last = c.image
			}
			shell(t, dir, "qemu-img compare -q -f qcow2 -F raw "+last+" want.raw")
			for name, want := range c.want {
				if got := dirtyIn(t, c.image, name); !slices.Equal(got, want) {
					t.Errorf("%s: %v, want %v", name, got, want)
				}
			}
			if out, _, _ := qemuImg(t, "info", c.image); strings.Contains(out, "in-use") || strings.Count(out, "granularity") != len(c.want) {
				t.Errorf("%s", out)
			}
		})
	}
}

// An incremental backup over a merge: the blocks that the bitmap names, on the backup of then,
// are the disk of now.
func TestABackupByABitmapOverAMergeIsTheDisk(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 base.qcow2 64M
		qemu-io -f qcow2 -c "write -P 1 0 8M" base.qcow2 >/dev/null
		qemu-img convert -f qcow2 -O raw base.qcow2 backup.raw
		qemu-img bitmap --add base.qcow2 since
		qemu-io -f qcow2 -c "write -P 2 1M 300k" base.qcow2 >/dev/null
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
		qemu-img bitmap --add top.qcow2 since
		qemu-io -f qcow2 -c "write -P 3 5M 1k" -c "write -z 6M 200k" -c "discard 7M 64k" -c "write -c -P 4 20M 64k" top.qcow2 >/dev/null
		qemu-img convert -f qcow2 -O raw top.qcow2 want.raw`)
	must(t, "image", "commit", "top.qcow2")
	shell(t, dir, "qemu-img convert -f qcow2 -O raw base.qcow2 now.raw; cmp now.raw want.raw")
	changed := dirtyIn(t, "base.qcow2", "since")
	for _, u := range changed {
		shell(t, dir, fmt.Sprintf("dd if=now.raw of=backup.raw bs=64k skip=%d seek=%[1]d count=1 conv=notrunc status=none", u))
	}
	shell(t, dir, "cmp backup.raw want.raw")
	if len(changed) == 0 || len(changed) > 20 {
		t.Errorf("%d blocks: %v", len(changed), changed)
	}
}

// A backup of a disk that gets another size by a merge: the blocks that the bitmap names, on the backup of then at
// the new length, are the disk of now. So after image resize.
func TestABackupByABitmapOverAMergeOfAnotherSizeIsTheDisk(t *testing.T) {
	for _, size := range []string{"96M", "24M", "64M"} {
		t.Run(size, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			shell(t, dir, `
				qemu-img create -q -f qcow2 base.qcow2 64M
				qemu-io -f qcow2 -c "write -P 1 0 8M" -c "write -P 9 60M 4M" base.qcow2 >/dev/null
				qemu-img convert -f qcow2 -O raw base.qcow2 backup.raw
				qemu-img bitmap --add base.qcow2 since
				qemu-io -f qcow2 -c "write -P 2 1M 300k" base.qcow2 >/dev/null
				qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 `+size+`
				qemu-img bitmap --add top.qcow2 since
				qemu-io -f qcow2 -c "write -P 3 5M 1k" -c "write -P 4 23M 1M" top.qcow2 >/dev/null
				qemu-img convert -f qcow2 -O raw top.qcow2 want.raw`)
			must(t, "image", "commit", "top.qcow2")
			shell(t, dir, "qemu-img check -q base.qcow2; qemu-img convert -f qcow2 -O raw base.qcow2 now.raw; cmp now.raw want.raw; truncate -s "+size+" backup.raw")
			putDirty(t, dir, "base.qcow2")
			shell(t, dir, "cmp backup.raw want.raw")

			must(t, "image", "resize", "--shrink", "base.qcow2", "20M")
			must(t, "image", "resize", "base.qcow2", "80M")
			shell(t, dir, `qemu-io -f qcow2 -c "write -P 7 79M 5k" base.qcow2 >/dev/null
				qemu-img convert -f qcow2 -O raw base.qcow2 now.raw; truncate -s 20M backup.raw; truncate -s 80M backup.raw`)
			putDirty(t, dir, "base.qcow2")
			shell(t, dir, "cmp backup.raw now.raw; qemu-img check -q base.qcow2")
		})
	}
}

// putDirty brings the blocks that a bitmap names from now.raw into backup.raw.
func putDirty(t *testing.T, dir, image string) {
	t.Helper()
	changed := dirtyIn(t, image, "since")
	for _, u := range changed {
		shell(t, dir, fmt.Sprintf("dd if=now.raw of=backup.raw bs=64k skip=%d seek=%[1]d count=1 conv=notrunc status=none", u))
	}
	if len(changed) == 0 || len(changed) > 40 {
		t.Errorf("%d blocks: %v", len(changed), changed)
	}
}

// convert --bitmaps brings along what qemu-img convert --bitmaps does, also compressed; with --chain each layer has its own.
func TestConvertBringsBitmapsAlongAsQEMU(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, newBitmapped+`
		qemu-img bitmap --disable top.qcow2 later
		qemu-img convert -f qcow2 -O qcow2 --bitmaps top.qcow2 theirs.qcow2`)
	must(t, "image", "convert", "--bitmaps", "-O", "qcow2", "top.qcow2", "ours.qcow2")
	must(t, "image", "convert", "--bitmaps", "-c", "-O", "qcow2", "top.qcow2", "packed.qcow2")
	must(t, "image", "convert", "--bitmaps", "--chain", "top.qcow2", "layers")
	must(t, "image", "convert", "-O", "qcow2", "top.qcow2", "plain.qcow2")
	for _, c := range []struct{ ours, theirs string }{
		{"ours.qcow2", "theirs.qcow2"}, {"packed.qcow2", "theirs.qcow2"},
		{"layers/top.qcow2", "top.qcow2"}, {"layers/mid.qcow2", "mid.qcow2"}, {"layers/base.qcow2", "base.qcow2"},
	} {
		shell(t, dir, "qemu-img check -q "+c.ours)
		if ours, theirs := bitmapsInfo(t, c.ours), bitmapsInfo(t, c.theirs); ours != theirs || ours == "null" {
			t.Errorf("%s: %s\nqemu-img: %s", c.ours, ours, theirs)
		}
		if got, want := dirtyIn(t, c.ours, "since"), dirtyIn(t, c.theirs, "since"); !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s: %v, want %v", c.ours, got, want)
		}
	}
	if has := bitmapsInfo(t, "plain.qcow2"); has != "null" {
		t.Errorf("not asked for: %s", has)
	}
}

// bitmapsInfo is what qemu-img tells of bitmaps.
func bitmapsInfo(t *testing.T, image string) string {
	t.Helper()
	out, errs, code := qemuImg(t, "info", "--output=json", image)
	if code != 0 {
		t.Fatal(errs)
	}
	var info struct {
		Specific struct {
			Data struct{ Bitmaps json.RawMessage }
		} `json:"format-specific"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if info.Specific.Data.Bitmaps == nil {
		return "null"
	}
	return string(info.Specific.Data.Bitmaps)
}

// Bitmaps that cannot be had are refused before anything is made.
func TestConvertRefusesBitmapsThatItCannotBring(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 a.qcow2 4M
		qemu-img bitmap --add a.qcow2 good
		qemu-img bitmap --add a.qcow2 broken
		cp a.qcow2 whole.qcow2
		qemu-io -f qcow2 -c "write 0 64k" -c "sigraise 9" a.qcow2 >/dev/null 2>&1 || :`)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-O", "qcow2", "a.qcow2", "new"}, term.ExitRefused, "--skip-broken-bitmaps leaves it out"},
		{[]string{"--chain", "a.qcow2", "new"}, term.ExitRefused, "--skip-broken-bitmaps leaves it out"},
		{[]string{"-O", "raw", "whole.qcow2", "new"}, term.ExitUsage, "format raw"},
		{[]string{"-O", "qcow2", "-o", "compat=0.10", "whole.qcow2", "new"}, term.ExitUsage, "as they are asked for"},
		{[]string{"-n", "-O", "qcow2", "whole.qcow2", "a.qcow2"}, term.ExitUsage, "exclude each other"},
		{[]string{"-l", "s", "whole.qcow2", "new"}, term.ExitUsage, "exclude each other"},
	} {
		out, errs, code := call(t, append([]string{"image", "convert", "--bitmaps"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d %s %s", c.args, code, out, errs)
		}
		if _, err := os.Lstat("new"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v has made it: %v", c.args, err)
		}
	}
	must(t, "image", "convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "a.qcow2", "new")
	if has := bitmapsInfo(t, "new"); has != "null" {
		t.Errorf("%s", has)
	}
}

// What image bitmap does is what qemu-img bitmap does, line by line.
func TestBitmapsByHandAsQEMU(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 ours.qcow2 16M
		qemu-img create -q -f qcow2 other.qcow2 16M
		qemu-img bitmap --add other.qcow2 there
		qemu-io -f qcow2 -c "write 3M 200k" other.qcow2 >/dev/null
		cp ours.qcow2 theirs.qcow2`)
	for _, line := range []string{
		"--add %s a", "--add --disable -g 4096 %s b", "--merge there -b other.qcow2 -F qcow2 %s a", "--merge a %s b", "--enable %s b",
		"--clear %s a", "--add --merge b -g 1M %s c", "--disable %s c", "--remove %s a",
	} {
		if out := must(t, append([]string{"image", "bitmap"}, strings.Fields(fmt.Sprintf(line, "ours.qcow2"))...)...); out != "" {
			t.Errorf("%s: %q", line, out)
		}
		if _, errs, code := qemuImg(t, append([]string{"bitmap"}, strings.Fields(fmt.Sprintf(line, "theirs.qcow2"))...)...); code != 0 {
			t.Fatal(errs)
		}
		for _, name := range []string{"a", "b", "c"} {
			if list, _, _ := qemuImg(t, "info", "--output=json", "theirs.qcow2"); !strings.Contains(list, `"name": "`+name+`"`) {
				continue
			}
			if got, want := dirtyIn(t, "ours.qcow2", name), dirtyIn(t, "theirs.qcow2", name); !slices.Equal(got, want) {
				t.Errorf("%s: %s is %v, not %v", line, name, got, want)
			}
		}
		shell(t, dir, `qemu-img check -q ours.qcow2
			test "$(qemu-img info ours.qcow2 | grep -A30 bitmaps: | grep -c name:)" = "$(qemu-img info theirs.qcow2 | grep -A30 bitmaps: | grep -c name:)"`)
	}
	if out := must(t, "image", "bitmap", "--output=json", "--disable", "ours.qcow2", "b"); !strings.Contains(out, `"granularity": 4096`) {
		t.Errorf("%s", out)
	}
	before := treeSum(t, dir)
	for line, want := range map[string]string{
		"ours.qcow2 b": "want --add", "--remove --add ours.qcow2 b": "--remove goes with nothing else", "--enable --disable ours.qcow2 b": "contradict",
		"-g 4k --clear ours.qcow2 b": "-g goes with", "-b other.qcow2 --clear ours.qcow2 b": "-b goes with", "--add -g zwei ours.qcow2 d": "-g zwei",
		"--add ours.qcow2 b": "already", "--add -g 3000 ours.qcow2 d": "power of two", "--remove ours.qcow2 x": "no bitmap", "--merge x ours.qcow2 b": "no bitmap",
		"--merge b -b missing.qcow2 ours.qcow2 b": "missing.qcow2",
	} {
		if _, errs, code := call(t, append([]string{"image", "bitmap"}, strings.Fields(line)...)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if after := treeSum(t, dir); after != before {
		t.Errorf("files differ: %s", after)
	}
}
