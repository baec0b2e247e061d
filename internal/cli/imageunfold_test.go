package cli

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// unfolded runs the command and returns what it tells.
func unfolded(t *testing.T, args ...string) image.UnfoldReport {
	t.Helper()
	var r image.UnfoldReport
	if err := json.Unmarshal([]byte(must(t, append([]string{"image", "unfold", "--output=json"}, args...)...)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// wantStates compares each layer with what qemu-img reads of the internal snapshot.
func wantStates(t *testing.T, r image.UnfoldReport) {
	t.Helper()
	for _, l := range r.Layers {
		raw := filepath.Join(t.TempDir(), "raw")
		args := []string{"convert", "-f", "qcow2", "-O", "raw"}
		if l.ID != "" {
			args = append(args, "-l", "snapshot.id="+l.ID)
		}
		if _, errs, code := qemuImg(t, append(args, r.Path, raw)...); code != 0 {
			t.Fatal(errs)
		}
		if guestSum(t, "qcow2", l.Path) != fileSum(t, raw) {
			t.Errorf("%s does not read as snapshot %q", l.Path, l.ID)
		}
		if out, _, code := qemuImg(t, "check", "-f", "qcow2", l.Path); code != 0 {
			t.Errorf("%s: %s", l.Path, out)
		}
	}
}

// pastOf is random writes, snapshots, and ways back to them.
func pastOf(rng *rand.Rand, size int) string {
	var b strings.Builder
	snapshots := 0
	for range 6 + rng.IntN(14) {
		off, n := rng.IntN(size/512)*512, (1+rng.IntN(200))*512
		n = min(n, size-off)
		switch k := rng.IntN(12); {
		case k < 3 || snapshots == 0 && k > 9:
			fmt.Fprintf(&b, "io 'write -P %d %d %d'\n", 1+rng.IntN(250), off, n)
		case k == 3:
			fmt.Fprintf(&b, "io 'write -P 0 %d %d'\n", off, n)
		case k == 4:
			fmt.Fprintf(&b, "io 'write -z -u %d %d'\n", off, n)
		case k == 5:
			fmt.Fprintf(&b, "io 'discard %d %d'\n", off, n)
		case k == 6:
			fmt.Fprintf(&b, "io 'write -z %d %d'\n", off, n)
		case k < 10:
			snapshots++
			fmt.Fprintf(&b, "qemu-img snapshot -c s%d disk.qcow2\n", snapshots)
		default:
			fmt.Fprintf(&b, "qemu-img snapshot -a s%d disk.qcow2\n", 1+rng.IntN(snapshots))
		}
	}
	fmt.Fprintf(&b, "qemu-img snapshot -c last disk.qcow2\n")
	return b.String()
}

// TestEachInternalSnapshotBecomesALayerWithItsState takes random images of many kinds,
// with a backing file and without. They are made compact before or after.
func TestEachInternalSnapshotBecomesALayerWithItsState(t *testing.T) {
	kinds := []string{"", "compat=0.10", "cluster_size=512", "cluster_size=4k,refcount_bits=8", "extended_l2=on,cluster_size=16k", "cluster_size=2M", "refcount_bits=64"}
	seeds := 1
	if os.Getenv("VIRT_ROTATE_CHAINS") != "" {
		seeds = 40
	}
	for seed := range seeds * len(kinds) {
		options, rng := kinds[seed%len(kinds)], rand.New(rand.NewPCG(uint64(seed), 1))
		t.Run(fmt.Sprintf("%d %s", seed, options), func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			const size = 1<<20 + 512
			backing := ""
			if rng.IntN(2) == 0 {
				shell(t, dir, fmt.Sprintf(`qemu-img create -q -f qcow2 base.qcow2 %d; qemu-io -f qcow2 -c 'write -P 99 0 %d' -c 'discard 64k 64k' base.qcow2 >/dev/null`, size/2+1024-size/2%512, size/2/512*512))
				backing = "-b base.qcow2 -F qcow2"
			}
			script := fmt.Sprintf("io() { qemu-io -t unsafe -f qcow2 -c \"$1\" disk.qcow2 >/dev/null; }\nqemu-img create -q -f qcow2 %s %s disk.qcow2 %d\n",
				backing, optionArgs(options), size) + pastOf(rng, size)
			shell(t, dir, script)
			if rng.IntN(2) == 0 {
				must(t, "image", "compact", "disk.qcow2")
			}
			was := fileSum(t, "disk.qcow2")
			r := unfolded(t, "--to", "out", "disk.qcow2")
			wantStates(t, r)
			if fileSum(t, "disk.qcow2") != was {
				t.Error("the image was changed")
			}
			if t.Failed() {
				t.Log(script)
			}
		})
	}
}

func optionArgs(options string) string {
	if options == "" {
		return ""
	}
	return "-o " + options
}

// A disk that was made larger and smaller: each layer is what a revert to its snapshot gives,
// with the size of then (qemu-img convert -l reads it with the size of now).
func TestUnfoldedSnapshotsHaveTheSizesOfThen(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `qemu-img create -q -f qcow2 base.qcow2 3M; qemu-io -f qcow2 -c "write -P 9 0 3M" base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 2M
io() { qemu-io -t unsafe -f qcow2 -c "$1" disk.qcow2 >/dev/null; }
io "write -P 1 0 200k"; qemu-img snapshot -c small disk.qcow2
qemu-img resize -q disk.qcow2 5M; io "write -P 2 4M 600k"; qemu-img snapshot -c big disk.qcow2
qemu-img resize -q --shrink disk.qcow2 1M; io "write -P 4 100k 600k"; io "write -P 0 800k 100k"; qemu-img snapshot -c tiny disk.qcow2
qemu-img resize -q disk.qcow2 6M`)
	must(t, "image", "compact", "disk.qcow2")
	for _, l := range unfolded(t, "--to", "out", "disk.qcow2").Layers {
		shell(t, dir, "cp disk.qcow2 back.qcow2")
		if l.ID != "" {
			shell(t, dir, "qemu-img snapshot -a "+l.ID+" back.qcow2")
		}
		if guestSum(t, "qcow2", l.Path) != guestSum(t, "qcow2", "back.qcow2") {
			t.Errorf("%s is not what a revert gives", l.Path)
		}
	}
}

// Where a state has nothing and the layer below has data, the data is hidden: by zeros, or
// by what the backing file of the image has there.
func TestUnfoldedHolesHideWhatIsBelow(t *testing.T) {
	for name, script := range map[string]string{
		"version 2": `qemu-img create -q -f qcow2 -o compat=0.10 disk.qcow2 1M; io "write -P 1 0 1M"; snap full; io "discard 256k 256k"; snap less; io "discard 0 64k"`,
		"a backing file": `qemu-img create -q -f qcow2 base.qcow2 1M; qemu-io -f qcow2 -c "write -P 9 0 700k" base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2; snap empty; io "write -P 1 0 1M"; snap full; qemu-img snapshot -a empty disk.qcow2
qemu-img snapshot -d empty disk.qcow2; io "write -P 2 0 64k"`,
		"no backing file": `qemu-img create -q -f qcow2 disk.qcow2 1M; snap empty; io "write -P 1 0 1M"; snap full; qemu-img snapshot -a empty disk.qcow2
qemu-img snapshot -d empty disk.qcow2; io "write -P 2 0 64k"`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			shell(t, dir, `io() { qemu-io -t unsafe -f qcow2 -c "$1" disk.qcow2 >/dev/null; }; snap() { qemu-img snapshot -c $1 disk.qcow2; }
`+script)
			wantStates(t, unfolded(t, "--to", "out", "disk.qcow2"))
		})
	}
}

