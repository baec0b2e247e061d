package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"golang.org/x/sync/errgroup"
)

// shell runs a script in dir; lines that fail end it.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	c := exec.Command("bash", "-euo", "pipefail", "-c", script)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}

// qemuImg returns what the real program writes, and its exit status.
func qemuImg(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command("qemu-img", args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); c.ProcessState == nil {
		t.Fatal(err) // not even started: the tool is needed
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// guestSum is the checksum of what a guest reads, by qemu-img's account.
func guestSum(t *testing.T, format, path string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if _, errs, code := qemuImg(t, "convert", "-f", format, "-O", "raw", path, raw); code != 0 {
		t.Fatalf("convert %s: %s", path, errs)
	}
	return fileSum(t, raw)
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// must runs the program and wants exit status 0.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := call(t, args...)
	if code != 0 {
		t.Fatalf("%q: exit %d, %s", args, code, errs)
	}
	return out
}

// zoo makes images of all sorts. A name that ends in .raw is a raw disk. Lines
// run side by side, up to a line that says all.
const zoo = `
q() { qemu-img "$@" >/dev/null; }
io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
new() { q create -f qcow2 "$@"; }
all() { local p; for p in $(jobs -p); do wait $p; done; }
new plain.qcow2 16M &
new empty.qcow2 0 &
new odd.qcow2 1000 &
new huge.qcow2 3T &
new v2.qcow2 -o compat=0.10 16M &
for c in 512 1k 4k 2M; do { new c$c.qcow2 -o cluster_size=$c 8M; io c$c.qcow2 "write -P 1 0 1M" "write -P 2 5000k 300k"; } & done
for b in 1 2 8 32 64; do { new r$b.qcow2 -o refcount_bits=$b 8M; io r$b.qcow2 "write -P 1 64k 256k"; } & done
{ new data.qcow2 16M;   io data.qcow2 "write -P 1 0 3M" "write -z 1M 300k" "write -P 2 9M 1000" "discard 2M 128k"; } &
{ new v2data.qcow2 -o compat=0.10 16M; io v2data.qcow2 "write -P 1 0 3M" "discard 2M 128k"; } &
{ new zeros.qcow2 4M;   io zeros.qcow2 "write -P 7 0 1M" "write -z 0 512k" "write -z 2M 512k" "write -zu 768k 64k"; } &
{ new ext.qcow2 -o extended_l2=on 16M; io ext.qcow2 "write -P 1 0 5k" "write -z 8k 2k" "write -P 2 100k 2k" "write -z 1M 1M"; } &
{ new ext512.qcow2 -o extended_l2=on,cluster_size=512k 16M; io ext512.qcow2 "write -P 1 0 20k" "write -P 1 3M 100k"; } &
new lazy.qcow2 -o lazy_refcounts=on 16M &
{ new dirty.qcow2 -o lazy_refcounts=on 16M; (qemu-io -f qcow2 -c "write 0 300k" -c abort dirty.qcow2 || true) >/dev/null 2>&1; } &
{ new snap.qcow2 16M; io snap.qcow2 "write -P 1 0 2M"; q snapshot -c one snap.qcow2; io snap.qcow2 "write -P 2 1M 2M"; q snapshot -c "two words" snap.qcow2; } &
{ new bits.qcow2 16M; q bitmap --add bits.qcow2 b0; q bitmap --add -g 128k bits.qcow2 "b one"; q bitmap --disable bits.qcow2 b0; } &
{ new meta.qcow2 -o preallocation=metadata 8M; io meta.qcow2 "write -P 1 512k 4k" "write -P 1 1536k 4k"; } &
{ new falloc.qcow2 -o preallocation=falloc 8M; io falloc.qcow2 "write -z 1M 1M"; } &
# qemu-img times its hash and fails when the clock saw no time pass: a slow hash, and again
luks() { qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.hash-alg=sha512,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 16M 2>/dev/null; }
{ for i in {1..50}; do ! luks || break; done; } &
qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 16M &
head -c 3000000 /dev/urandom > noise.raw
truncate -s 10M sparse.raw; qemu-io -f raw -c "write -P 9 2M 1M" -c "write -P 8 7M 4k" sparse.raw >/dev/null
truncate -s 0 none.raw
head -c 5000 /dev/urandom > cut.raw
(seq 1 300000 || true) | head -c 2000000 > text.raw; truncate -s 4M text.raw
all
q convert -c -f raw -O qcow2 text.raw zlib.qcow2 &
q convert -c -f raw -O qcow2 -o compression_type=zstd,cluster_size=16k text.raw zstd.qcow2 &
{ new overraw.qcow2 -b sparse.raw -F raw; io overraw.qcow2 "write -P 3 2500k 100k" "write -z 7M 64k"; } &
{ new long.qcow2 -b sparse.raw -F raw 20M; io long.qcow2 "write -P 3 15M 100k"; } &
{ new short.qcow2 -b data.qcow2 -F qcow2 2M; io short.qcow2 "write -P 4 100k 100k"; } &
all
{ new again.qcow2 -b short.qcow2 -F qcow2 16M; io again.qcow2 "write -P 5 12M 100k"; } &
{ new overzlib.qcow2 -b zlib.qcow2 -F qcow2; io overzlib.qcow2 "write -P 6 1M 64k"; } &
{ new overext.qcow2 -b ext.qcow2 -F qcow2 -o extended_l2=on 17M; io overext.qcow2 "write -P 6 4k 2k" "write -P 6 16500k 2k"; } &
{ mkdir -p sub; q create -f qcow2 -b ../data.qcow2 -F qcow2 sub/rel.qcow2; io sub/rel.qcow2 "write -P 4 0 64k"; } &
new abs.qcow2 -b $PWD/data.qcow2 -F qcow2 &
new gone.qcow2 -u -b nowhere.qcow2 -F qcow2 4M &
new json.qcow2 -u -b 'json:{"driver":"file","filename":"x"}' -F raw 4M &
new nbd.qcow2 -u -b nbd:localhost:1 -F raw 4M &
poke() { printf "$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
cp data.qcow2 leak.qcow2; poke leak.qcow2 $((131072+2*100)) '\0\1'; truncate -s 8M leak.qcow2
cp data.qcow2 bad.qcow2; poke bad.qcow2 $((131072+2*5)) '\0\0'
cp luks.qcow2 essiv.qcow2; l=$((4*65536)); poke essiv.qcow2 $((l+40)) 'cbc-essiv:sha256\0'; poke essiv.qcow2 $((l+72)) 'sha512\0'; poke essiv.qcow2 $((l+108)) '\0\0\0\20'
all
sync * sub/* # or else the sizes on disk change while they are compared
`

// makeZoo returns the directory, and the names of its images.
func makeZoo(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	shell(t, dir, zoo)
	for _, pattern := range []string{"*.qcow2", "*.raw", "sub/*.qcow2"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		names = append(names, found...)
	}
	if len(names) < 45 {
		t.Fatalf("%d images only", len(names))
	}
	return dir, names
}

func formatOf(path string) string { return strings.TrimPrefix(filepath.Ext(path), ".") }

// sameJSON compares what two programs mean.
func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// An oracle is what qemu-img says to some arguments.
type oracle struct {
	args      []string
	out, errs string
	code      int
}

// ask runs qemu-img for all, some at a time.
func ask(t *testing.T, all []*oracle) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(4)
	for _, o := range all {
		g.Go(func() error {
			o.out, o.errs, o.code = qemuImg(t, o.args...)
			return nil
		})
	}
	_ = g.Wait()
}

// infoMapCheck are the questions about one image.
func infoMapCheck(name, path string) []*oracle {
	f := formatOf(name)
	return []*oracle{
		{args: []string{"info", "-f", f, "--output=json", name}},
		{args: []string{"info", "-f", f, name}},
		{args: []string{"info", "-f", f, "--output=json", "--backing-chain", path}},
		{args: []string{"map", "-f", f, "--output=json", name}},
		{args: []string{"map", "-f", f, name}},
		{args: []string{"check", "-f", f, "--output=json", name}},
		{args: []string{"check", "-f", f, name}},
	}
}

func TestInfoMapAndCheckSayWhatQemuImgSays(t *testing.T) {
	dir, names := makeZoo(t)
	t.Chdir(dir)
	var all []*oracle
	for _, path := range names {
		name, _ := filepath.Rel(dir, path)
		all = append(all, infoMapCheck(name, path)...)
	}
	ask(t, all)
	for _, o := range all {
		args := append([]string{"image"}, o.args...)
		if strings.Contains(o.args[len(o.args)-1], "sub/") && o.args[0] != "check" {
			args = append(args, "--allow", ".")
		}
		out, errs, code := call(t, args...)
		if !o.agrees(out, errs, code) {
			t.Errorf("%q: exit %d\n%s%s\nqemu-img: exit %d\n%s%s", o.args, code, out, errs, o.code, o.out, o.errs)
		}
	}
}

// agrees tells whether the program said the same, or had a reason not to.
func (o *oracle) agrees(out, errs string, code int) bool {
	check, asJSON := o.args[0] == "check", slices.Contains(o.args, "--output=json")
	switch {
	case check && strings.Contains(o.errs, "Could not open"):
		return code == 0 // no key and no backing file is needed here
	case o.code != 0 && !check:
		return code != 0 && strings.Count(errs, "\n") == 1
	case code != o.code:
		return false
	case asJSON:
		return sameJSON(out, o.out) || out == o.out
	case check:
		return strings.HasSuffix(out, o.out) // the problems come before
	}
	return out == o.out
}

func TestCheckRepairsAsQemuImgDoes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
qemu-img create -q -f qcow2 good 8M; qemu-io -t unsafe -f qcow2 -c "write -P 1 0 3M" good >/dev/null
poke() { printf "$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
cp good leak; poke leak $((131072+2*100)) '\0\1'; truncate -s 8M leak
cp good low; poke low $((131072+2*7)) '\0\0'
cp low both; poke both $((131072+2*100)) '\0\1'; truncate -s 8M both`)
	for _, line := range []string{"-r leaks leak", "-r all leak", "-r all low", "-r all both", "-r all good", "leak", "low"} {
		fields := strings.Fields(line)
		name := fields[len(fields)-1]
		shell(t, dir, "cp "+name+" theirs; cp "+name+" ours")
		fields[len(fields)-1] = "theirs"
		want, _, code := qemuImg(t, append([]string{"check", "-f", "qcow2", "--output=json"}, fields...)...)
		fields[len(fields)-1] = "ours"
		out, errs, ourCode := call(t, append([]string{"image", "check", "--output=json"}, fields...)...)
		// QEMU makes all refcounts anew where one of them has to be raised.
		same := sameJSON(strings.ReplaceAll(out, "ours", "theirs"), want) || name != "leak" && code == 0
		if ourCode != code || !same {
			t.Errorf("%s: exit %d\n%s%s\nqemu-img: exit %d\n%s", line, ourCode, out, errs, code, want)
		}
		if code == 0 {
			mustBe(t, line, map[string]string{"ours": guestSum(t, "qcow2", name)})
		}
	}
}

func TestCheckHasItsOwnExitStatuses(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "qemu-img create -q -f qcow2 a 1M; truncate -s 1M raw; qemu-img create -q -f qcow2 cut 1M; truncate -s 1000 cut")
	for line, want := range map[string]int{
		"a": term.ExitDone, "-q a": term.ExitDone, "missing": images.ExitCheckFailed, "-r some a": images.ExitCheckFailed, "--frob a": images.ExitCheckFailed, "a a": images.ExitCheckFailed,
		"raw": images.ExitCheckFailed, "-f raw raw": images.ExitNotCheckable, "-f vmdk raw": images.ExitCheckFailed, "cut": images.ExitCheckFailed,
	} {
		out, errs, code := call(t, append([]string{"image", "check"}, strings.Fields(line)...)...)
		if code != want || (code == 0) != (errs == "") || strings.Contains(line, "-q") && out != "" {
			t.Errorf("%s: exit %d, %q %q; want %d", line, code, out, errs, want)
		}
	}
}
