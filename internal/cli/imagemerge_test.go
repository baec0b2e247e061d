package cli

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// layers are a chain a ← b ← c ← d with data and zeros in each, and e, which
// builds on a.
const layers = `
io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
qemu-img create -q -f qcow2 a.qcow2 8M; io a.qcow2 "write -P 1 0 3M" "write -P 2 5M 1M"
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2; io b.qcow2 "write -P 3 1M 700k" "write -z 5M 200k"
qemu-img create -q -f qcow2 -b $PWD/b.qcow2 -F qcow2 c.qcow2 9M; io c.qcow2 "write -P 4 2M 5k" "write -P 5 8300k 64k"
qemu-img create -q -f qcow2 -b c.qcow2 -F qcow2 d.qcow2; io d.qcow2 "write -P 6 300k 1k"
`

// newLayers returns a directory with layers, which is the current one.
func newLayers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, layers)
	return dir
}

// restored makes layers once; again puts them back as they were.
func restored(t *testing.T) (again func() string) {
	t.Helper()
	dir, saved := newLayers(t), t.TempDir()
	shell(t, dir, "cp -p *.qcow2 "+saved)
	return func() string {
		shell(t, dir, "rm -rf * .virt-rotate*; cp -p "+saved+"/* .")
		return dir
	}
}

// mustBe wants these images, sound, with these sums of what the guest reads.
func mustBe(t *testing.T, what string, want map[string]string) {
	t.Helper()
	for name, sum := range want {
		if got := guestSum(t, "qcow2", name); got != sum {
			t.Errorf("%s: %s: the guest reads other data", what, name)
		}
		if out, errs, code := qemuImg(t, "check", name); code != 0 {
			t.Errorf("%s: %s: %s%s", what, name, out, errs)
		}
	}
}

func sums(t *testing.T, names ...string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, name := range names {
		m[name] = guestSum(t, "qcow2", name)
	}
	return m
}

// reportOf reads the JSON of a command that writes: op, name, target.
func reportOf(t *testing.T, out string) string {
	t.Helper()
	var r images.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var lines []string
	for _, s := range r.Steps {
		lines = append(lines, strings.TrimSpace(s.Op+" "+filepath.Base(s.Path)+" "+strings.TrimPrefix(filepath.Base(s.Target), ".")))
	}
	return strings.Join(lines, ", ")
}

func TestCommitMergesRelinksAndDeletes(t *testing.T) {
	again := restored(t)
	for _, c := range []struct{ line, gone, steps string }{
		{"d.qcow2", "d.qcow2", "merge d.qcow2 c.qcow2, delete d.qcow2"},
		{"c.qcow2", "c.qcow2", "merge c.qcow2 b.qcow2, relink d.qcow2 b.qcow2, delete c.qcow2"},
		{"--base a.qcow2 c.qcow2", "c.qcow2 b.qcow2", "merge b.qcow2 a.qcow2, merge c.qcow2 a.qcow2, relink d.qcow2 a.qcow2, delete c.qcow2, delete b.qcow2"},
		{"--keep b.qcow2", "", "merge b.qcow2 a.qcow2, relink c.qcow2 a.qcow2"},
		{"-f qcow2 -q b.qcow2", "b.qcow2", "merge b.qcow2 a.qcow2, relink c.qcow2 a.qcow2, delete b.qcow2"},
	} {
		dir := again()
		fields := strings.Fields(c.line)
		top := fields[len(fields)-1]
		want := sums(t, "d.qcow2")
		if strings.HasPrefix(c.steps, "merge d") {
			want = map[string]string{"c.qcow2": want["d.qcow2"]}
		}
		before := treeSum(t, dir)
		args := append([]string{"image", "commit", "--output=json"}, fields...)
		plan := reportOf(t, must(t, append(args, "--dry-run")...))
		if after := treeSum(t, dir); after != before {
			t.Errorf("%s: --dry-run has changed files", c.line)
		}
		if done := reportOf(t, must(t, args...)); done != c.steps || plan != done {
			t.Errorf("%s: %s; planned %s; want %s", c.line, done, plan, c.steps)
		}
		mustBe(t, c.line, want)
		for _, name := range strings.Fields(c.gone) {
			if _, err := os.Stat(name); err == nil {
				t.Errorf("%s: %s is still there", c.line, name)
			}
		}
		if _, err := os.Stat(top); strings.Contains(c.line, "--keep") && err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(".virt-rotate*"); len(left) > 0 {
			t.Errorf("%s: left: %q", c.line, left)
		}
	}
}