// Branches become branches: nothing is stored twice.
func TestUnfoldedBranchesShareWhatTheyShared(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `qemu-img create -q -f qcow2 disk.qcow2 8M
io() { qemu-io -t unsafe -f qcow2 -c "$1" disk.qcow2 >/dev/null; }
io 'write -P 1 0 2M'; qemu-img snapshot -c root disk.qcow2
io 'write -P 2 2M 384k'; qemu-img snapshot -c left disk.qcow2
io 'write -P 3 4M 128k'; qemu-img snapshot -c leaf disk.qcow2
qemu-img snapshot -a root disk.qcow2; io 'write -P 4 0 256k'; qemu-img snapshot -c right disk.qcow2
qemu-img snapshot -a left disk.qcow2; io 'write -P 5 0 128k'`)
	r := unfolded(t, "--to", "out", "disk.qcow2")
	wantStates(t, r)
	want := map[string]string{"root": "", "left": "disk.root.qcow2", "leaf": "disk.left.qcow2", "right": "disk.root.qcow2", "": "disk.left.qcow2"}
	var total int64
	for _, l := range r.Layers {
		parent := l.Parent
		if parent != "" {
			parent = filepath.Base(parent)
		}
		if parent != want[l.Name] {
			t.Errorf("%q builds on %q", l.Name, parent)
		}
		total += l.Bytes
	}
	if total != (2048+384+128+256+128)<<10 {
		t.Errorf("%d bytes were copied", total)
	}
}

// No name of a snapshot leads out of the directory, or to the terminal.
func TestNamesOfSnapshotsAreNotBelieved(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `qemu-img create -q -f qcow2 disk.qcow2 1M
for n in ../../etc/passwd '-rf' $'new\nline' $'\e[31mred' ... '' 'a b' 'a_b' ümlaut `+strings.Repeat("long", 50)+` disk; do qemu-img snapshot -c "$n" disk.qcow2; done`)
	out := must(t, "image", "unfold", "--to", "out", "disk.qcow2")
	if strings.ContainsAny(out, "\x1b") || strings.Count(out, "\n") != 12 {
		t.Errorf("%q", out)
	}
	entries, err := os.ReadDir("out")
	if err != nil || len(entries) != 12 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if len(e.Name()) > 200 || strings.Trim(e.Name(), "abcdefghijklmnopqrstuvwxyz0123456789[]._-") != "" {
			t.Errorf("%q", e.Name())
		}
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestUnfoldThatIsRefusedChangesNothing(t *testing.T) {
	dir := lavish(t)
	shell(t, dir, "mkdir full empty; touch full/x; qemu-img create -q -f qcow2 none.qcow2 1M")
	before := treeSum(t, dir)
	for line, want := range map[string]string{
		"--to full base.qcow2":        "not empty",
		"--to disk.raw base.qcow2":    "a new or an empty directory",
		"--to new none.qcow2":         "no internal snapshots",
		"--to new -f raw disk.raw":    "no internal snapshots",
		"--to empty none.qcow2":       "no internal snapshots",
		"--to new --dry-run disk.raw": "its format",
	} {
		_, errs, code := call(t, append([]string{"image", "unfold"}, strings.Fields(line)...)...)
		if code == 0 || code == term.ExitFailed || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if _, errs, code := call(t, "image", "unfold", "base.qcow2"); code != term.ExitUsage {
		t.Errorf("exit %d, %s", code, errs)
	}
	must(t, "image", "unfold", "--dry-run", "--to", "new", "base.qcow2")
	if treeSum(t, dir) != before {
		t.Error("something was changed")
	}
	must(t, "image", "unfold", "--to", "empty", "over.qcow2")
	wantStates(t, unfolded(t, "--to", "new", "over.qcow2"))
}
