package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/sr"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// sample unpacks VHDs that XenServer's library wrote into a directory of their own,
// which is the current one's "sr".
func sample(t *testing.T, name string) string {
	t.Helper()
	archive, err := filepath.Abs(filepath.Join("..", "..", "vhdbridge", "vhd", "testdata", name+".tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "tar --zstd -xf "+archive+" && mv "+name+" sr && cp sr/SHA256SUMS . && rm sr/*.json sr/*.txt sr/README sr/SHA256SUMS")
	return dir
}

// sumsOf are the sums of what a guest reads of each node, by file name.
func sumsOf(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 {
			sums[f[1]] = f[0]
		}
	}
	return sums
}

func TestSRScanTellsWhatCanBeHadBack(t *testing.T) {
	sample(t, "04c-garbage")
	var out sr.ScanReport
	if err := json.Unmarshal([]byte(must(t, "sr", "scan", "--output=json", "sr")), &out); err != nil {
		t.Fatal(err)
	}
	garbage := 0
	for _, n := range out.Nodes {
		if n.Garbage {
			garbage++
		}
	}
	if len(out.Nodes) != 7 || garbage != 5 || out.Totals.Visible != 8<<20 || out.Totals.Garbage == 0 || out.Totals.Reclaimable != out.Totals.Garbage+out.Totals.Leaf {
		t.Errorf("%d garbage: %+v", garbage, out)
	}
	if text := must(t, "sr", "scan", "sr"); !strings.Contains(text, "\n*8571640a(8.000M/2.004M/2.000M)\n    *06fc0d6c(8.000M/2.008M/2.000M)  [garbage]\n    dffdee29(") {
		t.Error(text)
	}
	must(t, "sr", "check", "sr")
	if code, _, stderr := try(t, "sr", "scan", "nowhere"); code != term.ExitFailed || !strings.Contains(stderr, "nowhere") {
		t.Errorf("%d %s", code, stderr)
	}
	if err := os.Mkdir("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := try(t, "sr", "scan", "empty"); code != term.ExitRefused || !strings.Contains(stderr, "no node") {
		t.Errorf("%d %s", code, stderr)
	}
}

// A dry run tells what is done then, and every VDI reads as before.
func TestSRCoalesceDoesWhatTheDryRunTold(t *testing.T) {
	for _, name := range []string{"01-linear", "03-raw-parent", "04d-journal-relink", "05-resized"} {
		t.Run(name, func(t *testing.T) {
			sample(t, name)
			before := dirSums(t, "sr")
			plan := must(t, "sr", "coalesce", "--leaf", "--garbage", "--dry-run", "--output=json", "sr")
			if !slices.Equal(dirSums(t, "sr"), before) {
				t.Fatal("a dry run has changed something")
			}
			done := must(t, "sr", "coalesce", "--leaf", "--garbage", "--output=json", "sr")
			var planned, did sr.CoalesceReport
			if err := errors.Join(json.Unmarshal([]byte(plan), &planned), json.Unmarshal([]byte(done), &did)); err != nil {
				t.Fatal(err)
			}
			if len(did.Steps) == 0 || len(planned.Steps) != len(did.Steps) {
				t.Errorf("planned %+v\ndone %+v", planned.Steps, did.Steps)
			}
			for name, sum := range sumsOf(t) {
				stem := strings.TrimSuffix(name, filepath.Ext(name))
				for _, file := range []string{stem + ".vhd", stem + ".raw"} {
					if _, err := os.Stat("sr/" + file); err == nil && !strings.HasPrefix(file, "base") {
						if have := ownSum(t, "sr/"+file); have != sum {
							t.Errorf("%s reads otherwise", file)
						}
					}
				}
			}
			if text := must(t, "sr", "coalesce", "--leaf", "--garbage", "sr"); !strings.Contains(text, "nothing to do") {
				t.Error(text)
			}
		})
	}
}

// ownSum is the sum of what a guest reads, by our own reader.
func ownSum(t *testing.T, path string) string {
	t.Helper()
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	must(t, "image", "convert", "-f", format, "-O", "raw", path, path+".flat")
	sum := fileSum(t, path+".flat")
	if err := os.Remove(path + ".flat"); err != nil {
		t.Fatal(err)
	}
	return sum
}

// dirSums are names and sums of all files.
func dirSums(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sums []string
	for _, e := range entries {
		sums = append(sums, e.Name()+" "+fileSum(t, filepath.Join(dir, e.Name())))
	}
	return sums
}

// Every layer of the new chains reads, by qemu-img, as its VHD.
func TestSRConvertKeepsChainsAndSnapshots(t *testing.T) {
	for _, name := range []string{"01-linear", "02-branch", "03-raw-parent", "04a-hidden-inner", "05-resized"} {
		for _, line := range []string{"", "--keep-all", "--cluster-size 4k", "--flatten", "--flatten -O raw"} {
			t.Run(name+" "+line, func(t *testing.T) {
				sample(t, name)
				before := dirSums(t, "sr")
				must(t, append([]string{"sr", "convert", "sr", "--to", "out"}, strings.Fields(line)...)...)
				if !slices.Equal(dirSums(t, "sr"), before) {
					t.Error("the repository has changed")
				}
				sums := sumsOf(t)
				made := namesIn(t, "out")
				if len(made) == 0 {
					t.Fatal("nothing was made")
				}
				for _, name := range made {
					stem := strings.TrimSuffix(name, filepath.Ext(name))
					want := sums[stem+".vhd"]
					if want == "" {
						want = sums[stem+".raw"]
					}
					format := formatOf(name)
					if have := guestSum(t, format, "out/"+name); have != want {
						t.Errorf("%s reads otherwise than its VHD", name)
					}
					if format == "qcow2" {
						shell(t, ".", "qemu-img check -q out/"+name)
					}
				}
				if n := map[string]int{"": 1, "--keep-all": 6}[line]; n > 0 && name == "01-linear" && len(made) != n {
					t.Errorf("%d images", len(made))
				}
				if code, _, stderr := try(t, append([]string{"sr", "convert", "sr", "--to", "out"}, strings.Fields(line)...)...); code != term.ExitRefused || !strings.Contains(stderr, "there already") {
					t.Errorf("once more: %d %s", code, stderr)
				}
			})
		}
	}
}

// What is in use, by footers or by what a process has open, is left alone.
func TestSRThatIsInUseIsRefused(t *testing.T) {
	dir := sample(t, "01-linear")
	cmd := exec.Command("sleep", "60")
	f, err := os.Open("sr/c2.vhd")
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	before := dirSums(t, "sr")
	for _, args := range [][]string{{"sr", "coalesce", "sr"}, {"sr", "convert", "sr", "--to", "out"}} {
		if code, _, stderr := try(t, args...); code != term.ExitRefused || !strings.Contains(stderr, "(sleep) has it open") {
			t.Errorf("%d %s", code, stderr)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !slices.Equal(dirSums(t, "sr"), before) {
		t.Error("something has changed")
	}
	shell(t, dir, `size=$(stat -c %s sr/c3.vhd); head -c 512 /dev/zero | tr '\0' '\307' | dd of=sr/c3.vhd bs=512 seek=$((size/512-1)) conv=notrunc status=none`)
	if code, stdout, _ := try(t, "sr", "coalesce", "sr"); code != term.ExitSome || !strings.Contains(stdout, "a tapdisk") {
		t.Errorf("%d %s", code, stdout)
	}
}

func TestSRWrongUsage(t *testing.T) {
	sample(t, "04b-leaf-coalesce")
	for line, want := range map[string]string{
		"sr":                            "",
		"sr mend sr":                    "want scan",
		"sr scan":                       "wants DIR",
		"sr coalesce --vdi nobody sr":   "no such VDI",
		"sr convert sr":                 "to",
		"sr convert sr --to out -O raw": "--flatten",
		"sr convert sr --to out -O vhd": "want qcow2 or raw",
		"sr convert sr --to out --cluster-size 3k": "power of two",
	} {
		code, _, stderr := try(t, strings.Fields(line)...)
		if want != "" && (code != term.ExitUsage || !strings.Contains(stderr, want)) {
			t.Errorf("%s: %d %s", line, code, stderr)
		}
	}
}

// try runs the program, whatever its exit status.
func try(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	stdout, stderr, code = call(t, args...)
	return code, stdout, stderr
}

// markHidden gives a qcow2 node XCP-ng's header extension, in the place of the table of
// feature names.
func markHidden(t *testing.T, path string, hidden byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names := []byte{0x68, 0x03, 0xf8, 0x57}
	at := bytes.Index(data[:4096], names)
	if at < 0 {
		t.Fatalf("%s has no table of feature names", path)
	}
	copy(data[at:], []byte{0x76, 0x61, 0x74, 0x65})
	data[at+8] = hidden
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Repositories of qcow2 nodes, as XCP-ng has them, are coalesced like those of VHDs.
func TestSRCoalesceOfQcow2Nodes(t *testing.T) {
	for _, prefix := range []string{"", "QCOW2-"} {
		name := func(vdi string) string {
			if prefix != "" {
				return prefix + vdi
			}
			return vdi + ".qcow2"
		}
		dir := t.TempDir()
		t.Chdir(dir)
		if err := os.Mkdir("sr", 0o755); err != nil {
			t.Fatal(err)
		}
		base, inner, leaf := name("11111111-aaaa"), name("22222222-bbbb"), name("33333333-cccc")
		shell(t, "sr", "qemu-img create -q -f qcow2 "+base+" 8M && qemu-io -f qcow2 -c 'write -q -P 1 0 4M' "+base+
			" && qemu-img create -q -f qcow2 -b "+base+" -F qcow2 "+inner+" && qemu-io -f qcow2 -c 'write -q -P 2 1M 4M' "+inner+
			" && qemu-img create -q -f qcow2 -b "+inner+" -F qcow2 "+leaf+" && qemu-io -f qcow2 -c 'write -q -P 3 2M 1M' "+leaf+
			" && qemu-img convert -O raw "+leaf+" ../want")
		markHidden(t, filepath.Join("sr", base), 1)
		markHidden(t, filepath.Join("sr", inner), 1)
		markHidden(t, filepath.Join("sr", leaf), 0)
		var out sr.ScanReport
		if err := json.Unmarshal([]byte(must(t, "sr", "scan", "--output=json", "sr")), &out); err != nil {
			t.Fatal(err)
		}
		for i, hidden := range []bool{true, true, false} {
			if n := out.Nodes[i]; n.Hidden != hidden || n.Coalesceable != (i == 1) {
				t.Errorf("%+v", n)
			}
		}
		must(t, "sr", "coalesce", "--leaf", "sr")
		shell(t, "sr", "test $(ls | wc -l) = 1 && qemu-img check -q "+leaf+" && qemu-img compare -q -f qcow2 -F raw "+leaf+" ../want")
		out = sr.ScanReport{}
		if err := json.Unmarshal([]byte(must(t, "sr", "scan", "--output=json", "sr")), &out); err != nil || len(out.Nodes) != 1 || out.Nodes[0].Hidden {
			t.Errorf("%+v, %v", out, err)
		}
	}
}
