package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// withInternal makes disk.qcow2 in dir: internal snapshots, the second of them of a guest
// that runs, with its memory; names that nobody should believe; zeros, holes and clusters
// that are not used any more.
const withInternal = `
qemu-img create -q -f qcow2 disk.qcow2 4M
io() { qemu-io -f qcow2 "$@" disk.qcow2 >/dev/null; }
io -c "write -P 1 0 1M" -c "write -P 0 1M 512k"
qemu-img snapshot -c first disk.qcow2
io -c "write -P 2 256k 256k" -c "write -P 0 512k 256k"
(echo "savevm memory"; echo quit) | qemu-system-x86_64 -accel tcg -m 32 -display none -nodefaults -S -drive if=virtio,format=qcow2,file=disk.qcow2 -monitor stdio >/dev/null
io -c "write -P 3 1536k 256k" -c "write -P 4 3M 128k"
qemu-img snapshot -c "../..
name" disk.qcow2
qemu-img snapshot -c gone disk.qcow2
io -c "write -P 5 1536k 256k" -c "write -P 0 3M 128k"
qemu-img snapshot -d gone disk.qcow2
cp --sparse=never disk.qcow2 full; mv full disk.qcow2
`

// internalStates are checksums of what qemu-img reads in an image's states, by ID; "" is the
// active one.
func internalStates(t *testing.T, path string) map[string]string {
	t.Helper()
	out, err := exec.Command("qemu-img", "info", "-f", "qcow2", "--output=json", path).Output()
	must(t, err)
	var info struct {
		Snapshots []struct{ ID string }
	}
	must(t, json.Unmarshal(out, &info))
	all := map[string]string{"": stateSHA(t, path, "")}
	for _, s := range info.Snapshots {
		all[s.ID] = stateSHA(t, path, s.ID)
	}
	return all
}

func stateSHA(t *testing.T, path, id string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	args := []string{"convert", "-f", "qcow2", "-O", "raw"}
	if id != "" {
		args = append(args, "-l", "snapshot.id="+id)
	}
	if out, err := exec.Command("qemu-img", append(args, path, raw)...).CombinedOutput(); err != nil {
		t.Fatalf("%s, state %q: %v\n%s", path, id, err, out)
	}
	sum := sha(t, raw)
	must(t, os.Remove(raw))
	return sum
}

// listed is what qemu-img tells of the snapshots: names, dates, clocks, sizes of memory.
func listed(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", "snapshot", "-l", path).Output()
	must(t, err)
	return string(out)
}

// killedAtWrite runs a virt-rotate that is killed before its n-th change of a file, or not for 0,
// and tells whether it was.
func killedAtWrite(t *testing.T, n int, args ...string) bool {
	t.Helper()
	path, err := mortal()
	must(t, err)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("VIRT_ROTATE_KILL_AT_WRITE=%d", n))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if n == 0 || cmd.ProcessState.ExitCode() != -1 || !strings.Contains(string(out), "killed at write") {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return true
}

// qemuLoads sees QEMU load a snapshot with its memory.
func qemuLoads(t *testing.T, path, name string) {
	t.Helper()
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-S",
		"-drive", "if=virtio,format=qcow2,file="+path, "-loadvm", name, "-monitor", "stdio")
	cmd.Stdin = strings.NewReader("info status\nquit\n")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "VM status") {
		t.Errorf("loadvm %s: %v\n%s", name, err, out)
	}
}

// qemuTakes sees QEMU go on with memory that is in a file.
func qemuTakes(t *testing.T, path, memory string) {
	t.Helper()
	run(t, filepath.Dir(path), fmt.Sprintf(`(for i in $(seq 600); do sleep 0.1; echo info status; ! grep -q prelaunch said || break; done; echo quit) |
qemu-system-x86_64 -accel tcg -m 32 -display none -nodefaults -S -drive if=virtio,format=qcow2,file=%s -incoming "exec:cat %s" -monitor stdio >said 2>&1
grep -q "paused (prelaunch)" said || { cat said; false; }`, filepath.Base(path), filepath.Base(memory)))
}

// oneIn is how many of the places where a test could kill make a step: one in n, or all if
// VIRT_ROTATE_KILLS is set.
func oneIn(n int) int {
	if everyPlace() {
		return 1
	}
	return n
}

