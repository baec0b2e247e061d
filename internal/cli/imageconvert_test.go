package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// sources are disks with data of all sorts; far.raw repeats itself at distances
// that a window of 4 KiB does not reach, and tight.raw shrinks by some bytes only.
const sources = `
io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
head -c 5000 noise > five; head -c 30000 noise > thirty
{ for i in $(seq 60); do cat five; done; for i in $(seq 30); do cat thirty; done; seq 100000; head -c 500000 noise; } > far.raw
truncate -s 5000000 far.raw
for i in $(seq 9); do dd if=noise iflag=skip_bytes,count_bytes skip=$((i*65300)) count=65400 status=none; head -c 136 /dev/zero; done > tight.raw
rm five thirty noise
qemu-img create -q -f qcow2 base.qcow2 8M; io base.qcow2 "write -P 1 0 2M" "write -P 0 3M 512k" "write -P 2 5000k 1000"
qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 over.qcow2 9M; io over.qcow2 "write -P 3 1M 5k" "write -z 64k 256k" "write -P 4 8900k 4k"
qemu-img create -q -f qcow2 -o extended_l2=on -b over.qcow2 -F qcow2 top.qcow2; io top.qcow2 "write -P 5 2000k 3k" "write -z 1M 4k" "discard 5000k 64k"
qemu-img convert -c -f raw -O qcow2 far.raw packed.qcow2
qemu-img convert -c -f raw -O qcow2 tight.raw tight.qcow2
qemu-img create -q -f qcow2 odd.qcow2 1000
`

// newSources returns a directory with sources, which is the current one.
func newSources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	if err := os.WriteFile("noise", noise, 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, sources)
	return dir
}

func TestConvertKeepsWhatTheGuestReads(t *testing.T) {
	newSources(t)
	for _, src := range []string{"far.raw", "top.qcow2", "packed.qcow2", "tight.qcow2", "odd.qcow2"} {
		want := guestSum(t, formatOf(src), src)
		before := fileSum(t, src)
		for _, line := range []string{
			"", "-O qcow2", "-O qcow2 -S 0", "-O qcow2 -o compat=0.10", "-O qcow2 -o cluster_size=4k", "-O qcow2 -o extended_l2=on,cluster_size=2M",
			"-c -O qcow2", "-c -O qcow2 -o compression_type=zstd", "-c -O qcow2 -o cluster_size=512,refcount_bits=1",
			"-c -O qcow2 -o cluster_size=2M",
		} {
			args := append([]string{"image", "convert", "-f", formatOf(src)}, strings.Fields(line)...)
			must(t, append(args, src, "new")...)
			checkConverted(t, src+" "+line, want)
		}
		if fileSum(t, src) != before {
			t.Errorf("%s: the source was changed", src)
		}
	}
}

// checkConverted looks at the image new, and removes it.
func checkConverted(t *testing.T, line, want string) {
	t.Helper()
	format := "raw"
	if strings.Contains(line, "-O qcow2") {
		format = "qcow2"
		out, errs, code := qemuImg(t, "check", "-f", format, "--output=json", "new")
		var check struct {
			Compressed int64 `json:"compressed-clusters"`
		}
		if err := json.Unmarshal([]byte(out), &check); code != 0 || err != nil {
			t.Errorf("%s: check: exit %d, %s%s %v", line, code, out, errs, err)
		}
		if strings.Contains(line, "-c") && !strings.HasPrefix(line, "odd") && !strings.HasPrefix(line, "tight") && check.Compressed == 0 {
			t.Errorf("%s: no compressed cluster: %s", line, out)
		}
	}
	if got := guestSum(t, format, "new"); got != want {
		t.Errorf("%s: the guest reads other data", line)
	}
	if info, err := os.Stat("new"); err != nil || info.Mode() != 0o600 {
		t.Errorf("%s: %v, %v", line, info.Mode(), err)
	}
	if err := os.Remove("new"); err != nil {
		t.Fatal(err)
	}
}

