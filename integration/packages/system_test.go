//go:build packages

package packages_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// host is what a fresh Debian has on which somebody runs guests, and lintian.
const hostPackages = "systemd systemd-sysv dbus bash bash-completion ca-certificates libvirt-daemon-system libvirt-clients " +
	"qemu-system-x86 qemu-utils procps iproute2 lintian"

// A system is a Debian system of that suite with systemd as its first process, in namespaces
// of its own and without a network. It ends, and is forgotten, with the test.
type system struct {
	t          *testing.T
	suite      string
	root       string // as seen from here
	leader     string // PID of its systemd
	transcript bytes.Buffer
}

// images is where the guests' disks are, in the system and from here.
const images = "/var/lib/libvirt/images"

func bootSystem(t *testing.T, suite string) *system {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	lower := filepath.Join(cache, "virt-rotate/packages", suite)
	must(t, os.MkdirAll(filepath.Dir(lower), 0o755))
	output(t, exec.Command(top+"/integration/matrix/root.sh", suite, lower, hostPackages))
	dir := t.TempDir()
	s := &system{t: t, suite: suite, root: filepath.Join(dir, "root")}
	for _, sub := range []string{"root", "upper", "work", "images"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	output(t, exec.Command("mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir), s.root))
	t.Cleanup(func() { output(t, exec.Command("umount", s.root)) })
	s.prepare()
	s.start(filepath.Join(dir, "images"))
	return s
}

// prepare lets libvirt do without the cgroups that belong to this machine.
func (s *system) prepare() {
	s.t.Helper()
	conf, err := os.OpenFile(s.root+"/etc/libvirt/qemu.conf", os.O_APPEND|os.O_WRONLY, 0)
	must(s.t, err)
	_, err = conf.WriteString("cgroup_controllers = [ ]\n")
	must(s.t, err)
	must(s.t, conf.Close())
	must(s.t, os.WriteFile(s.root+"/etc/hostname", []byte("kvm1\n"), 0o644))
	must(s.t, os.WriteFile(s.root+"/etc/hosts", []byte("127.0.0.1 localhost kvm1\n"), 0o644))
}

// ownGroup runs a command in a control group of its own: else the systemds of two systems would
// take each other's services for theirs. endGroup removes it.
const (
	ownGroup = `for h in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
		[ ! -e "$h/cgroup.procs" ] || { mkdir "$h/$1" && echo $$ >"$h/$1/cgroup.procs"; } || exit
	done
	shift
	exec "$@"`
	endGroup = `for h in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
		[ ! -d "$h/$1" ] || find "$h/$1" -depth -type d -exec rmdir {} +
	done`
)

func (s *system) group() string { return fmt.Sprintf("virt-rotate-%s-%d", s.suite, os.Getpid()) }

// start boots it. Images lie on a file system of this machine, not on an overlay.
func (s *system) start(imageDir string) {
	s.t.Helper()
	cmd := exec.Command("sh", "-c", ownGroup, "sh", s.group(), "systemd-nspawn", "--quiet", "--directory="+s.root, "--register=no", "--keep-unit", "--boot", "--private-network",
		"--machine=vr-"+s.suite, "--hostname=kvm1", "--bind="+imageDir+":"+images)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	must(s.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.t.Cleanup(func() {
		// No orderly shutdown: the guest would not obey. All processes end with the first one.
		if pid, err := strconv.Atoi(s.leader); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		} else {
			_ = cmd.Process.Kill()
		}
		<-ended
		output(s.t, exec.Command("sh", "-c", endGroup, "sh", s.group()))
	})
	s.await("systemd to start", func() (bool, error) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, console.String())
		}
		s.leader = strings.TrimSpace(string(children))
		if s.leader == "" || strings.Contains(s.leader, " ") {
			return false, nil
		}
		state, _ := s.command("systemctl", "is-system-running").Output()
		return strings.HasPrefix(string(state), "running") || strings.HasPrefix(string(state), "degraded"), nil
	})
}

func (s *system) await(what string, ready func() (bool, error)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	if err := guest.Await(ctx, what, ready); err != nil {
		s.t.Fatal(err)
	}
}

// command prepares a command of the system's, as its root runs it.
func (s *system) command(name string, args ...string) *exec.Cmd {
	enter := []string{
		"--target", s.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive", name,
	}
	return exec.Command("nsenter", append(enter, args...)...)
}

