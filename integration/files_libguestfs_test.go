package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// byLibguestfs runs a command whose virtual machine must do without KVM, and keeps what it is
// made of between runs.
func (b *filesBed) byLibguestfs(args ...string) *rotation {
	b.t.Helper()
	cache, err := os.UserCacheDir()
	must(b.t, err)
	dir := filepath.Join(cache, "virt-rotate", "libguestfs")
	must(b.t, os.MkdirAll(dir, 0o755))
	b.env = append(b.env, "LIBGUESTFS_BACKEND_SETTINGS=force_tcg", "LIBGUESTFS_CACHEDIR="+dir)
	return b.beginRotate(args...)
}

// lvmScript makes a physical volume of $1 and on it vg/root with the tree $2. Logical volumes
// are made by their description: the host needs no device mapper for it.
const lvmScript = `truncate -s 64M "$1"
loop=$(losetup -f --show "$1")
trap 'losetup -d "$loop"' EXIT
conf="devices { scan=\"/dev\" filter=[\"a|^$loop\$|\",\"r|.*|\"] use_devicesfile=0 } backup { backup=0 archive=0 }"
lvm pvcreate -q --config "$conf" -ff -y "$loop"
lvm vgcreate -q --config "$conf" vg "$loop"
lvm vgcfgbackup -q --config "$conf" -f "$1.was" vg
awk '{ print }
/^\tphysical_volumes \{/ { inside = 1 }
inside && /^\t}/ { inside = 0
print "logical_volumes { root { id = \"abcdef-abcd-abcd-abcd-abcd-abcd-abcdef\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] segment_count = 1"
print "segment1 { start_extent = 0 extent_count = 12 type = \"striped\" stripe_count = 1 stripes = [ \"pv0\", 0 ] } } }" }' "$1.was" > "$1.is"
lvm vgcfgrestore -q --config "$conf" --force -f "$1.is" vg
mke2fs -q -t ext4 -d "$2" -E offset=1048576 "$loop" 40M`

// newVariedBed has a running guest with a snapshot of a disk with NTFS in a partition and one
// with LVM.
func newVariedBed(t *testing.T) *filesBed {
	t.Helper()
	dir := shortDir(t)
	tree, debugfs := hostileTree(t, dir, filepath.Join(dir, "host"))
	must(t, os.WriteFile(filepath.Join(dir, "lvm.sh"), []byte(lvmScript), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "do"), []byte(strings.Join(debugfs, "\n")+"\n"), 0o600))
	shell(t, dir, `sh -eu lvm.sh lvm.raw %s
debugfs -w -f do 'lvm.raw?offset=1048576'
truncate -s 24M ntfs; mkntfs -q -F ntfs; echo text > file; ntfscp ntfs file /file.txt
truncate -s 26M raw; echo 2048,,7 | sfdisk -q raw; dd if=ntfs of=raw bs=1M seek=1 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 raw vda.qcow2; qemu-img convert -f raw -O qcow2 lvm.raw vdb.qcow2`, tree)
	b := newFilesBed(t, filepath.Join(dir, "vda.qcow2"), filepath.Join(dir, "vdb.qcow2"))
	b.virsh("start", "g1")
	b.rotate("run", "--now").wantExit(t, 0)
	return b
}

// By libguestfs: LVM on the second disk, a file system that was made to trick somebody, all
// in one start of its virtual machine. VIRT_ROTATE_LIBGUESTFS has the rest tried, too, each
// with a start of its own.
func TestFilesByLibguestfs(t *testing.T) {
	if os.Getenv("VIRT_ROTATE_LIBGUESTFS") == "" {
		long(t)
	}
	t.Parallel()
	b := newVariedBed(t)
	before := b.layerSums()
	out := b.path("out")
	r := b.byLibguestfs("cp", "-a", "--filesystem", "vg/root", "g1@latest:/etc", out).wait().wantExit(t, 0)
	if !strings.Contains(r.Stderr, "left out: /etc/disk (block-device)") {
		t.Errorf("%v", r)
	}
	b.fileIs(out+"/app.conf", "old\n")
	b.fileIs(out+"/with\nnewline", "n")
	b.fileIs(out+"/bad\xff", "b")
	info, err := os.Stat(out + "/app.d/one")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o755 || st.Uid != 1234 {
		t.Errorf("%v, owner %d", info.Mode(), st.Uid)
	}
	if to, err := os.Readlink(out + "/out"); err != nil || !strings.HasSuffix(to, "/host/secret") {
		t.Errorf("%q, %v", to, err)
	}
	if r := b.byKernel("ls", "--filesystem", "vdb", "g1@latest:/"); r.Exit == 0 || !strings.Contains(r.Stderr, "physical volume of LVM") {
		t.Errorf("LVM by the host's kernel: %v", r)
	}
	if os.Getenv("VIRT_ROTATE_LIBGUESTFS") != "" {
		moreByLibguestfs(b)
	}
	b.noTraces()
	if after := b.layerSums(); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("layers were written to")
	}
}

func moreByLibguestfs(b *filesBed) {
	host := filepath.Join(filepath.Dir(b.chain("g1", "vda")[1].Path), "host")
	r := b.byLibguestfs("ls", "g1@latest:/").wait()
	if r.Exit != 2 || !strings.Contains(r.Stderr, "vda1 (ntfs)") || !strings.Contains(r.Stderr, "vg/root (ext4)") {
		b.t.Errorf("which file systems there are is not told: %v", r)
	}
	if out := b.byLibguestfs("ls", "-l", "--filesystem", "vda1", "g1@latest:/").wait().wantExit(b.t, 0).Stdout; !strings.Contains(out, "file.txt") {
		b.t.Errorf("%s", out)
	}
	out := b.byLibguestfs("ls", "--filesystem", "vg/root", "g1@latest:/etc").wait().wantExit(b.t, 0).Stdout
	if !strings.Contains(out, `\x1b[31mred`) || !strings.Contains(out, `bad\xff`) {
		b.t.Errorf("%s", out)
	}
	more := b.path("more")
	must(b.t, os.Mkdir(more, 0o755))
	b.byLibguestfs("cp", "--filesystem", "vg/root", "g1@latest:/etc/up/secret", "g1@latest:/etc/out", more).wait().wantExit(b.t, 0)
	b.fileIs(more+"/secret", "of the guest\n")
	b.fileIs(more+"/out", "of the guest\n")
	b.fileIs(host+"/secret", "of the host\n")
	if out := b.byLibguestfs("diff", "--filesystem", "vg/root", "g1@latest").wait().wantExit(b.t, 0).Stdout; out != "" {
		b.t.Errorf("%s", out)
	}
	dir := b.path("mnt")
	must(b.t, os.Mkdir(dir, 0o755))
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		m := b.byLibguestfs("mount", "--filesystem", "vg/root", "g1@latest", dir)
		b.awaitIn(m, "the directory, printed", func() bool { return m.stdout.String() == dir+"\n" })
		b.fileIs(dir+"/etc/app.conf", "old\n")
		must(b.t, m.cmd.Process.Signal(end))
		m.wait()
	}
	b.byKernel("ls", "--disk", "vda", "g1@latest:/") // takes away what was left
}
