package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// infoOf is qemu-img's account of an image, without what differs between two
// that were made alike.
func infoOf(t *testing.T, path string) map[string]any {
	t.Helper()
	out, errs, code := qemuImg(t, "info", "--output=json", path)
	info := map[string]any{}
	if err := json.Unmarshal([]byte(out), &info); code != 0 || err != nil {
		t.Fatalf("%s: %s %v", path, errs, err)
	}
	delete(info, "filename")
	delete(info, "actual-size")
	return info
}

func TestCreateMakesWhatQemuImgMakes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "qemu-img create -q -f qcow2 base.qcow2 5M; truncate -s 3M base.raw")
	for _, line := range []string{
		"-f qcow2 x 64M", "-f qcow2 x 1000", "-f qcow2 x 0", "-f qcow2 x 1.5G", "-f qcow2 x 8T", "-f qcow2 x 123456789",
		"-f qcow2 -o cluster_size=512 x 64M", "-f qcow2 -o cluster_size=2M x 64G", "-f qcow2 -o cluster_size=4k,compat=0.10 x 1G",
		"-f qcow2 -o compat=1.1 -o lazy_refcounts=on x 64M", "-f qcow2 -o compat=v3,refcount_bits=1 x 64M",
		"-f qcow2 -o refcount_bits=64 x 64M", "-f qcow2 -o extended_l2=on,cluster_size=128k x 64M",
		"-f qcow2 -o compression_type=zstd x 64M", "-f qcow2 -o size=10M x", "-f qcow2 -b base.qcow2 -F qcow2 x",
		"-f qcow2 -b base.qcow2 -F qcow2 x 1M", "-f qcow2 -o compat=0.10 -b base.qcow2 -F qcow2 x 9M", "-f qcow2 -b base.raw -F raw x",
		"-f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 x", "-f qcow2 -u -b gone.qcow2 -F qcow2 x 7M",
		"-f qcow2 -b " + filepath.Join(dir, "base.qcow2") + " -F qcow2 x", "-f raw x 3M", "x 1001",
		"-f qcow2 -o preallocation=metadata x 64M", "-f qcow2 -o preallocation=falloc,cluster_size=4k x 3M", "-f qcow2 -o preallocation=full,extended_l2=on x 3M",
		"-f raw -o preallocation=falloc x 3M", "-f raw -o preallocation=full x 3M",
	} {
		args := append([]string{"create"}, strings.Fields(line)...)
		want, errs, code := qemuImg(t, args...)
		if code != 0 {
			t.Fatalf("qemu-img %s: %s", line, errs)
		}
		if err := os.Rename("x", "theirs"); err != nil {
			t.Fatal(err)
		}
		if out := must(t, append([]string{"image"}, args...)...); out != want {
			t.Errorf("%s: %q, want %q", line, out, want)
		}
		checkCreated(t, line)
		if err := os.Remove("x"); err != nil {
			t.Fatal(err)
		}
	}
}

// checkCreated compares image x with theirs.
func checkCreated(t *testing.T, line string) {
	t.Helper()
	info, err := os.Stat("x")
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%s: mode %v, %v", line, info.Mode(), err)
	}
	if !strings.Contains(line, "qcow2") {
		if want, _ := os.Stat("theirs"); info.Size() != want.Size() {
			t.Errorf("%s: %d bytes, want %d", line, info.Size(), want.Size())
		}
		return
	}
	if a, b := mustStat(t, "x"), mustStat(t, "theirs"); strings.Contains(line, "preallocation") && a.Size() != b.Size() {
		t.Errorf("%s: %d bytes, want %d", line, a.Size(), b.Size())
	}
	if got, want := infoOf(t, "x"), infoOf(t, "theirs"); !equalJSON(got, want) {
		t.Errorf("%s: %v, want %v", line, got, want)
	}
	if strings.Contains(line, "gone") {
		return
	}
	if out, errs, code := qemuImg(t, "check", "-f", "qcow2", "x"); code != 0 {
		t.Errorf("%s: %s%s", line, out, errs)
	}
	if strings.HasSuffix(line, "x 0") || strings.HasSuffix(line, "x 1000") {
		return
	}
	shell(t, ".", `qemu-io -f qcow2 -c "write -P 7 64k 512k" -c "read -P 7 64k 512k" x >/dev/null && qemu-img check -q -f qcow2 x`)
}

func equalJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func TestCreateLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "qemu-img create -q -f qcow2 base.qcow2 5M; qemu-img create -q -f qcow2 -u -F qcow2 -b json:{} json.qcow2 1M; ln -s nowhere link")
	before := treeSum(t, dir)
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"-f qcow2 base.qcow2 1M", term.ExitRefused, "base.qcow2: it is there already"},
		{"-f raw link 1M", term.ExitRefused, "link: it is there already"},
		{"-f qcow2 -o preallocation=most x 1M", term.ExitUsage, "off, metadata, falloc, full"},
		{"-f qcow2 -o preallocation=full -b base.qcow2 -F qcow2 x", term.ExitUsage, "builds on another one"},
		{"-f qcow2 x", term.ExitUsage, "how large"},
		{"-f qcow2 x 1Q", term.ExitUsage, "1Q"},
		{"-f qcow2 x -1", term.ExitUsage, "-1"},
		{"-f qcow2 x 1 2", term.ExitUsage, "wants FILE [SIZE]"},
		{"-f vmdk x 1M", term.ExitUsage, `"vmdk" is not a format`},
		{"-f qcow2 -b base.qcow2 x", term.ExitUsage, "-F qcow2"},
		{"-f qcow2 -F qcow2 x 1M", term.ExitUsage, "-F goes with -b"},
		{"-f raw -b base.qcow2 -F qcow2 x", term.ExitUsage, "cannot have a backing file"},
		{"-f qcow2 -b base.qcow2 -F vmdk x", term.ExitUsage, "vmdk"},
		{"-f qcow2 -b base.qcow2 -F raw -o frob=1 x", term.ExitUsage, "no such option"},
		{"-f raw -o cluster_size=4k x 1M", term.ExitUsage, "no such option"},
		{"-f qcow2 -o cluster_size=on x 1M", term.ExitUsage, "cluster_size=on"},
		{"-f qcow2 -o lazy_refcounts=1 x 1M", term.ExitUsage, "want on or off"},
		{"-f qcow2 -o compat=2 x 1M", term.ExitUsage, "0.10 or 1.1"},
		{"-f qcow2 -o cluster_size=100 x 1M", term.ExitFailed, "cluster size 100"},
		{"-f qcow2 -o cluster_size=8M x 1M", term.ExitFailed, "cluster_bits"},
		{"-f qcow2 -o compat=0.10,compression_type=zstd x 1M", term.ExitFailed, "version 3"},
		{"-f qcow2 -o refcount_bits=3 x 1M", term.ExitFailed, "refcount width 3"},
		{"-f qcow2 -b nbd:localhost:1 -F raw x 1M", term.ExitRefused, "not a plain path"},
		{"-f qcow2 -b json.qcow2 -F qcow2 x", term.ExitRefused, "not a plain path"},
		{"-f qcow2 -b gone.qcow2 -F qcow2 x 1M", term.ExitFailed, "gone.qcow2"},
		{"-f qcow2 -b base.qcow2 -F qcow2 nodir/x", term.ExitFailed, "nodir"},
		{"--dry-run -f qcow2 x 1M", term.ExitDone, ""},
	} {
		_, errs, code := call(t, append([]string{"image", "create"}, strings.Fields(c.line)...)...)
		if code != c.code || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") > 1 {
			t.Errorf("%s: exit %d, %q; want exit %d, %q", c.line, code, errs, c.code, c.want)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ:\n%s\nbefore:\n%s", c.line, after, before)
		}
	}
}

// treeSum tells names, modes and checksums of all that is in dir.
func treeSum(t *testing.T, dir string) string {
	t.Helper()
	return shell(t, dir, `find . ! -name . -printf '%p %m %l\n' | sort; find . -type f -exec sha256sum {} + | sort`)
}
