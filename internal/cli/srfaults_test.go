package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/sr"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// convertedJSON is what sr convert says for programs.
type convertedJSON struct {
	Steps   []struct{ Target string }
	LeftOut []struct{ Node, Reason string } `json:"left-out"`
	Missing []struct {
		Disk, Name, Reason string
		Image              *string
		Offset, Length     int64
	}
}

func decodeJSON(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// The leaves of 02-branch; with two of them bad, all the others are made, by qemu-img's word.
func TestSRConvertMakesAllThatIsSound(t *testing.T) {
	sample(t, "02-branch")
	sums := sumsOf(t)
	var scan sr.ScanReport
	decodeJSON(t, must(t, "sr", "scan", "--output=json", "sr"), &scan)
	var leaves []string
	for _, n := range scan.Nodes {
		if !n.Hidden {
			leaves = append(leaves, n.Name)
		}
	}
	if len(leaves) < 3 {
		t.Fatalf("leaves %q", leaves)
	}
	shell(t, "sr", "truncate -s 700 "+leaves[0]+`; size=$(stat -c %s `+leaves[1]+`); head -c 512 /dev/zero | tr '\0' '\307' | dd of=`+leaves[1]+` bs=512 seek=$((size/512-1)) conv=notrunc status=none`)
	before := dirSums(t, "sr")
	if code, out, _ := try(t, "sr", "scan", "sr"); code != term.ExitSome || !strings.Contains(out, "wrong: "+leaves[0]+": ") || !strings.Contains(out, "sr repair --not-in-use ") {
		t.Errorf("scan: %d %s", code, out)
	}
	code, _, dry := try(t, "sr", "convert", "sr", "--to", "out", "--dry-run")
	if code != term.ExitSome || !strings.Contains(dry, "2 nodes left out") {
		t.Errorf("dry run: %d %s", code, dry)
	}
	code, out, errs := try(t, "sr", "convert", "sr", "--to", "out", "--output=json")
	var did convertedJSON
	decodeJSON(t, out, &did)
	if code != term.ExitSome || len(did.LeftOut) != 2 || !strings.Contains(errs, "2 nodes left out") {
		t.Errorf("convert: %d %s%s", code, out, errs)
	}
	made := namesIn(t, "out")
	for _, leaf := range leaves {
		name := strings.TrimSuffix(leaf, ".vhd") + ".qcow2"
		if bad := leaf == leaves[0] || leaf == leaves[1]; bad == slices.Contains(made, name) {
			t.Errorf("%s is bad: %v; made %q", leaf, bad, made)
		} else if !bad && guestSum(t, "qcow2", "out/"+name) != sums[leaf] {
			t.Errorf("%s reads otherwise than its VHD", name)
		}
	}
	if !slices.Equal(dirSums(t, "sr"), before) {
		t.Error("the repository has changed")
	}
	must(t, "sr", "convert", "sr", "--to", "one", "--vdi", strings.TrimSuffix(leaves[2], ".vhd")) // the others do not matter to it
	code, _, errs = try(t, "sr", "convert", "sr", "--to", "none", "--vdi", strings.TrimSuffix(leaves[0], ".vhd"))
	if _, err := os.Stat("none"); code != term.ExitSome || !os.IsNotExist(err) || !strings.Contains(errs, "0 images made") {
		t.Errorf("%d %s %v", code, errs, err)
	}
}

// What only reading the data shows spoils no more than that either.
func TestSRConvertGoesOnAfterDataThatCannotBeRead(t *testing.T) {
	t.Chdir(t.TempDir())
	shell(t, ".", `mkdir sr; cd sr
for n in good bad; do
  qemu-img create -q -f raw $n.raw 8M; qemu-io -f raw -c 'write -q -P 7 0 4M' $n.raw
  qemu-img convert -c -O qcow2 $n.raw $n.qcow2; rm $n.raw; done
qemu-img create -q -f qcow2 -b bad.qcow2 -F qcow2 leaf.qcow2
qemu-img create -q -f qcow2 -b good.qcow2 -F qcow2 twin.qcow2`)
	markPacked(t, "sr/bad.qcow2")
	must(t, "sr", "scan", "sr")
	code, _, errs := try(t, "sr", "convert", "sr", "--to", "out")
	if code != term.ExitSome || !strings.Contains(errs, "bad.qcow2 was left out: ") || !strings.Contains(errs, "leaf.qcow2 was left out: it builds on ") {
		t.Errorf("%d %s", code, errs)
	}
	if made := namesIn(t, "out"); !slices.Equal(made, []string{"good.qcow2", "twin.qcow2"}) {
		t.Errorf("made %q", made)
	}
	if guestSum(t, "qcow2", "out/twin.qcow2") != guestSum(t, "qcow2", "sr/twin.qcow2") {
		t.Error("twin reads otherwise")
	}
}

// A node that somebody writes to is left out, by a dry run as well.
func TestSRConvertLeavesOutWhatIsLocked(t *testing.T) {
	sample(t, "02-branch")
	name, _ := leafOf(t)
	f, err := vfs.OS().Open("sr/"+name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Lock(vfs.LockWrite); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []string{"--dry-run", "--quiet"} {
		code, _, errs := try(t, "sr", "convert", "sr", "--to", "out", dry)
		if code != term.ExitSome || !strings.Contains(errs, name+" was left out: ") || !strings.Contains(errs, "another process") {
			t.Errorf("%s: %d %s", dry, code, errs)
		}
	}
	if made := namesIn(t, "out"); len(made) < 3 || slices.Contains(made, strings.TrimSuffix(name, ".vhd")+".qcow2") {
		t.Errorf("made %q", made)
	}
}

// markPacked writes over the first compressed cluster, which is behind the tables.
func markPacked(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(b) - 2000; i < len(b); i++ {
		b[i] ^= 0x5a
	}
	first := 5 << 16 // header, L1, refcounts, L2
	for i := first; i < min(first+4096, len(b)); i++ {
		b[i] ^= 0x5a
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A parent that has got another name is found, told, and read; what is said to do about it
// puts it right.
func TestSRRemedyForAParentWithAnotherName(t *testing.T) {
	sample(t, "04b-leaf-coalesce")
	sums := sumsOf(t)
	name, parent := leafOf(t)
	shell(t, "sr", "mv "+parent+" restored.vhd")
	code, out, _ := try(t, "sr", "scan", "sr")
	if code != term.ExitSome || !strings.Contains(out, "[parent by UUID]") || strings.Contains(out, "[garbage]") {
		t.Errorf("%d %s", code, out)
	}
	if code, out, _ = try(t, "sr", "check", "sr"); code != 2 || !strings.Contains(out, "which is here as restored.vhd") {
		t.Errorf("check: %d %s", code, out)
	}
	must(t, "sr", "convert", "sr", "--to", "out")
	if guestSum(t, "qcow2", "out/"+strings.TrimSuffix(name, ".vhd")+".qcow2") != sums[name] {
		t.Error("the converted leaf reads otherwise")
	}
	before := dirSums(t, "sr")
	if code, out, _ = try(t, "sr", "coalesce", "--leaf", "--garbage", "sr"); code != term.ExitSome || !strings.Contains(out, "nothing to do") {
		t.Errorf("coalesce: %d %s", code, out)
	}
	if !slices.Equal(withoutLock(dirSums(t, "sr")), before) {
		t.Error("something has changed")
	}
	_, out, _ = try(t, "sr", "scan", "sr")
	runRemedy(t, out)
	must(t, "sr", "scan", "sr")
	must(t, "sr", "coalesce", "--leaf", "sr")
	if have := ownSum(t, "sr/"+name); have != sums[name] {
		t.Error("the leaf reads otherwise")
	}
}

// leafOf is a visible node that builds on another.
func leafOf(t *testing.T) (name, parent string) {
	t.Helper()
	var scan sr.ScanReport
	decodeJSON(t, must(t, "sr", "scan", "--output=json", "sr"), &scan)
	for _, n := range scan.Nodes {
		if n.Parent != nil && !n.Hidden {
			return n.Name, *n.Parent
		}
	}
	t.Fatalf("no leaf: %+v", scan.Nodes)
	return "", ""
}

// runRemedy types in what is said to do with virt-rotate.
func runRemedy(t *testing.T, text string) {
	t.Helper()
	_, line, ok := strings.Cut(text, "virt-rotate image rebase ")
	if !ok {
		t.Fatalf("no remedy in %s", text)
	}
	line, _, _ = strings.Cut(line, "\n")
	must(t, append([]string{"image", "rebase"}, strings.Fields(line)...)...)
}

func withoutLock(sums []string) []string {
	return slices.DeleteFunc(sums, func(s string) bool { return strings.HasPrefix(s, ".virt-rotate-sr.lock") })
}

// A parent that is another image than the one that the leaf was made on: told by all, and
// nothing is changed until somebody says that it is as it should be.
func TestSRTellsOfAWrongParent(t *testing.T) {
	sample(t, "04b-leaf-coalesce")
	_, parent := leafOf(t)
	shell(t, "sr", "rm "+parent)
	must(t, "image", "create", "-f", "vhd", "sr/"+parent, "8M")
	before := dirSums(t, "sr")
	for _, c := range []struct {
		line string
		code int
	}{{"scan", term.ExitSome}, {"check", 2}, {"coalesce --leaf --garbage --dry-run", term.ExitSome}, {"coalesce --leaf --garbage", term.ExitSome}} {
		code, out, _ := try(t, append([]string{"sr"}, append(strings.Fields(c.line), "sr")...)...)
		if code != c.code || !strings.Contains(out, "it was made on the image") || strings.Contains(out, "leaf-coalesceable") {
			t.Errorf("%s: %d %s", c.line, code, out)
		}
	}
	if !slices.Equal(withoutLock(dirSums(t, "sr")), before) {
		t.Error("something has changed")
	}
	_, out, _ := try(t, "sr", "scan", "sr")
	runRemedy(t, out)
	must(t, "sr", "check", "sr")
}

// What a dry run promises is what the run does, and what it leaves alone it leaves alone.
func TestSRCoalesceDoesNoMoreAndNoLessThanTold(t *testing.T) {
	for name, script := range map[string]string{
		"a journal of a leaf":      "touch leaf_$(ls *.vhd | head -1 | cut -d. -f1); rm leaf_*",
		"an old leaf elsewhere":    "cp $(ls *.vhd | head -1) OLD_00000000-0000-0000-0000-000000000000.vhd",
		"a node that is no image":  "head -c 5000 /dev/urandom > 00000000-0000-0000-0000-000000000000.vhd",
		"a node with two names":    "f=$(ls *.vhd | tail -1); ln $f ../other-name",
		"a leaf that is cut short": "f=$(ls *.vhd | tail -1); truncate -s -512 $f",
	} {
		for _, from := range []string{"01-linear", "04a-hidden-inner", "04c-garbage"} {
			t.Run(name+" "+from, func(t *testing.T) {
				sample(t, from)
				shell(t, "sr", script)
				_, plan, _ := try(t, "sr", "coalesce", "--leaf", "--garbage", "--dry-run", "--output=json", "sr")
				_, did, _ := try(t, "sr", "coalesce", "--leaf", "--garbage", "--output=json", "sr")
				var a, b sr.CoalesceReport
				decodeJSON(t, plan, &a)
				decodeJSON(t, did, &b)
				if len(b.Failed) > 0 || len(a.Steps) != len(b.Steps) || len(a.Spoiled) != len(b.Spoiled) || !slices.Equal(a.Doubts, b.Doubts) {
					t.Errorf("planned\n%s\ndone\n%s", plan, did)
				}
			})
		}
	}
}

func TestSRRepairTakesMarksOfUseOff(t *testing.T) {
	sample(t, "01-linear")
	sums, before := sumsOf(t), dirSums(t, "sr")
	shell(t, "sr", `for f in c2.vhd c3.vhd; do size=$(stat -c %s $f); head -c 512 /dev/zero | tr '\0' '\307' | dd of=$f bs=512 seek=$((size/512-1)) conv=notrunc status=none; done`)
	marked := dirSums(t, "sr")
	if code, _, errs := try(t, "sr", "repair", "sr"); code != term.ExitUsage || !strings.Contains(errs, "--not-in-use") {
		t.Errorf("%d %s", code, errs)
	}
	if out := must(t, "sr", "repair", "--not-in-use", "--dry-run", "sr"); !strings.Contains(out, "would take the mark of use off c2.vhd\nwould take the mark of use off c3.vhd\n") {
		t.Error(out)
	}
	if !slices.Equal(dirSums(t, "sr"), marked) {
		t.Error("a dry run has changed something")
	}
	f, err := vfs.OS().Open("sr/c3.vhd", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Lock(vfs.LockWrite); err != nil {
		t.Fatal(err)
	}
	code, out, _ := try(t, "sr", "repair", "--not-in-use", "--output=json", "sr")
	if code != term.ExitSome || !strings.Contains(out, "another process") {
		t.Errorf("%d %s", code, out)
	}
	f.Close()
	must(t, "sr", "repair", "--not-in-use", "sr")
	if !slices.Equal(withoutLock(dirSums(t, "sr")), before) {
		t.Error("the nodes are not as before")
	}
	if out := must(t, "sr", "repair", "--not-in-use", "sr"); out != "nothing to do\n" {
		t.Error(out)
	}
	must(t, "sr", "convert", "sr", "--to", "out")
	if name := slices.Sorted(slices.Values(namesIn(t, "out")))[0]; guestSum(t, "qcow2", "out/"+name) != sums[strings.TrimSuffix(name, ".qcow2")+".vhd"] {
		t.Errorf("%s reads otherwise", name)
	}
}

// The first thing that somebody tries with an export, and a copy of a part of a repository.
func TestSRTellsWhatADirectoryIs(t *testing.T) {
	dir := sample(t, "04b-leaf-coalesce")
	for _, args := range [][]string{{"sr", "scan", "."}, {"sr", "convert", ".", "--to", "out"}, {"sr", "coalesce", "."}} {
		if code, _, errs := try(t, args...); code != term.ExitRefused || !strings.Contains(errs, filepath.Join(dir, "sr")+" (2 nodes)") {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
	var scan sr.ScanReport
	decodeJSON(t, must(t, "sr", "scan", "--output=json", "sr"), &scan)
	for _, n := range scan.Nodes {
		if !n.Hidden {
			shell(t, "sr", "rm "+n.Name)
		}
	}
	if out := must(t, "sr", "scan", "sr"); !strings.Contains(out, "base copies only") {
		t.Error(out)
	}
	if code, _, errs := try(t, "sr", "convert", "sr", "--to", "out"); code != term.ExitRefused || !strings.Contains(errs, "base copies only") {
		t.Errorf("%d %s", code, errs)
	}
	before := len(namesIn(t, "sr"))
	if code, out, _ := try(t, "sr", "coalesce", "--garbage", "sr"); code != term.ExitSome || !strings.Contains(out, "no garbage is deleted: there are base copies only") || len(namesIn(t, "sr")) != before+1 {
		t.Errorf("%d %s", code, out)
	}
}

func TestSRLeavesTheMemoryOfAGuestOut(t *testing.T) {
	sample(t, "04b-leaf-coalesce")
	shell(t, "sr", `printf 'XenSavedDomv2-\n' > suspended.raw; truncate -s 1M suspended.raw`)
	if out := must(t, "sr", "scan", "sr"); !strings.Contains(out, "no disk: suspended.raw: ") || !strings.Contains(out, "memory of a guest]") {
		t.Error(out)
	}
	_, errs, code := call(t, "sr", "convert", "sr", "--to", "out")
	if code != 0 || !strings.Contains(errs, "suspended.raw was left out: it holds the memory") || slices.Contains(namesIn(t, "out"), "suspended.qcow2") {
		t.Errorf("%d %s", code, errs)
	}
	must(t, "sr", "convert", "sr", "--to", "memory", "--vdi", "suspended")
}

// Copies of logical volumes call their parents as the device mapper does. They are read so,
// and a merge finds who builds on a layer.
func TestImageCommandsKnowNamesOfTheDeviceMapper(t *testing.T) {
	t.Chdir(t.TempDir())
	const mapped = "VG_XenStorage--0a--1b-VHD--base"
	must(t, "image", "create", "-f", "vhd", mapped, "8M")
	shell(t, ".", "qemu-io -f vpc -c 'write -q -P 1 0 1M' "+mapped)
	for _, leaf := range []string{"VHD-one", "VHD-two"} {
		must(t, "image", "create", "-f", "vhd", "-b", mapped, "-F", "vhd", leaf)
	}
	shell(t, ".", "mv "+mapped+" VHD-base")
	for _, leaf := range []string{"VHD-one", "VHD-two"} {
		must(t, "image", "convert", "-f", "vhd", "-O", "raw", leaf, leaf+".raw")
		if guestSum(t, "raw", leaf+".raw") != guestSum(t, "vpc", "VHD-base") {
			t.Errorf("%s reads otherwise than its base", leaf)
		}
	}
	code, _, errs := try(t, "image", "commit", "-f", "vhd", "VHD-one")
	if code != term.ExitRefused || !strings.Contains(errs, "VHD-two: it builds on a layer that the merge would change") {
		t.Errorf("%d %s", code, errs)
	}
}

// What a collector was interrupted in is undone first: a dry run says so.
func TestSRDryRunTellsWhatIsUndone(t *testing.T) {
	sample(t, "04b-leaf-coalesce")
	sums := sumsOf(t)
	name, parent := leafOf(t)
	shell(t, "sr", "mv "+name+" OLD_"+name+"; mv "+parent+" "+name+"; printf "+strings.TrimSuffix(parent, ".vhd")+" > leaf_"+strings.TrimSuffix(name, ".vhd"))
	if code, out, _ := try(t, "sr", "scan", "sr"); code != term.ExitSome || !strings.Contains(out, "virt-rotate sr coalesce finishes or undoes it") || strings.Contains(out, "leaf-coalesceable") {
		t.Errorf("scan: %d %s", code, out)
	}
	before := dirSums(t, "sr")
	if out := must(t, "sr", "coalesce", "--dry-run", "sr"); !strings.Contains(out, "undo the leaf coalesce of "+strings.TrimSuffix(name, ".vhd")) || !slices.Equal(dirSums(t, "sr"), before) {
		t.Error(out)
	}
	if out := must(t, "sr", "coalesce", "--leaf", "sr"); !strings.Contains(out, "undid the leaf coalesce of ") || !strings.Contains(out, "coalesced leaf "+name) {
		t.Error(out)
	}
	if ownSum(t, "sr/"+name) != sums[name] {
		t.Error("the leaf reads otherwise")
	}
}