func TestPullAndRebaseKeepWhatTheGuestReads(t *testing.T) {
	again := restored(t)
	for _, c := range []struct{ line, backing string }{
		{"pull d.qcow2", ""},
		{"pull --base a.qcow2 d.qcow2", "a.qcow2"},
		{"pull --base b.qcow2 -f qcow2 d.qcow2", "b.qcow2"},
		{"rebase -b a.qcow2 -F qcow2 d.qcow2", "a.qcow2"},
		{"rebase -b ./b.qcow2 -F qcow2 d.qcow2", "./b.qcow2"},
		{"rebase -b= d.qcow2", ""},
		{"rebase -b raw.img -F raw d.qcow2", "raw.img"},
		{"rebase -b a.qcow2 -F qcow2 a2.qcow2", "a.qcow2"},
	} {
		dir := again()
		shell(t, dir, "truncate -s 10M raw.img; cp a.qcow2 a2.qcow2")
		fields := strings.Fields(c.line)
		image := fields[len(fields)-1]
		want := sums(t, "a.qcow2", "b.qcow2", "c.qcow2", image)
		lower := fileSum(t, "b.qcow2") + fileSum(t, "c.qcow2")
		before := treeSum(t, dir)
		args := append([]string{"image"}, fields...)
		must(t, append(args, "--dry-run")...)
		if after := treeSum(t, dir); after != before {
			t.Errorf("%s: --dry-run has changed files", c.line)
		}
		must(t, args...)
		mustBe(t, c.line, want)
		if got, _ := infoOf(t, image)["backing-filename"].(string); got != c.backing {
			t.Errorf("%s: backing file %q, want %q", c.line, got, c.backing)
		}
		if fileSum(t, "b.qcow2")+fileSum(t, "c.qcow2") != lower {
			t.Errorf("%s: a lower layer was changed", c.line)
		}
	}
}

func TestUnsafeRebaseOnlyWritesTheName(t *testing.T) {
	dir := newLayers(t)
	before := sums(t, "d.qcow2")
	shell(t, dir, "mkdir moved; mv c.qcow2 moved/c.qcow2")
	must(t, "image", "rebase", "-u", "-b", "moved/c.qcow2", "-F", "qcow2", "d.qcow2")
	mustBe(t, "rebase -u", before)
	must(t, "image", "rebase", "-u", "-b", "/no/where", "-F", "raw", "d.qcow2")
	if info := infoOf(t, "d.qcow2"); info["backing-filename"] != "/no/where" || info["backing-filename-format"] != "raw" {
		t.Error(info)
	}
	must(t, "image", "rebase", "-u", "-b", "", "d.qcow2")
	if info := infoOf(t, "d.qcow2"); info["backing-filename"] != nil {
		t.Error(info)
	}
}

func TestWhatWasInterruptedGoesOnWithTheSameCommand(t *testing.T) {
	again := restored(t)
	for _, line := range []string{"commit --base a.qcow2 c.qcow2", "pull d.qcow2", "rebase -b a.qcow2 -F qcow2 d.qcow2"} {
		again()
		want := sums(t, "d.qcow2")
		args := append([]string{"image"}, strings.Fields(line)...)
		stopped := 0
		for n := 0; ; n += 1 + n/6 {
			_, errs, code := callCtx(newFuse(t.Context(), n), args...)
			if code == term.ExitDone {
				break
			}
			stopped++
			if code != term.ExitFailed || !strings.Contains(errs, "the same command goes on") {
				t.Fatalf("%s, cancelled at %d: exit %d, %q", line, n, code, errs)
			}
			if n%3 == 0 {
				mustBe(t, line, want)
			}
		}
		mustBe(t, line, want)
		if left, _ := filepath.Glob(".virt-rotate*"); len(left) > 0 || stopped < 5 {
			t.Errorf("%s: %d interruptions, left: %q", line, stopped, left)
		}
	}
}