// Zeros that are data are left out, unless -S 0 says that they are to be kept.
func TestConvertLeavesZerosOutWhereItIsTold(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `qemu-img create -q -f qcow2 a 8M; qemu-io -f qcow2 -c "write -P 0 0 4M" -c "write -P 1 4M 64k" a >/dev/null
qemu-img convert -f qcow2 -O raw -S 0 a raw`)
	for _, c := range []struct {
		args   string
		sparse bool
	}{
		{"-f qcow2 a", true}, {"-f qcow2 -S 4k a", true}, {"-f qcow2 -S 0 a", false},
		{"-f raw raw", true}, {"-f raw -S 4k raw", true}, {"-f raw -S 0 raw", false},
	} {
		must(t, append(append([]string{"image", "convert", "-O", "qcow2"}, strings.Fields(c.args)...), "new")...)
		if info, err := os.Stat("new"); err != nil || (info.Size() < 1<<20) != c.sparse {
			t.Errorf("%s: %d bytes, %v", c.args, info.Size(), err)
		}
		if err := os.Remove("new"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConvertOfAChainKeepsAllLayers(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `qemu-img create -q -f qcow2 -b far.raw -F raw far.snap1 && qemu-io -t unsafe -f qcow2 -c "write -P 9 64k 1M" far.snap1 >/dev/null`)
	for _, line := range []string{"", "-c", "-c -o compression_type=zstd,cluster_size=128k", "-o compat=0.10"} {
		args := append([]string{"image", "convert", "--chain"}, strings.Fields(line)...)
		must(t, append(args, "top.qcow2", "new")...)
		for _, name := range []string{"base.qcow2", "over.qcow2", "top.qcow2"} {
			if guestSum(t, "qcow2", "new/"+name) != guestSum(t, "qcow2", name) {
				t.Errorf("%s: %s: the guest reads other data", line, name)
			}
			if out, errs, code := qemuImg(t, "check", "new/"+name); code != 0 {
				t.Errorf("%s: %s: %s%s", line, name, out, errs)
			}
		}
		info := infoOf(t, "new/top.qcow2")
		if info["backing-filename"] != "over.qcow2" || info["backing-filename-format"] != "qcow2" {
			t.Errorf("%s: %v", line, info)
		}
		shell(t, dir, "rm new/*; rmdir new; mkdir new")
	}
	must(t, "image", "convert", "--chain", "far.snap1", "new")
	if guestSum(t, "qcow2", "new/far.snap1.qcow2") != guestSum(t, "qcow2", "far.snap1") || guestSum(t, "qcow2", "new/far.qcow2") != guestSum(t, "raw", "far.raw") {
		t.Error("far.snap1: the guest reads other data")
	}
}

func TestEachLayerOfAConvertedChainHasItsOwnData(t *testing.T) {
	newSources(t)
	must(t, "image", "convert", "--chain", "-o", "cluster_size=4k", "over.qcow2", "new")
	want, _, _ := qemuImg(t, "map", "--output=json", "over.qcow2")
	got, _, _ := qemuImg(t, "map", "--output=json", "new/over.qcow2")
	if a, b := ownData(t, want), ownData(t, got); !slices.Equal(a, b) {
		t.Errorf("own data %v, want %v", b, a)
	}
}

// ownData lists the stretches of a map that the uppermost layer has.
func ownData(t *testing.T, text string) (own [][2]int64) {
	t.Helper()
	var list []struct {
		Start, Length int64
		Depth         int
		Present       bool
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if k := len(own) - 1; m.Depth != 0 || !m.Present {
			continue
		} else if k >= 0 && own[k][0]+own[k][1] == m.Start {
			own[k][1] += m.Length
		} else {
			own = append(own, [2]int64{m.Start, m.Length})
		}
	}
	return own
}

func TestLayersWithOneNameAreNumbered(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `mkdir a; truncate -s 1M web.img a/web.raw; qemu-img create -q -f qcow2 -b web.img -F raw web.qcow2; qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 web.s1`)
	must(t, "image", "convert", "--chain", "web.s1", "new")
	if got := shell(t, dir, "ls new"); got != "web-2.qcow2\nweb.qcow2\nweb.s1.qcow2\n" {
		t.Error(got)
	}
	if got := infoOf(t, "new/web-2.qcow2"); got["backing-filename"] != "web.qcow2" {
		t.Error(got)
	}
}

