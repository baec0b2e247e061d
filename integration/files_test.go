package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A filesBed has a guest g1 that does nothing, with files on its disk.
type filesBed struct {
	*bed
	offset int64 // of the file system, in bytes
}

// idleXML is a guest in which nothing runs but firmware.
const idleXML = `<domain type='qemu'><name>g1</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`

// newFilesBed makes the guest, off, with disks of these images, in qcow2.
func newFilesBed(t *testing.T, disks ...string) *filesBed {
	t.Helper()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	xml := ""
	for i, disk := range disks {
		xml += fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vd%c' bus='virtio'/></disk>", disk, 'a'+i)
	}
	must(t, os.WriteFile(b.path("g1.xml"), fmt.Appendf(nil, idleXML, xml), 0o644))
	b.virsh("define", b.path("g1.xml"))
	return &filesBed{b, filesAt}
}

// shell runs what a test needs.
func shell(t *testing.T, dir, format string, args ...any) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", fmt.Sprintf(format, args...))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
	return string(out)
}

// partitioned makes a qcow2 image with one partition, of an ext4 file system with this tree,
// on which debugfs then does what is asked.
func partitioned(t *testing.T, tree, image string, debugfs ...string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "do"), []byte(strings.Join(debugfs, "\n")+"\n"), 0o600))
	shell(t, dir, `truncate -s 40M raw; echo 2048,,L | sfdisk -q raw
mke2fs -q -t ext4 -d %s -E offset=%d raw 38M
debugfs -w -f do 'raw?offset=%[2]d' >out 2>&1
qemu-img convert -f raw -O qcow2 raw %[3]s`, tree, filesAt, image)
}

// inside changes the file system on the guest's active layer, while it is off.
func (b *filesBed) inside(debugfs ...string) {
	b.t.Helper()
	dir := b.t.TempDir()
	must(b.t, os.WriteFile(filepath.Join(dir, "do"), []byte(strings.Join(debugfs, "\n")+"\n"), 0o600))
	disk := b.disk("g1", "vda")
	shell(b.t, dir, `mkdir d; qemu-nbd --fork --persistent --pid-file=pid --socket=$PWD/s --format=%s %s
nbdfuse -P pid2 d/raw --unix s & until [ -e d/raw ]; do sleep 0.05; done
debugfs -w -f do 'd/raw?offset=%d' >out 2>&1
sync d/raw; umount d; wait; kill $(cat pid); while kill -0 $(cat pid) 2>/dev/null; do sleep 0.05; done`, disk.Format, disk.Path, b.offset)
}

// noTraces fails the test if anything of ours is mounted, or running.
func (b *filesBed) noTraces() {
	b.t.Helper()
	b.await("the end of what was mounted", func() bool {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must(b.t, err)
		loops := shell(b.t, "/", "losetup --noheadings --output BACK-FILE")
		left, err := filepath.Glob(filepath.Join(os.TempDir(), "virt-rotate-*"))
		must(b.t, err)
		readers, err := filepath.Glob(b.path("state/readers/*"))
		must(b.t, err)
		return !strings.Contains(string(mounts), b.path()) && !strings.Contains(loops, "virt-rotate-files") && len(left)+len(readers) == 0
	})
}

func TestFilesOfASnapshotByTheHostsKernel(t *testing.T) {
	dir := shortDir(t)
	tree := filepath.Join(dir, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "etc/app.d"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "etc/app.conf"), []byte("old\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(tree, "etc/app.d/one"), []byte("one\n"), 0o644))
	image := filepath.Join(dir, "g1.qcow2")
	partitioned(t, tree, image)
	b := newFilesBed(t, image)
	b.virsh("start", "g1")
	b.rotate("run", "--now").wantExit(t, 0)
	fmt.Println(b.rotate("ls", "--host-kernel", "-lR", "g1@latest:/"))
	fmt.Println(b.rotate("cp", "--host-kernel", "-a", "g1@latest:/etc", b.path("out")))
	fmt.Println(b.rotate("diff", "--host-kernel", "g1@latest", "/etc"))
	fmt.Println(b.rotate("ls", "-lR", "g1@latest:/"))
	fmt.Println(b.rotate("diff", "g1@latest", "/etc"))
	must(t, os.Mkdir(b.path("mnt"), 0o755))
	for _, how := range []string{"--host-kernel", "--disk=vda"} {
		m := b.beginRotate("mount", how, "g1@latest", b.path("mnt"))
		b.awaitIn(m, "files", func() bool { _, err := os.Stat(b.path("mnt/etc")); return err == nil })
		out, _ := exec.Command("findmnt", b.path("mnt")).CombinedOutput()
		fmt.Println(string(out))
		m.cmd.Process.Signal(syscall.SIGINT)
		fmt.Println(m.wait())
	}
	time.Sleep(time.Second)
	fmt.Println(shell(t, "/", "losetup -l; ls %s; ls -la %s", os.TempDir(), b.path("state/readers")))
}
