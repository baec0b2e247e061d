package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd/vhdtest"
)

// flat is the checksum of what the program itself reads through a chain.
func flat(t *testing.T, format, path string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	args := []string{"image", "convert", "-q", "-O", "raw"}
	if format != "" {
		args = append(args, "-f", format)
	}
	must(t, append(args, path, raw)...)
	return fileSum(t, raw)
}

// otherSum is what the other reader of VHDs sees, which looks for more.
func otherSum(t *testing.T, path string) string {
	t.Helper()
	b, err := vhdtest.View(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestChainsOfXenServerBecomeQcow2AndComeBack(t *testing.T) {
	leaves := map[string]string{"01-linear": "c5.vhd", "03-raw-parent": "c2.vhd", "05-resized": "c2.vhd",
		"04a-hidden-inner": "dc2e8c9a-501a-5845-b2d5-d692d1c96a3c.vhd", "02-branch": "fe966b57-4529-5da0-a917-3cf78bd00d30.vhd"}
	for sample, leaf := range leaves {
		t.Run(sample, func(t *testing.T) {
			dir := vhdtest.Unpack(t, sample)
			t.Chdir(dir)
			must(t, "image", "convert", "-q", "--chain", leaf, "there")
			top := strings.TrimSuffix(leaf, ".vhd")
			must(t, "image", "convert", "-q", "--chain", "-O", "vhd", "there/"+top+".qcow2", "back")
			layers := 0
			for _, sum := range vhdtest.Sums(t, dir) {
				stem := strings.TrimSuffix(strings.TrimSuffix(sum.Name, ".vhd"), ".raw")
				there := filepath.Join("there", stem+".qcow2")
				if _, err := os.Stat(there); err != nil {
					continue // not below this leaf
				}
				layers++
				if have := guestSum(t, "qcow2", there); have != sum.SHA256 {
					t.Errorf("%s as qcow2: %s, want %s", stem, have, sum.SHA256)
				}
				back := filepath.Join("back", stem+".vhd")
				if have := flat(t, "", back); have != sum.SHA256 {
					t.Errorf("%s back again: %s, want %s", stem, have, sum.SHA256)
				}
				if have := otherSum(t, back); have != sum.SHA256 {
					t.Errorf("%s back again, read by the other reader: %s, want %s", stem, have, sum.SHA256)
				}
				must(t, "image", "check", back)
				must(t, "image", "check", there)
			}
			if layers < 3 {
				t.Errorf("%d layers", layers)
			}
		})
	}
}

func TestVHDsOfQEMUAreRead(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		q() { qemu-img "$@" >/dev/null; }
		q create -f vpc -o force_size=on dynamic.vhd 100M
		q create -f vpc -o force_size=on,subformat=fixed fixed.vhd 10M
		q create -f vpc chs.vhd 100M
		for f in dynamic chs; do qemu-io -f vpc -c "write -P 1 0 5M" -c "write -P 2 7M 64k" -c "write -P 0 8M 1M" -c "write -P 3 99M 512" $f.vhd >/dev/null; done
		qemu-io -f vpc -c "write -P 1 1M 64k" -c "write -P 3 9M 512" fixed.vhd >/dev/null`)
	for _, name := range []string{"dynamic.vhd", "fixed.vhd", "chs.vhd"} {
		want := guestSum(t, "vpc", name)
		if have := flat(t, "vpc", name); have != want {
			t.Errorf("%s: %s, want %s", name, have, want)
		}
		must(t, "image", "check", "-f", "vhd", name)
		if _, _, code := call(t, "image", "compare", "-s", "-f", "vhd", "-F", "vhd", name, name); code != 0 {
			t.Errorf("%s: compare %d", name, code)
		}
	}
	if _, errs, code := call(t, "image", "info", "fixed.vhd"); code != term.ExitRefused || !strings.Contains(errs, "-f") {
		t.Errorf("a fixed disk without -f: %d, %s", code, errs)
	}
}

func TestQEMUReadsWhatWasConverted(t *testing.T) {
	newSources(t)
	for _, src := range []string{"far.raw", "top.qcow2", "odd.qcow2"} {
		want := guestSum(t, formatOf(src), src)
		for _, line := range []string{"-O vhd", "-O vpc -o subformat=fixed", "-O vpc -o subformat=fixed,force_size", "-O vpc -o force_size=on", "-O vhd -S 0"} {
			args := append([]string{"image", "convert", "-q", "-f", formatOf(src)}, strings.Fields(line)...)
			must(t, append(args, src, "new.vhd")...)
			raw := filepath.Join(t.TempDir(), "raw")
			if _, errs, code := qemuImg(t, "convert", "--image-opts", "-O", "raw", "driver=vpc,force_size_calc=current_size,file.filename=new.vhd", raw); code != 0 {
				t.Fatal(errs)
			}
			if have := fileSum(t, raw); have != want {
				t.Errorf("%s, %s: %s, want %s", src, line, have, want)
			}
			if have := otherSum(t, "new.vhd"); have != want {
				t.Errorf("%s, %s: the other reader sees %s, want %s", src, line, have, want)
			}
			if have := flat(t, "vhd", "new.vhd"); have != want {
				t.Errorf("%s, %s: %s, want %s", src, line, have, want)
			}
			must(t, "image", "check", "-f", "vhd", "new.vhd")
			if err := os.Remove("new.vhd"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// All commands on a chain made from nothing.
func TestAVHDChainIsMadeMergedAndRebased(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("golden", 0o700); err != nil {
		t.Fatal(err)
	}
	noise := bytes.Repeat([]byte("noise"), 1<<20)
	for name, n := range map[string]int{"a.raw": 3 << 20, "b.raw": 5 << 20} {
		if err := os.WriteFile(name, noise[:n], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "image", "convert", "-q", "-f", "raw", "-O", "vhd", "a.raw", "golden/base.vhd")
	out := must(t, "image", "create", "-f", "vhd", "-b", "golden/base.vhd", "-F", "vhd", "s1.vhd", "6M")
	if out != "Formatting 's1.vhd', fmt=vhd subformat=differencing size=6291456 backing_file=golden/base.vhd backing_fmt=vhd\n" {
		t.Errorf("%q", out)
	}
	must(t, "image", "create", "-q", "-f", "vhd", "-b", "s1.vhd", "-F", "vpc", "s2.vhd")
	want := flat(t, "", "s2.vhd")
	if otherSum(t, "s2.vhd") != want {
		t.Error("the other reader sees something else")
	}
	must(t, "image", "rebase", "-q", "-f", "raw", "-b", "", "b.raw") // a raw disk has no parent
	must(t, "image", "convert", "-q", "-f", "raw", "-O", "vhd", "b.raw", "b.vhd")
	must(t, "image", "rebase", "-q", "-b", "b.vhd", "-F", "vhd", "s2.vhd")
	if flat(t, "", "s2.vhd") != want || otherSum(t, "s2.vhd") != want {
		t.Error("rebased, the guest reads something else")
	}
	must(t, "image", "rebase", "-q", "-b", "s1.vhd", "-F", "vhd", "s2.vhd")
	must(t, "image", "commit", "-q", "--base", "golden/base.vhd", "s2.vhd") // the base grows
	if flat(t, "", "golden/base.vhd") != want || otherSum(t, "golden/base.vhd") != want {
		t.Error("merged, the guest reads something else")
	}
	for _, gone := range []string{"s1.vhd", "s2.vhd"} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	must(t, "image", "check", "golden/base.vhd")
}

func TestInfoTellsOfVHDs(t *testing.T) {
	dir := vhdtest.Unpack(t, "01-linear")
	t.Chdir(dir)
	var infos []struct {
		Format   string
		Backing  string `json:"backing-filename"`
		BFormat  string `json:"backing-filename-format"`
		Specific struct {
			Type string
			Data struct {
				Subformat, Creator string
				Hidden             bool
			}
		} `json:"format-specific"`
	}
	if err := json.Unmarshal([]byte(must(t, "image", "info", "--output=json", "--backing-chain", "c2.vhd")), &infos); err != nil {
		t.Fatal(err)
	}
	if len(infos) != 3 || infos[0].Format != "vhd" || infos[0].Backing != "c1.vhd" || infos[0].BFormat != "vhd" ||
		infos[1].Specific.Data.Subformat != "differencing" || !infos[2].Specific.Data.Hidden || infos[2].Specific.Data.Creator != "tap 1.3" {
		t.Errorf("%+v", infos)
	}
	text := must(t, "image", "info", "c2.vhd")
	for _, line := range []string{"file format: vhd", "backing file: c1.vhd", "subformat: differencing", "parent uuid: 9451bcba-"} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is missing in\n%s", line, text)
		}
	}
	if !strings.Contains(must(t, "image", "map", "c5.vhd"), "base.vhd") {
		t.Error("the map does not tell of the base")
	}
}

func TestVHDsThatAreNotSafeAreRefused(t *testing.T) {
	dir := vhdtest.Unpack(t, "01-linear")
	t.Chdir(dir)
	base, err := os.ReadFile("base.vhd")
	if err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := os.WriteFile("base.vhd", base, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what, says string, args ...string) {
		t.Helper()
		before := fileSum(t, "base.vhd") + fileSum(t, "c1.vhd")
		_, errs, code := call(t, args...)
		if code != term.ExitRefused || !strings.Contains(errs, says) {
			t.Errorf("%s: %d, %s", what, code, errs)
		}
		if fileSum(t, "base.vhd")+fileSum(t, "c1.vhd") != before {
			t.Errorf("%s: something was changed", what)
		}
	}
	inUse := append(bytes.Clone(base[:len(base)-512]), bytes.Repeat([]byte{0xC7}, 512)...)
	if err := os.WriteFile("base.vhd", inUse, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"commit", "c1.vhd"}, {"convert", "-O", "raw", "c5.vhd", "x"}, {"pull", "c1.vhd"}, {"map", "base.vhd"}} {
		refused("in use, "+args[0], "in use", append([]string{"image"}, args...)...)
	}
	if out := must(t, "image", "info", "base.vhd"); !strings.Contains(out, "in use: true") {
		t.Error(out)
	}
	if out, _, code := call(t, "image", "check", "base.vhd"); code != images.ExitCorruptions || !strings.Contains(out, "in use") {
		t.Errorf("%d, %s", code, out)
	}
	if out, _, code := call(t, "image", "check", "-r", "all", "base.vhd"); code != 0 || !strings.Contains(out, "repaired: offset 14708736: footer") {
		t.Errorf("%d, %s", code, out)
	}
	if have, err := os.ReadFile("base.vhd"); err != nil || !bytes.Equal(have, base) {
		t.Errorf("repaired, it is not as it was: %v", err)
	}
	// Another image under the parent's name.
	if err := os.WriteFile("base.vhd", mustRead(t, "c5.vhd"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("another parent", "another one", "image", "convert", "-O", "raw", "c1.vhd", "x")
	restore()
	// QEMU reads a differencing VHD as if it had no parent.
	refused("a qcow2 overlay on a differencing VHD", "differencing", "image", "create", "-f", "qcow2", "-b", "c1.vhd", "-F", "vhd", "x")
	refused("a VHD on a qcow2 image", "raw", "image", "create", "-f", "vhd", "-b", "q.qcow2", "-F", "qcow2", "-u", "x", "1M")
	must(t, "image", "create", "-q", "-f", "qcow2", "-b", "base.vhd", "-F", "vhd", "over.qcow2")
	if out := shell(t, dir, "qemu-img info over.qcow2"); !strings.Contains(out, "backing file format: vpc") {
		t.Error(out)
	}
	refused("a rebase onto a differencing VHD", "differencing", "image", "rebase", "-b", "c1.vhd", "-F", "vhd", "over.qcow2")
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