// sh runs a line of shell, which must succeed, and returns what it prints.
func (s *system) sh(line string) string {
	s.t.Helper()
	out, err := s.command("sh", "-c", "cd; "+line).CombinedOutput()
	fmt.Fprintf(&s.transcript, "# %s\n%s", line, out)
	if err != nil {
		s.t.Fatalf("%s: %s: %v\n%s\n%s", s.suite, line, err, out, s.journal())
	}
	return string(out)
}

// try runs a line of shell that may fail.
func (s *system) try(line string) (out string, code int) {
	s.t.Helper()
	cmd := s.command("sh", "-c", "cd; "+line)
	b, err := cmd.CombinedOutput()
	fmt.Fprintf(&s.transcript, "# %s\n%s", line, b)
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func (s *system) journal() string {
	out, _ := s.command("journalctl", "--no-pager", "-u", "virt-rotate.service", "-n", "60").Output()
	return string(out)
}

// property is one of a unit's.
func (s *system) property(unit, name string) string {
	s.t.Helper()
	return strings.TrimSpace(s.sh("systemctl show -P " + name + " " + unit))
}

// write makes a file of the system's.
func (s *system) write(path, text string, mode os.FileMode) {
	s.t.Helper()
	cmd := s.command("sh", "-c", fmt.Sprintf("mkdir -p '%s' && cat > '%s' && chmod %o '%[2]s'", filepath.Dir(path), path, mode))
	cmd.Stdin = strings.NewReader(text)
	output(s.t, cmd)
}

// bring copies a file of this machine into the system.
func (s *system) bring(path, target string) {
	s.t.Helper()
	b, err := os.ReadFile(path)
	must(s.t, err)
	s.write(target, string(b), 0o644)
}

func (s *system) exists(path string) bool {
	_, code := s.try("test -e '" + path + "'")
	return code == 0
}

// domain is a guest that does nothing but write numbered blocks to vda.
const domain = `<domain type='qemu'>
<name>web-1</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/lib/libvirt/boot/web-1.boot'/><target dev='vdz' bus='virtio'/><readonly/><boot order='1'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='` + images + `/web-1.qcow2'/><target dev='vda' bus='ide'/><boot order='2'/><address type='drive' controller='0' bus='0' unit='0'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/>
<serial type='file'><source path='/var/log/libvirt/qemu/web-1.serial'/></serial>
</devices>
</domain>
`

const diskSize = 8 << 20

// startGuest defines and starts web-1, and waits until it writes.
func (s *system) startGuest() {
	s.t.Helper()
	boot := filepath.Join(s.t.TempDir(), "boot")
	must(s.t, guest.DefaultParams(diskSize).WriteBootDisk(boot))
	s.bring(boot, "/var/lib/libvirt/boot/web-1.boot")
	s.write("/root/web-1.xml", domain, 0o644)
	s.sh(fmt.Sprintf("qemu-img create -q -f qcow2 %s/web-1.qcow2 %d", images, diskSize))
	s.sh("virsh -q define /root/web-1.xml && virsh -q start web-1")
	s.waitWrites(50)
}

// waitWrites waits until the guest has written so many more blocks.
func (s *system) waitWrites(n int) {
	s.t.Helper()
	count := func() (int, error) {
		b, err := s.command("cat", "/var/log/libvirt/qemu/web-1.serial").Output()
		return 8 * strings.Count(string(b), "."), err
	}
	first, err := count()
	must(s.t, err)
	s.await("the guest to write", func() (bool, error) {
		now, err := count()
		return now >= first+n, err
	})
}

// blocks reads the state of a snapshot: it must be one that the guest was in, which is the
// number of its newest block.
func (s *system) blocks(snapshot string) uint64 {
	s.t.Helper()
	s.sh("rm -f /root/state.raw && virt-rotate export web-1 " + snapshot + " -o /root/state.raw -O raw")
	f, err := os.Open("/proc/" + s.leader + "/root/root/state.raw")
	must(s.t, err)
	defer f.Close()
	k, err := guest.Check(f, guest.DefaultParams(diskSize))
	must(s.t, err)
	return k
}

// snapshots are the names, oldest first.
func (s *system) snapshots() []string {
	s.t.Helper()
	out, err := s.command("virsh", "snapshot-list", "web-1", "--name", "--topological").Output()
	must(s.t, err)
	return strings.Fields(string(out))
}
