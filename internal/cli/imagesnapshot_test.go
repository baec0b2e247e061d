package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

const stated = `io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
qemu-img create -q -f qcow2 base.qcow2 4M; io base.qcow2 "write -P 7 0 4M"
qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 web.qcow2; io web.qcow2 "write -P 1 0 1M"
qemu-img snapshot -c one web.qcow2; io web.qcow2 "write -P 2 512k 1M" "write -z 3M 64k"
qemu-img snapshot -c 1 web.qcow2; qemu-img resize -q web.qcow2 5M; io web.qcow2 "write -P 3 4M 1M" "write -P 4 0 8k"
qemu-img snapshot -c one web.qcow2; qemu-img snapshot -c "two words" web.qcow2
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M; io old.qcow2 "write -P 1 0 1M"
qemu-img create -q -f qcow2 bits.qcow2 1M; qemu-img snapshot -c s bits.qcow2; qemu-img bitmap --add bits.qcow2 b
truncate -s 1M disk.raw
`

var listedDate = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)

// dateless is a list without its dates: two programs took the snapshots, not at one second.
func dateless(text string) string { return listedDate.ReplaceAllString(text, "DATE") }

func TestSnapshotsAreThoseOfQemuImg(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, stated)
	for _, line := range []string{
		"web.qcow2 -c one", "bits.qcow2 -c new", "web.qcow2 -d 1", "bits.qcow2 -d s", "web.qcow2 -a 3", "web.qcow2 -a one",
		"web.qcow2 -d 3", "web.qcow2 -d nix", "web.qcow2 -a nix", "web.qcow2 -l", "web.qcow2",
		"disk.raw -c x",
	} {
		t.Run(line, func(t *testing.T) { snapshotTwice(t, strings.Fields(line)) })
	}
}

func snapshotTwice(t *testing.T, args []string) {
	t.Helper()
	name := args[0]
	shell(t, ".", "cp --sparse=always "+name+" x; cp --sparse=always "+name+" theirs")
	defer shell(t, ".", "rm -f x theirs")
	want, _, code := qemuImg(t, append(append([]string{"snapshot"}, args[1:]...), "theirs")...)
	out, errs, ours := call(t, append(append([]string{"image", "snapshot", "-f", formatOf(name)}, args[1:]...), "x")...)
	if (ours == 0) != (code == 0) {
		t.Fatalf("exit %d, %q (%s); qemu-img: exit %d, %q", ours, out, errs, code, want)
	}
	if code != 0 {
		if fileSum(t, "x") != fileSum(t, name) {
			t.Error("it failed, and the image has changed")
		}
		return
	}
	if want != "" && out != want {
		t.Errorf("%q, want %q", out, want)
	}
	got, _, _ := qemuImg(t, "snapshot", "-l", "x")
	if want, _, _ = qemuImg(t, "snapshot", "-l", "theirs"); dateless(got) != dateless(want) {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if out, errs, code := qemuImg(t, "check", "-f", "qcow2", "x"); code != 0 {
		t.Errorf("check: %s%s", out, errs)
	}
	for _, id := range append(idsOf(got), "")[len(idsOf(got))/2:] { // the qcow2 package has a test of all
		if a, b := stateSum(t, "x", id), stateSum(t, "theirs", id); a != b {
			t.Errorf("snapshot %q reads as something else", id)
		}
	}
}

// idsOf are the IDs of a list.
func idsOf(list string) (ids []string) {
	lines := strings.Split(strings.TrimSpace(list), "\n")
	for _, line := range lines[min(2, len(lines)):] {
		ids = append(ids, strings.Fields(line)[0])
	}
	return ids
}

// stateSum is what QEMU reads in a snapshot, or without an ID in the image.
func stateSum(t *testing.T, path, id string) string {
	t.Helper()
	args := []string{"convert", "-f", "qcow2", "-O", "raw"}
	if id != "" {
		args = append(args, "-l", "snapshot.id="+id)
	}
	if _, errs, code := qemuImg(t, append(args, path, "state.raw")...); code != 0 {
		t.Fatalf("convert %s: %s", path, errs)
	}
	defer os.Remove("state.raw")
	return fileSum(t, "state.raw")
}

func TestConvertOfAnInternalSnapshot(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, stated)
	applied := map[string]string{} // with the size that the disk had then, which qemu-img convert -l does not know
	for _, id := range []string{"2", "3", "4", "one"} {
		shell(t, dir, "cp web.qcow2 then.qcow2; qemu-img snapshot -a "+id+" then.qcow2")
		applied[id] = stateSum(t, "then.qcow2", "")
	}
	for _, c := range []struct{ which, id string }{
		{"two words", "4"}, {"3", "3"}, {"one", "one"}, {"snapshot.id=2", "2"}, {"snapshot.name=1", "2"}, {"snapshot.id=3,snapshot.name=one", "3"},
	} {
		for _, line := range []string{"-O raw", "-c -O qcow2"} {
			must(t, append(append([]string{"image", "convert"}, strings.Fields(line)...), "-l", c.which, "web.qcow2", "new")...)
			format := strings.Fields(line)[len(strings.Fields(line))-1]
			if guestSum(t, format, "new") != applied[c.id] {
				t.Errorf("%s %s: other data than snapshot %s", line, c.which, c.id)
			}
		}
	}
	for which, want := range map[string]string{"nix": `no internal snapshot "nix"`, "1": "is the name of one snapshot and the ID of another", "snapshot.id=1,snapshot.name=x": "no internal snapshot"} {
		if _, errs, code := call(t, "image", "convert", "-l", which, "web.qcow2", "none"); code != term.ExitFailed || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", which, code, errs)
		}
	}
	if _, err := os.Stat("none"); err == nil {
		t.Error("something was made of no snapshot")
	}
}

func TestSnapshotThatIsRefusedChangesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, stated+"qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 over.qcow2; cp old.qcow2 busy.qcow2; qemu-img create -q -f qcow2 -o refcount_bits=1 narrow.qcow2 1M; io narrow.qcow2 'write 0 64k'")
	hold(t, "-f qcow2", "busy.qcow2")
	wantUnchanged(t, dir, "snapshot", []refusal{
		{"-a one web.qcow2", term.ExitRefused, "over.qcow2: it builds on "},
		{"-a s bits.qcow2", term.ExitRefused, "persistent bitmaps"},
		{"-c x busy.qcow2", term.ExitRefused, "another process"},
		{"-c x narrow.qcow2", term.ExitRefused, "refcounts of 1 bits"},
		{"-c x -f raw disk.raw", term.ExitRefused, "no internal snapshots"},
		{"-c x -d one web.qcow2", term.ExitUsage, "exclude each other"},
		{"-U -c x web.qcow2", term.ExitUsage, "-U is for reading only"},
		{"-d snapshot.nr=1 web.qcow2", term.ExitUsage, "want snapshot.id=ID"},
		{"-d 2 web.qcow2", term.ExitFailed, `no internal snapshot "2"`}, // the ID of one that has another name
		{"-c " + strings.Repeat("x", 256) + " web.qcow2", term.ExitFailed, "255 bytes"},
		{"--dry-run -d one web.qcow2", term.ExitDone, ""},
		{"--dry-run -c x web.qcow2", term.ExitDone, ""},
	})
	if out := must(t, "image", "snapshot", "--output=json", "web.qcow2"); !slices.Contains(strings.Fields(out), `"two`) {
		t.Error(out)
	}
}
