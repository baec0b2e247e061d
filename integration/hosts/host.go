package hosts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Share is where all hosts have their storage.
const Share = "/srv/share"

// A Fleet is hosts with one storage.
type Fleet struct {
	dir   string
	hosts []*Host
}

// A Host is one of them.
type Host struct {
	Name string

	dir     string // its own files
	fleet   *Fleet
	n       int
	process *exec.Cmd
	pid     int // of the first process in its namespaces
}

// New makes n hosts in dir, which have its subdirectory share. With fuse each has it by bindfs.
func New(dir string, n int, fuse bool) (*Fleet, error) {
	f := &Fleet{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "share", "img"), 0o755); err != nil {
		return nil, err
	}
	for i := range n {
		h := &Host{Name: fmt.Sprintf("host%d", i+1), dir: filepath.Join(dir, fmt.Sprintf("h%d", i+1)), fleet: f, n: i + 1}
		f.hosts = append(f.hosts, h)
		if err := errors.Join(h.prepare(), h.Boot(fuse)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Host returns the host with that number, from 1 on.
func (f *Fleet) Host(n int) *Host { return f.hosts[n-1] }

// Path names a file of the storage, as this process sees it.
func (f *Fleet) Path(name string) string { return filepath.Join(f.dir, "share", name) }

// Close ends all hosts, with all that runs on them.
func (f *Fleet) Close() error {
	var err error
	for _, h := range f.hosts {
		err = errors.Join(err, h.Kill())
	}
	return err
}

const daemonConf = `auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
host_uuid = "0000000%[1]d-1111-2222-3333-44444444444%[1]d"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`

const qemuConf = `user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
`

// prepare makes the host's own directories.
func (h *Host) prepare() error {
	for _, sub := range []string{"lib", "log", "cache", "state"} {
		if err := os.MkdirAll(filepath.Join(h.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("cp", "-a", "/etc/libvirt", filepath.Join(h.dir, "etc")).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return errors.Join(os.WriteFile(filepath.Join(h.dir, "etc/libvirtd.conf"), fmt.Appendf(nil, daemonConf, h.n), 0o600),
		os.WriteFile(filepath.Join(h.dir, "etc/qemu.conf"), []byte(qemuConf), 0o600))
}

// begin puts the host's directories in place, and stays as its first process.
const begin = `set -e
mount --make-rprivate /
hostname "$1"
mount -t proc proc /proc
for pair in etc:/etc/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
	mount --bind "$2/${pair%%:*}" "${pair#*:}"
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /srv
mkdir -p /run/libvirt /srv/share /srv/alt
case $4 in
fuse) bindfs "$3" /srv/share; bindfs "$3" /srv/alt ;;
*) mount --bind "$3" /srv/share; mount --bind "$3" /srv/alt ;;
esac
ip link set lo up
touch "$2/ready"
while :; do sleep 3600; done`

// Boot starts the host: namespaces, mounts, libvirtd.
func (h *Host) Boot(fuse bool) error {
	kind := "bind"
	if fuse {
		kind = "fuse"
	}
	ready := filepath.Join(h.dir, "ready")
	_ = os.Remove(ready)
	h.process = exec.Command("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
		"sh", "-c", begin, "sh", h.Name, h.dir, filepath.Join(h.fleet.dir, "share"), kind)
	h.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	h.process.Stdout, h.process.Stderr = &said, &said
	h.process.WaitDelay = time.Second
	if err := h.process.Start(); err != nil {
		return err
	}
	err := await("host "+h.Name, func() bool { _, err := os.Stat(ready); return err == nil })
	if err != nil {
		return fmt.Errorf("%w: %s", err, said.String())
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", h.process.Process.Pid))
	if err != nil {
		return err
	}
	if h.pid, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
		return err
	}
	return h.startDaemon()
}

// startDaemon pins libvirtd to one processor: on some machines those differ, and it would ask QEMU
// what it can do again and again.
func (h *Host) startDaemon() error {
	if out, err := h.Run("taskset", "-c", "0", "libvirtd", "-d", "--listen", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirtd.pid"); err != nil {
		return fmt.Errorf("libvirtd: %w: %s", err, out)
	}
	return await("libvirtd of "+h.Name, func() bool { _, err := h.Virsh("list"); return err == nil })
}

// patience is how long anything may take that comes by itself.
const patience = 2 * time.Minute

func await(what string, done func() bool) error {
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if done() {
			return nil
		}
	}
	return fmt.Errorf("%s does not come", what)
}

// Kill is a power loss of the host.
func (h *Host) Kill() error {
	if h.process == nil {
		return nil
	}
	_ = syscall.Kill(h.pid, syscall.SIGKILL) // with all in its namespace
	err := h.process.Process.Kill()
	_ = h.process.Wait()
	h.process = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Command is a program that runs on the host.
func (h *Host) Command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	all := append([]string{"-t", strconv.Itoa(h.pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--"}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", all...)
	cmd.Cancel = func() error { defer cancel(); return cmd.Process.Kill() }
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	return cmd
}

// Run runs a program on the host, to its end.
func (h *Host) Run(args ...string) (string, error) {
	out, err := h.Command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Virsh runs virsh on the host.
func (h *Host) Virsh(args ...string) (string, error) {
	return h.Run(append([]string{"virsh", "-c", "qemu:///system"}, args...)...)
}

// State is the state directory of virt-rotate on the host.
func (h *Host) State() string { return filepath.Join(h.dir, "state") }

const domainXML = `<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/>
<target dev='vda' bus='virtio'/></disk><serial type='null'/></devices></domain>`

// Define defines a guest with that disk. Guests of one name have one UUID on all hosts.
func (h *Host) Define(name, disk string) error {
	sum := sha256.Sum256([]byte(name))
	uuid := fmt.Sprintf("%x-%x-4%x-8%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	uuid = uuid[:15] + uuid[16:20] + uuid[20:21] + uuid[22:]
	return h.DefineXML(fmt.Sprintf(domainXML, name, uuid, disk))
}

// DefineXML defines a guest as it is told.
func (h *Host) DefineXML(xml string) error {
	path := filepath.Join(h.dir, "define.xml")
	if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
		return err
	}
	_, err := h.Virsh("define", path)
	return err
}

// Active is the image that the guest writes to.
func (h *Host) Active(name string) (string, error) {
	out, err := h.Virsh("domblklist", name)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "vda" {
			return f[1], err
		}
	}
	return "", errors.Join(err, fmt.Errorf("%s has no disk vda: %s", name, out))
}

// Write writes a pattern into a MiB of the guest's disk, as the guest would: through its QEMU if it runs.
func (h *Host) Write(name string, pattern byte, mib int) error {
	write := fmt.Sprintf("write -P %d %dM 1M", pattern, mib)
	if state, _ := h.Virsh("domstate", name); strings.TrimSpace(state) == "running" {
		_, err := h.Virsh("qemu-monitor-command", "--hmp", name, fmt.Sprintf("qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend %q", write))
		return err
	}
	path, err := h.Active(name)
	if err == nil {
		_, err = h.Run("qemu-io", "-f", "qcow2", "-c", write, path)
	}
	return err
}

// Sum is a checksum of all that a guest reads from an image.
func (h *Host) Sum(path string) (string, error) {
	raw := filepath.Join(h.dir, "sum.raw")
	defer os.Remove(raw)
	if _, err := h.Run("qemu-img", "convert", "-U", "-O", "raw", path, raw); err != nil {
		return "", err
	}
	data, err := os.ReadFile(raw)
	return fmt.Sprintf("%x", sha256.Sum256(data)), err
}