func TestConvertRefusesAndLeavesNothing(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `mkdir full void; touch full/x; ln -s nowhere link; touch once; ln once twice; truncate -s 1000 small
cp packed.qcow2 cut.qcow2; truncate -s 400k cut.qcow2`)
	before := treeSum(t, dir)
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"top.qcow2 base.qcow2", "it is an image that is read", term.ExitRefused},
		{"-f raw far.raw base.qcow2", "over.qcow2: it builds on ", term.ExitRefused},
		{"top.qcow2 link", "it is a symbolic link", term.ExitRefused},
		{"top.qcow2 twice", "it has 2 names", term.ExitRefused},
		{"top.qcow2 void", "it is a directory", term.ExitRefused},
		{"-n -O raw top.qcow2 small", "it has 1024 bytes", term.ExitRefused},
		{"-n -O raw top.qcow2 base.qcow2", "it has 3014656 bytes", term.ExitRefused},
		{"-n -O qcow2 tight.qcow2 base.qcow2", "over.qcow2: it builds on ", term.ExitRefused},
		{"-n odd.qcow2 packed.qcow2", "-O does not say so", term.ExitRefused},
		{"-n -O raw odd.qcow2 gone", "gone", term.ExitFailed},
		{"-n -c -O qcow2 odd.qcow2 packed.qcow2", "--compress is for new images", term.ExitUsage},
		{"-n -O qcow2 -o compat=1.1 odd.qcow2 packed.qcow2", "--options is for new images", term.ExitUsage},
		{"--target-is-zero odd.qcow2 new", "goes with -n", term.ExitUsage},
		{"--chain top.qcow2 full", "not empty", term.ExitRefused},
		{"--chain top.qcow2 far.raw", "not a directory", term.ExitRefused},
		{"--chain -O raw top.qcow2 new", "cannot have a backing file", term.ExitUsage},
		{"-c top.qcow2 new", "cannot be compressed", term.ExitUsage},
		{"-S x top.qcow2 new", "-S x", term.ExitUsage},
		{"-O qcow2 -o size=1M top.qcow2 new", "the size of the source", term.ExitUsage},
		{"-O vmdk top.qcow2 new", "vmdk", term.ExitUsage},
		{"far.raw new", "-f raw", term.ExitRefused},
		{"-O qcow2 cut.qcow2 new", "cut.qcow2", term.ExitFailed},
		{"--chain -c cut.qcow2 new", "cut.qcow2", term.ExitFailed},
		{"--chain cut.qcow2 void", "cut.qcow2", term.ExitFailed},
		{"-O qcow2 -o cluster_size=3 top.qcow2 new", "cluster size 3", term.ExitFailed},
		{"-O qcow2 top.qcow2 nodir/new", "nodir", term.ExitFailed},
		{"--dry-run -O qcow2 top.qcow2 new", "", term.ExitDone},
		{"--dry-run --chain top.qcow2 new", "", term.ExitDone},
	} {
		_, errs, code := call(t, append([]string{"image", "convert"}, strings.Fields(c.line)...)...)
		if code != c.code || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") > 1 {
			t.Errorf("%s: exit %d, %q; want exit %d, %q", c.line, code, errs, c.code, c.want)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ:\n%s\nbefore:\n%s", c.line, after, before)
		}
	}
}

// A fuse is a context that is cancelled when it was asked n times.
type fuse struct {
	context.Context
	cancel context.CancelFunc
	left   *atomic.Int64
}

func newFuse(ctx context.Context, n int) fuse {
	ctx, cancel := context.WithCancel(ctx)
	left := &atomic.Int64{}
	left.Store(int64(n))
	return fuse{ctx, cancel, left}
}

