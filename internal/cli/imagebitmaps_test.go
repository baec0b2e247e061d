package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