// hold lets another process have an image open, with QEMU's locks, until the
// test ends.
func hold(t *testing.T, flags, path string) {
	t.Helper()
	c := exec.Command("qemu-io", append(strings.Fields(flags), path)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout = io.Discard
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	for range 500 {
		if use, err := vfs.InUse(path); err == nil && use.Read {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-io does not lock " + path)
}

func TestWhatIsNotSafeIsRefusedAndChangesNothing(t *testing.T) {
	dir := newLayers(t)
	shell(t, dir, `
q() { qemu-img create -q -f qcow2 "$@"; }
q -b a.qcow2 -F qcow2 other.qcow2
mkdir far in json nofmt odd link
q far/base.qcow2 1M; q -b ../far/base.qcow2 -F qcow2 in/outside.qcow2
q nofmt/base.qcow2 1M; q -b base.qcow2 -F qcow2 nofmt/over.qcow2; off=$(grep -abo qcow2 nofmt/over.qcow2 | head -1 | cut -d: -f1)
printf '\336\255' | dd of=nofmt/over.qcow2 bs=1 seek=$((off-8)) conv=notrunc status=none # an extension that nobody knows
q -u -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"'$PWD'/a.qcow2"}}' -F qcow2 json/over.qcow2 1M
q -u -b nbd:localhost:1 -F raw far/nbd.qcow2 1M
q -u -b loop2.qcow2 -F qcow2 far/loop1.qcow2 1M; q -u -b loop1.qcow2 -F qcow2 far/loop2.qcow2 1M
q odd/snap.qcow2 1M; q -b snap.qcow2 -F qcow2 odd/oversnap.qcow2; qemu-img snapshot -c s odd/oversnap.qcow2
q -o compat=0.10 odd/bits.qcow2 1M; q -b bits.qcow2 -F qcow2 odd/overbits.qcow2; qemu-img bitmap --add odd/overbits.qcow2 b
q odd/hard.qcow2 1M; q -b hard.qcow2 -F qcow2 odd/overhard.qcow2; ln odd/overhard.qcow2 odd/second
q odd/sym.qcow2 1M; q -b ../odd/sym.qcow2 -F qcow2 link/real.qcow2; ln -s ../link/real.qcow2 odd/oversym.qcow2
qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s odd/aes.qcow2 1M
q odd/bad.qcow2 1M; q -b bad.qcow2 -F qcow2 odd/onbad.qcow2; printf '\2' | dd of=odd/bad.qcow2 bs=1 seek=79 conv=notrunc status=none
truncate -s 1M far/raw.img
`)
	before := treeSum(t, dir)
	for _, c := range []struct{ line, path, want string }{
		{"commit b.qcow2", "other.qcow2", "it builds on a layer that the merge would change"},
		{"commit --base a.qcow2 c.qcow2", "other.qcow2", "it builds on a layer that the merge would change"},
		{"commit in/outside.qcow2", "outside.qcow2", "outside the directories that are allowed"},
		{"pull in/outside.qcow2", "outside.qcow2", "--allow"},
		{"rebase -b= in/outside.qcow2", "outside.qcow2", "--allow"},
		{"convert in/outside.qcow2 new", "outside.qcow2", "--allow"},
		{"map in/outside.qcow2", "outside.qcow2", "--allow"},
		{"info --backing-chain in/outside.qcow2", "outside.qcow2", "--allow"},
		{"pull nofmt/over.qcow2", "nofmt/over.qcow2", "does not say the format of its backing file"},
		{"commit json/over.qcow2", "json/over.qcow2", "not a plain path"},
		{"map far/nbd.qcow2", "nbd.qcow2", "not a plain path"},
		{"pull far/loop1.qcow2", "loop", "loop"},
		{"info --backing-chain far/loop1.qcow2", "loop", "loop"},
		{"commit odd/oversnap.qcow2", "odd/oversnap.qcow2", "1 internal snapshot"},
		{"commit odd/overbits.qcow2", "odd/bits.qcow2", "it cannot keep the persistent bitmaps"},
		{"commit odd/overhard.qcow2", "odd/overhard.qcow2", "2 names"},
		{"commit odd/oversym.qcow2", "oversym.qcow2", "symbolic link"},
		{"pull odd/oversnap.qcow2", "odd/oversnap.qcow2", "internal snapshot"},
		{"commit odd/onbad.qcow2", "odd/bad.qcow2", "corrupt"},
		{"map odd/aes.qcow2", "odd/aes.qcow2", "encrypted"},
		{"convert odd/aes.qcow2 new", "odd/aes.qcow2", "encrypted"},
		{"commit a.qcow2", "a.qcow2", "no backing file"},
		{"commit --base d.qcow2 d.qcow2", "d.qcow2", "into itself"},
		{"commit --base far/raw.img d.qcow2", "raw.img", "not in the chain"},
		{"pull --base d.qcow2 d.qcow2", "d.qcow2", "out of itself"},
		{"rebase -b d.qcow2 -F qcow2 c.qcow2", "c.qcow2", "loop"},
		{"rebase -b nbd:x:1 -F raw d.qcow2", "d.qcow2", "not a plain path"},
		{"commit far/raw.img", "raw.img", "-f raw"},
		{"info far/raw.img", "raw.img", "-f raw"},
		{"info far", "far", "directory"},
	} {
		_, errs, code := call(t, append([]string{"image"}, strings.Fields(c.line)...)...)
		if code != term.ExitRefused || !strings.Contains(errs, c.path) || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: exit %d, %q; want exit 4, %s and %q", c.line, code, errs, c.path, c.want)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ:\n%s\nbefore:\n%s", c.line, after, before)
		}
	}
}

func TestImagesInUseAreLeftAlone(t *testing.T) {
	dir := newLayers(t)
	shell(t, dir, "cp a.qcow2 free.qcow2")
	hold(t, "-f qcow2", "d.qcow2") // and with it c, b, a for reading
	before := treeSum(t, dir)
	for line, want := range map[string]int{
		"commit d.qcow2": term.ExitRefused, "commit --base a.qcow2 c.qcow2": term.ExitRefused, "pull d.qcow2": term.ExitRefused,
		"rebase -b free.qcow2 -F qcow2 d.qcow2": term.ExitRefused, "rebase -u -b free.qcow2 -F qcow2 d.qcow2": term.ExitRefused,
		"convert d.qcow2 new": term.ExitRefused, "convert --chain d.qcow2 new": term.ExitRefused, "map d.qcow2": term.ExitRefused,
		"check d.qcow2": images.ExitCheckFailed, "check -r all c.qcow2": images.ExitCheckFailed, "compare d.qcow2 free.qcow2": image.ExitNotOpened,
	} {
		_, errs, code := call(t, append([]string{"image"}, strings.Fields(line)...)...)
		if code != want || !strings.Contains(errs, "another process") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: exit %d, %q; want exit %d", line, code, errs, want)
		}
		if after := treeSum(t, dir); after != before {
			t.Fatalf("%s: files differ:\n%s\nbefore:\n%s", line, after, before)
		}
	}
	for _, line := range []string{"info d.qcow2", "info --backing-chain d.qcow2", "check c.qcow2", "map c.qcow2", "compare a.qcow2 free.qcow2"} {
		must(t, append([]string{"image"}, strings.Fields(line)...)...)
	}
}