func (f fuse) Err() error {
	if f.left.Add(-1) < 0 {
		f.cancel()
	}
	return f.Context.Err()
}

func (f fuse) Deadline() (time.Time, bool) { return time.Time{}, false }

// callCtx runs the program in-process.
func callCtx(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = Run(ctx, "dev", args, &out, &errs)
	return out.String(), errs.String(), code
}

func TestConvertThatIsInterruptedLeavesNothing(t *testing.T) {
	dir := newSources(t)
	before := treeSum(t, dir)
	for _, line := range []string{"-O qcow2 far.raw new", "-c -O qcow2 far.raw new", "--chain top.qcow2 new"} {
		args := append([]string{"image", "convert", "-f", formatOf(strings.Fields(line)[len(strings.Fields(line))-2])}, strings.Fields(line)...)
		stopped := 0
		for n := 0; ; n += 1 + n/4 {
			_, errs, code := callCtx(newFuse(t.Context(), n), args...)
			if code == term.ExitDone {
				break
			}
			stopped++
			if code != term.ExitFailed || !strings.Contains(errs, "interrupted") {
				t.Fatalf("%s, cancelled at %d: exit %d, %q", line, n, code, errs)
			}
			if after := treeSum(t, dir); after != before {
				t.Fatalf("%s, cancelled at %d: files differ:\n%s", line, n, after)
			}
		}
		if stopped < 3 {
			t.Errorf("%s: %d interruptions only", line, stopped)
		}
		shell(t, dir, "rm -r new")
	}
	if left, _ := filepath.Glob(".virt-rotate-*"); len(left) > 0 {
		t.Error(left)
	}
}

// virt-install and virt-manager make images with clusters for the whole disk. What was never
// written is not copied, whatever makes an image out of such a one.
func TestWhatWasNeverWrittenIsNotCopied(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 -o preallocation=metadata base.qcow2 64M
		qemu-io -f qcow2 -c "write -P 1 1M 1M" -c "write -P 3 3M 5k" -c "write -P 4 63M 1M" base.qcow2 >/dev/null
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
		qemu-io -f qcow2 -c "write -P 2 3M 64k" -c "write -z 1M 64k" top.qcow2 >/dev/null
		for f in pulled rebased; do cp top.qcow2 $f.qcow2; done`)
	want := guestSum(t, "qcow2", "top.qcow2")
	must(t, "image", "convert", "top.qcow2", "new.raw")
	must(t, "image", "convert", "-O", "qcow2", "top.qcow2", "new.qcow2")
	must(t, "image", "convert", "-c", "-O", "qcow2", "top.qcow2", "packed.qcow2")
	must(t, "image", "convert", "-O", "vhd", "top.qcow2", "new.vhd")
	must(t, "image", "convert", "--chain", "top.qcow2", "chain")
	must(t, "image", "pull", "pulled.qcow2")
	must(t, "image", "rebase", "-b", "", "rebased.qcow2")
	for file, format := range map[string]string{"new.raw": "raw", "new.qcow2": "qcow2", "packed.qcow2": "qcow2", "new.vhd": "vhd", "pulled.qcow2": "qcow2", "rebased.qcow2": "qcow2", "chain/top.qcow2": "qcow2"} {
		sum := guestSum
		if format == "vhd" { // QEMU goes by its geometry
			sum = flat
		}
		if have := sum(t, format, file); have != want {
			t.Errorf("%s: %s, want %s", file, have, want)
		}
	}
	for _, file := range []string{"new.raw", "new.qcow2", "packed.qcow2", "pulled.qcow2", "rebased.qcow2", "chain/base.qcow2", "new.vhd"} {
		if info, err := vfs.Stat(file); err != nil || info.Allocated > 8<<20 {
			t.Errorf("%s has %d bytes on disk, %v", file, info.Allocated, err)
		}
	}
	for _, file := range []string{"chain/base.qcow2", "new.qcow2", "pulled.qcow2"} {
		shell(t, dir, "qemu-img check -q -f qcow2 "+file)
	}
}