// Killed at each change of the file, an image reads the same in all of its states, and
// nothing is wrong with it but what takes up space; the same command goes on.
func TestCompactKilledAtEveryChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, withInternal)
	disk, work := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "work.qcow2")
	want, list := internalStates(t, disk), listed(t, disk)
	for n := 1; ; n += oneIn(3) {
		run(t, dir, "cp --sparse=never disk.qcow2 work.qcow2")
		killed := killedAtWrite(t, n, "image", "compact", work)
		if killed {
			run(t, dir, "qemu-img check -q -f qcow2 work.qcow2 || test $? = 3")
			if got := internalStates(t, work); !maps.Equal(got, want) {
				t.Fatalf("killed at change %d: qemu-img reads %v, before %v", n, got, want)
			}
			killedAtWrite(t, 0, "image", "compact", work)
		}
		run(t, dir, "qemu-img check -q -f qcow2 work.qcow2")
		if got := internalStates(t, work); !maps.Equal(got, want) || listed(t, work) != list {
			t.Fatalf("killed at change %d, and done again: qemu-img reads %v, before %v", n, got, want)
		}
		if !killed {
			if n < 8 {
				t.Fatalf("only %d changes", n)
			}
			break
		}
	}
	run(t, dir, "test $(du -k work.qcow2 | cut -f1) -lt $(( $(du -k disk.qcow2 | cut -f1) * 9 / 10 ))")
	qemuLoads(t, work, "memory")
}

// A new file is there whole, or not at all, and the image is never touched.
func TestCompactToANewFileKilledAtEveryChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, withInternal)
	disk := filepath.Join(dir, "disk.qcow2")
	want, list, sum := internalStates(t, disk), listed(t, disk), sha(t, disk)
	for n := 1; ; n += oneIn(7) {
		to := filepath.Join(dir, fmt.Sprintf("new%d", n), "disk.qcow2")
		must(t, os.Mkdir(filepath.Dir(to), 0o700))
		if killedAtWrite(t, n, "image", "compact", "--to", to, disk) {
			if _, err := os.Lstat(to); err == nil || sha(t, disk) != sum {
				t.Fatalf("killed at change %d: there is a new file, or the image has changed", n)
			}
			continue
		}
		if got := internalStates(t, to); !maps.Equal(got, want) || listed(t, to) != list || sha(t, disk) != sum || n < 8 {
			t.Fatalf("%d changes: qemu-img reads %v, before %v", n-1, got, want)
		}
		run(t, filepath.Dir(to), "qemu-img check -q -f qcow2 disk.qcow2; test $(stat -c %s disk.qcow2) -lt $(( $(stat -c %s "+disk+") * 9 / 10 ))")
		qemuLoads(t, to, "memory")
		return
	}
}

// Killed at each change, unfolding leaves a directory with all layers, or none under that
// name; the image is never touched. In a directory that is there already, the layers get
// their names in an order in which each that has one is whole.
func TestUnfoldKilledAtEveryChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run(t, dir, withInternal)
	disk := filepath.Join(dir, "disk.qcow2")
	want, sum := internalStates(t, disk), sha(t, disk)
	layers := map[string]string{"disk.first.qcow2": "1", "disk.memory.qcow2": "2", "disk._.._name.qcow2": "3", "disk.qcow2": ""}
	check := func(to string) (n int) {
		for name, id := range layers {
			path := filepath.Join(to, name)
			if _, err := os.Lstat(path); err != nil {
				continue
			}
			n++
			if got := stateSHA(t, path, ""); got != want[id] {
				t.Fatalf("%s does not read as snapshot %q", path, id)
			}
		}
		return n
	}
	for i := range 2 { // into a new directory, and into an empty one
		for n := 1; ; n += oneIn(17) {
			to := filepath.Join(dir, fmt.Sprintf("to%d-%d", i, n))
			if i == 1 {
				must(t, os.Mkdir(to, 0o700))
			}
			killed := killedAtWrite(t, n, "image", "unfold", "--memory", "--to", to, disk)
			if got := check(to); sha(t, disk) != sum || killed && i == 0 && got > 0 || !killed && got != len(layers) {
				t.Fatalf("killed at change %d: %v; %d layers, or the image was changed", n, killed, got)
			}
			if !killed {
				run(t, to, "test $(ls -A | wc -l) = 5")
				qemuTakes(t, filepath.Join(to, "disk.memory.qcow2"), filepath.Join(to, "disk.memory.memory"))
				break
			}
		}
	}
}
