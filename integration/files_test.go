package integration_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A filesBed has a guest that does nothing, with files on its disk.
type filesBed struct {
	*bed
	dom    string
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
	must(t, os.Mkdir(b.path("tmp"), 0o755))
	b.env = []string{"TMPDIR=" + b.path("tmp")}
	return &filesBed{b, "g1", filesAt}
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
debugfs -w -f do 'raw?offset=%[2]d' >out 2>&1 || { cat out; false; }
qemu-img convert -f raw -O qcow2 raw %[3]s`, tree, filesAt, image)
}

// inside changes the file system on the guest's active layer, while it is off.
func (b *filesBed) inside(debugfs ...string) {
	b.t.Helper()
	dir := b.t.TempDir()
	must(b.t, os.WriteFile(filepath.Join(dir, "do"), []byte(strings.Join(debugfs, "\n")+"\n"), 0o600))
	disk := b.disk(b.dom, "vda")
	shell(b.t, dir, `mkdir d; qemu-nbd --persistent --socket=$PWD/s --format=%s %s & nbd=$!
until [ -S s ]; do sleep 0.05; done
nbdfuse d/raw --unix s & until [ -e d/raw ]; do sleep 0.05; done
debugfs -w -f do 'd/raw?offset=%d' >out 2>&1 || { cat out; false; }
sync d/raw; umount d; kill $nbd; wait`, disk.Format, disk.Path, b.offset)
}

// noTraces fails the test if anything of ours is mounted, attached, or on record.
func (b *filesBed) noTraces() {
	b.t.Helper()
	var left []string
	for range 100 {
		if left = b.traces(); len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.t.Errorf("left behind: %q", left)
}

// traces are mounts, loop devices, directories and records of ours. Others of this process may have such directories.
func (b *filesBed) traces() (left []string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(b.t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, b.path("mnt")) {
			left = append(left, line)
		}
	}
	for _, pattern := range []string{b.path("tmp/virt-rotate-*"), b.path("state/readers/*")} {
		found, err := filepath.Glob(pattern)
		must(b.t, err)
		left = append(left, found...)
	}
	return left
}

// hostileTree is what a guest might have on its disk to trick somebody: host is a directory of
// this host that its links lead to.
func hostileTree(t *testing.T, dir, host string) (tree string, debugfs []string) {
	t.Helper()
	tree = filepath.Join(dir, "tree")
	for name, text := range map[string]string{
		"etc/app.conf": "old\n", "etc/app.d/one": "one\n", "etc/with\nnewline": "n", "etc/\x1b[31mred": "e", "etc/bad\xff": "b",
		host + "/secret": "of the guest\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644))
	}
	must(t, os.MkdirAll(host, 0o755))
	must(t, os.WriteFile(host+"/secret", []byte("of the host\n"), 0o600))
	must(t, os.Symlink(host+"/secret", tree+"/etc/out"))
	must(t, os.Symlink(strings.Repeat("../", 20)+host, tree+"/etc/up"))
	return tree, []string{
		"cd /etc", "mknod disk b 7 200", "mknod pipe p", "set_inode_field app.d/one mode 0104755", "set_inode_field app.d/one uid 1234",
	}
}

// byKernel is how most tests get at files: it takes no virtual machine.
func (b *filesBed) byKernel(args ...string) result {
	b.t.Helper()
	return b.rotate(append([]string{args[0], "--host-kernel"}, args[1:]...)...)
}

// newHostileBed has a running guest with a snapshot of hostile files, after which some were
// changed, in another snapshot.
func newHostileBed(t *testing.T) *filesBed {
	t.Helper()
	dir := shortDir(t)
	tree, debugfs := hostileTree(t, dir, filepath.Join(dir, "host"))
	image := filepath.Join(dir, "g1.qcow2")
	partitioned(t, tree, image, debugfs...)
	b := newFilesBed(t, image)
	b.rotate("run", "--now").wantExit(t, 0)
	must(t, os.WriteFile(dir+"/new", []byte("new, and longer\n"), 0o644))
	b.inside("cd /etc", "rm app.conf", "write "+dir+"/new app.conf", "write "+dir+"/new added", "rm pipe")
	b.virsh("start", "g1")
	b.rotate("run", "--now").wantExit(t, 0)
	return b
}

func TestFilesOfASnapshot(t *testing.T) {
	t.Parallel()
	b := newHostileBed(t)
	before := b.layerSums()
	for name, look := range map[string]func(*filesBed){"ls": lists, "cp": copies, "diff": differs, "mount": mounts} {
		t.Run(name, func(t *testing.T) {
			c := *b.bed
			c.t = t
			look(&filesBed{&c, b.dom, b.offset})
		})
	}
	b.noTraces()
	if after := b.layerSums(); !slices.Equal(before, after) {
		t.Errorf("layers were written to: %q, %q", before, after)
	}
}

// layerSums are those of the layers that the guest does not write to.
func (b *filesBed) layerSums() (sums []string) {
	for _, l := range b.chain("g1", "vda")[1:] {
		sums = append(sums, sum(b.t, l.Path))
	}
	return sums
}

func lists(b *filesBed) {
	out := b.byKernel("ls", "-l", "g1@oldest:/etc").wantExit(b.t, 0).Stdout
	for _, want := range []string{"-rw-r--r--", `with\nnewline`, `\x1b[31mred`, `bad\xff`, "b---------", "pipe", "drwxr-xr-x", "out -> "} {
		if !strings.Contains(out, want) {
			b.t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		b.t.Errorf("an escape reached the terminal: %q", out)
	}
	out = b.byKernel("ls", "-R", "g1@oldest:/etc").wantExit(b.t, 0).Stdout
	if !strings.Contains(out, "/etc/app.d/one\n") {
		b.t.Errorf("%s", out)
	}
	var r struct {
		Files []struct {
			Path, Type, Mode string
			Base64           string `json:"path-base64"`
			UID              int
		}
	}
	b.byKernel("ls", "-R", "--output=json", "g1@oldest:/").wantExit(b.t, 0).decode(b.t, &r)
	found := map[string]string{}
	for _, f := range r.Files {
		path := f.Path
		if raw, err := base64.StdEncoding.DecodeString(f.Base64); err == nil && len(raw) > 0 {
			path = string(raw)
		}
		found[path] = fmt.Sprint(f.Type, " ", f.Mode, " ", f.UID)
	}
	for path, want := range map[string]string{
		"/etc/with\nnewline": "file 0644 0", "/etc/\x1b[31mred": "file 0644 0", "/etc/bad\xff": "file 0644 0",
		"/etc/app.d/one": "file 4755 1234", "/etc/disk": "block-device 0600 0", "/etc/pipe": "fifo 0600 0", "/etc/out": "link 0777 0",
	} {
		if got := found[path]; got != want && !strings.HasPrefix(want, "block") && !strings.HasPrefix(want, "fifo") || got == "" {
			b.t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	for line, exit := range map[string]int{
		"ls g1@oldest:/none": 1, "ls g1@nonsense:/": 2, "ls nobody@latest:/": 2, "ls g1:/etc": 2, "ls g1@latest:etc": 2, "ls": 2,
		"ls --filesystem vda7 g1@latest:/": 2, "ls --disk vdz g1@latest:/": 2, "cp g1@latest:/etc/app.conf": 2, "cp g1@latest /tmp/x": 2, "mount g1@latest:/etc /mnt": 2,
		"mount g1@latest " + b.path(): 4, "diff g1@latest:/etc g1@oldest": 2, "ls --key all:key:x g1@latest:/": 1,
	} {
		words := strings.Fields(line)
		if r := b.byKernel(words...); r.Exit != exit || r.Stdout != "" || r.Stderr == "" {
			b.t.Errorf("%s: want exit status %d: %v", line, exit, r)
		}
	}
	if r := b.byKernel("ls", "--filesystem", "vda7", "g1@latest:/"); !strings.Contains(r.Stderr, "vda1 (ext4)") {
		b.t.Errorf("what there is is not told: %v", r)
	}
}

func copies(b *filesBed) {
	host := filepath.Join(filepath.Dir(b.chain("g1", "vda")[2].Path), "host")
	out := b.path("out")
	must(b.t, os.Mkdir(out, 0o755))
	b.byKernel("cp", "g1@oldest:/etc/app.conf", out).wantExit(b.t, 0)
	b.fileIs(out+"/app.conf", "old\n")
	if r := b.byKernel("cp", "g1@latest:/etc/app.conf", out); r.Exit != 1 || !strings.Contains(r.Stderr, "--force") {
		b.t.Errorf("%v", r)
	}
	b.fileIs(out+"/app.conf", "old\n")
	b.byKernel("cp", "--force", "g1@latest:/etc/app.conf", out).wantExit(b.t, 0)
	b.fileIs(out+"/app.conf", "new, and longer\n")
	b.byKernel("cp", "g1@oldest:/etc/out", "g1@oldest:/etc/up/secret", out).wantExit(b.t, 0)
	b.fileIs(out+"/out", "of the guest\n")
	b.fileIs(out+"/secret", "of the guest\n")

	r := b.byKernel("cp", "-a", "g1@oldest:/etc", out).wantExit(b.t, 0)
	if !strings.Contains(r.Stderr, "left out: /etc/disk (block-device)") || !strings.Contains(r.Stderr, "left out: /etc/pipe") {
		b.t.Errorf("%v", r)
	}
	b.fileIs(out+"/etc/bad\xff", "b")
	b.fileIs(out+"/etc/with\nnewline", "n")
	info, err := os.Stat(out + "/etc/app.d/one")
	must(b.t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o755 || st.Uid != 1234 {
		b.t.Errorf("%v, owner %d", info.Mode(), st.Uid)
	}
	if to, err := os.Readlink(out + "/etc/out"); err != nil || to != host+"/secret" {
		b.t.Errorf("%q, %v", to, err)
	}
	if _, err := os.Lstat(out + "/etc/disk"); err == nil {
		b.t.Error("a device node was copied")
	}
	b.byKernel("cp", "-a", "--special", "g1@oldest:/etc", b.path("special")).wantExit(b.t, 0)
	if info, err := os.Lstat(b.path("special/disk")); err != nil || info.Mode().Type() != fs.ModeDevice {
		b.t.Errorf("%v, %v", info, err)
	}
	b.fileIs(host+"/secret", "of the host\n")
	b.byKernel("cp", "-r", "g1@latest:/", b.path("all")).wantExit(b.t, 0)
	b.fileIs(b.path("all/etc/added"), "new, and longer\n")
}

func (b *filesBed) fileIs(path, text string) {
	b.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		b.t.Errorf("%q: %q, %v; want %q", path, got, err, text)
	}
}

func differs(b *filesBed) {
	want := "A /etc/added\nM /etc/app.conf  (content)\nD /etc/pipe\n"
	got := b.byKernel("diff", "g1@oldest", "g1@latest", "/etc").wantExit(b.t, 0).Stdout
	if strings.ReplaceAll(got, "M /etc  (times)\n", "") != want {
		b.t.Errorf("%s\nwant\n%s", got, want)
	}
	if now := b.byKernel("diff", "g1@oldest").wantExit(b.t, 0).Stdout; now != b.byKernel("diff", "g1@oldest", "g1@latest").wantExit(b.t, 0).Stdout {
		b.t.Errorf("the guest has written nothing since, but now differs: %s", now)
	}
	var r struct {
		Changes []struct{ Path, Change string }
	}
	b.byKernel("diff", "--output=json", "g1@oldest", "g1@latest", "/etc").wantExit(b.t, 0).decode(b.t, &r)
	if len(r.Changes) != 3 || r.Changes[0].Change != "added" {
		b.t.Errorf("%+v", r)
	}
	if out := b.byKernel("diff", "g1@latest").wantExit(b.t, 0).Stdout; out != "" {
		b.t.Errorf("%s", out)
	}
}

func mounts(b *filesBed) {
	dir := b.path("mnt")
	must(b.t, os.Mkdir(dir, 0o755))
	for name, end := range map[string]func(*rotation){
		"SIGINT":  func(m *rotation) { must(b.t, m.cmd.Process.Signal(syscall.SIGINT)) },
		"SIGTERM": func(m *rotation) { must(b.t, m.cmd.Process.Signal(syscall.SIGTERM)) },
		"umount":  func(*rotation) { shell(b.t, "/", "umount %s", dir) },
	} {
		m := b.mount(dir)
		b.fileIs(dir+"/etc/app.conf", "old\n")
		if err := os.WriteFile(dir+"/etc/new", nil, 0o644); !errors.Is(err, syscall.EROFS) {
			b.t.Errorf("it can be written to: %v", err)
		}
		if got := shell(b.t, "/", "findmnt -n -o OPTIONS %s", dir); !strings.HasPrefix(got, "ro,nosuid,nodev,noexec") {
			b.t.Errorf("mounted with %s", got)
		}
		end(m)
		if r := m.wait(); r.Exit != 0 || strings.TrimSpace(r.Stdout) != dir {
			b.t.Errorf("%s: %v", name, r)
		}
		b.noTraces()
	}
}

// mount has the oldest snapshot mounted, and waits until that is told.
func (b *filesBed) mount(dir string) *rotation {
	b.t.Helper()
	m := b.beginRotate("mount", "--host-kernel", "g1@oldest", dir)
	b.awaitIn(m, "the directory, printed", func() bool { return m.stdout.String() == dir+"\n" })
	return m
}

// Of a process that is killed nothing stays mounted but what others can see, and the next
// command takes that away and says so. Nothing but that is taken away.
func TestWhatAKilledCommandLeaves(t *testing.T) {
	t.Parallel()
	b := newHostileBed(t)
	dir := b.path("mnt")
	must(t, os.Mkdir(dir, 0o755))
	m := b.mount(dir)
	m.kill()
	time.Sleep(3 * time.Second) // what the kernel remembers of the files below has become too old to be told
	r := b.byKernel("ls", "g1@latest:/etc").wantExit(t, 0)
	if !strings.Contains(r.Stderr, dir+" is unmounted: virt-rotate mount at "+dir) {
		t.Errorf("it is not told: %v", r)
	}
	b.noTraces()

	b.mount(dir).kill()
	shell(t, "/", "umount -l %s; mount -t tmpfs -o size=64k tmpfs %[1]s", dir) // another one's, by now
	b.byKernel("ls", "g1@latest:/etc").wantExit(t, 0)
	shell(t, "/", "umount %s", dir)
	b.noTraces()

	c := b.beginRotate("serve", "g1", "oldest", "--socket", b.path("s"))
	b.awaitIn(c, "the socket", func() bool { _, err := os.Stat(b.path("s")); return err == nil })
	c.kill()
	must(t, os.RemoveAll(b.path("s"))) // qemu-nbd, left alone, may have taken it away
	b.byKernel("ls", "g1@latest:/etc").wantExit(t, 0)
	b.noTraces()
}

// A state that is lost is not handed out by any of the commands.
func TestFilesOfALostStateAreRefused(t *testing.T) {
	t.Parallel()
	b := newHostileBed(t)
	b.destroy("g1")
	base := b.chain("g1", "vda")[2].Path
	shell(t, b.path(), "sed -e 's/<name>g1/<name>g2/' -e 's|<source file=.[^>]*>|<source file=\"%s\"/>|' g1.xml > g2.xml", base)
	b.virsh("define", b.path("g2.xml"))
	b.virsh("start", "g2")
	b.rotate("run") // puts on record that g2 writes to the base
	b.virsh("destroy", "g2")
	b.virsh("undefine", "g2")
	must(t, os.Mkdir(b.path("mnt"), 0o755))
	for _, line := range []string{"ls g1@oldest:/etc", "cp g1@oldest:/etc/app.conf " + b.path("x"), "mount g1@oldest " + b.path("mnt"), "diff g1@oldest g1@latest"} {
		if r := b.byKernel(strings.Fields(line)...); r.Exit != 4 || r.Stdout != "" {
			t.Errorf("%s: %v", line, r)
		}
	}
	b.noTraces()
}