func TestNamesFromImagesCannotTrickATerminal(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `qemu-img create -q -f qcow2 -u -F raw -b $'x\033[2J\ny' a 1M`)
	out := must(t, "image", "info", "a")
	_, errs, code := call(t, "image", "map", "a")
	if code == 0 || strings.ContainsRune(out+errs, 0x1b) || !strings.Contains(out, `x\x1b[2J\ny`) || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit %d\n%q\n%q", code, out, errs)
	}
}

func TestHelpOfImageCommandsHasAnExampleAndTheExitStatuses(t *testing.T) {
	for _, name := range []string{"info", "map", "check", "compare", "create", "convert", "commit", "pull", "rebase"} {
		out := must(t, "image", name, "--help")
		if !strings.Contains(out, "virt-rotate image "+name+" ") || !strings.Contains(out, "Exit status") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestPullWithNothingToDoChangesNothing(t *testing.T) {
	dir := newLayers(t)
	before := treeSum(t, dir)
	for _, line := range []string{"pull a.qcow2", "pull --base a.qcow2 b.qcow2"} {
		if out := must(t, append([]string{"image"}, strings.Fields(line)...)...); !strings.Contains(out, "nothing to do") {
			t.Errorf("%s: %q", line, out)
		}
	}
	if after := treeSum(t, dir); after != before {
		t.Errorf("files differ:\n%s\nbefore:\n%s", after, before)
	}
}

// A base becomes as small as what is merged into it, which the user is told, beforehand too.
func TestACommitThatShrinksTheBaseSaysSo(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
		qemu-img create -q -f qcow2 base.qcow2 8M
		qemu-io -f qcow2 -c "write -P 7 6M 64k" base.qcow2 >/dev/null
		cp base.qcow2 other.qcow2
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 less.qcow2 4M
		qemu-img create -q -f qcow2 -b other.qcow2 -F qcow2 more.qcow2 9M`)
	const note = "the disk has 4 MiB then, as the overlay, and not 8 MiB: what lies beyond goes"
	if out, _, code := call(t, "image", "commit", "--dry-run", "less.qcow2"); code != 0 || !strings.Contains(out, note) {
		t.Errorf("exit %d, %q", code, out)
	}
	if out, _, code := call(t, "image", "commit", "--dry-run", "more.qcow2"); code != 0 || strings.Contains(out, "beyond") {
		t.Errorf("%q", out)
	}
	if out, errs, code := call(t, "image", "commit", "less.qcow2"); code != 0 || !strings.Contains(out, note) {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
}
