package nspawn

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// hostPackages is what a fresh Debian has on which somebody runs guests, and lintian.
const hostPackages = "systemd systemd-sysv dbus bash bash-completion ca-certificates libvirt-daemon-system libvirt-clients " +
	"qemu-system-x86 qemu-utils procps iproute2 lintian sudo"

// laterPackages can be installed without a network.
const laterPackages = "cockpit ansible-core python3-apt"

// A System is a Debian system of that suite with systemd as its first process, in namespaces
// of its own and without a network. It ends, and is forgotten, with the test.
type System struct {
	t          *testing.T
	Suite      string
	root       string // as seen from here
	Leader     string // PID of its systemd
	Transcript bytes.Buffer
}

// Images is where the guests' disks are, in the system and from here.
const Images = "/var/lib/libvirt/images"

// Boot makes such a system, once, and starts it for this test.
func Boot(t *testing.T, suite string) *System {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	sum := sha256.Sum256([]byte(hostPackages + "+" + laterPackages)) // another list is another system
	lower := filepath.Join(cache, "virt-rotate", "systems", fmt.Sprintf("%s-%x", suite, sum[:4]))
	must(t, os.MkdirAll(filepath.Dir(lower), 0o755))
	succeeds(t, exec.Command("../matrix/root.sh", suite, lower, hostPackages, laterPackages))
	dir := t.TempDir()
	s := &System{t: t, Suite: suite, root: filepath.Join(dir, "root")}
	for _, sub := range []string{"root", "upper", "work", "images"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	succeeds(t, exec.Command("mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir), s.root))
	t.Cleanup(func() { succeeds(t, exec.Command("umount", s.root)) })
	s.prepare()
	s.start(filepath.Join(dir, "images"))
	return s
}

// prepare lets libvirt do without the cgroups that belong to this machine.
func (s *System) prepare() {
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

func (s *System) group() string { return fmt.Sprintf("virt-rotate-%s-%d", s.Suite, os.Getpid()) }

// start boots it. Images lie on a file system of this machine, not on an overlay.
func (s *System) start(imageDir string) {
	s.t.Helper()
	cmd := exec.Command("sh", "-c", ownGroup, "sh", s.group(), "systemd-nspawn", "--quiet", "--directory="+s.root, "--register=no", "--keep-unit", "--boot", "--private-network",
		"--machine=vr-"+s.Suite, "--hostname=kvm1", "--bind="+imageDir+":"+Images)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	must(s.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.t.Cleanup(func() {
		// No orderly shutdown: the guest would not obey. All processes end with the first one.
		if pid, err := strconv.Atoi(s.Leader); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		} else {
			_ = cmd.Process.Kill()
		}
		<-ended
		succeeds(s.t, exec.Command("sh", "-c", endGroup, "sh", s.group()))
	})
	s.Await("systemd to start", func() (bool, error) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, console.String())
		}
		s.Leader = strings.TrimSpace(string(children))
		if s.Leader == "" || strings.Contains(s.Leader, " ") {
			return false, nil
		}
		state, _ := s.Command("systemctl", "is-system-running").Output()
		return strings.HasPrefix(string(state), "running") || strings.HasPrefix(string(state), "degraded"), nil
	})
}

// Await waits for some minutes until something is there.
func (s *System) Await(what string, ready func() (bool, error)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	if err := guest.Await(ctx, what, ready); err != nil {
		s.t.Fatal(err)
	}
}

// Command prepares a command of the system's, as its root runs it.
func (s *System) Command(name string, args ...string) *exec.Cmd {
	enter := []string{
		"--target", s.Leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive", name,
	}
	return exec.Command("nsenter", append(enter, args...)...)
}

// Sh runs a line of shell, which must succeed, and returns what it prints.
func (s *System) Sh(line string) string {
	s.t.Helper()
	out, err := s.Command("sh", "-c", "cd; "+line).CombinedOutput()
	fmt.Fprintf(&s.Transcript, "# %s\n%s", line, out)
	if err != nil {
		s.t.Fatalf("%s: %s: %v\n%s\n%s", s.Suite, line, err, out, s.Journal())
	}
	return string(out)
}

// Try runs a line of shell that may fail.
func (s *System) Try(line string) (out string, code int) {
	s.t.Helper()
	cmd := s.Command("sh", "-c", "cd; "+line)
	b, err := cmd.CombinedOutput()
	fmt.Fprintf(&s.Transcript, "# %s\n%s", line, b)
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// Journal is the end of what runs have told.
func (s *System) Journal() string {
	out, _ := s.Command("journalctl", "--no-pager", "-u", "virt-rotate.service", "-n", "60").Output()
	return string(out)
}

// Property is one of a unit's.
func (s *System) Property(unit, name string) string {
	s.t.Helper()
	return strings.TrimSpace(s.Sh("systemctl show -P " + name + " " + unit))
}

// Write makes a file of the system's.
func (s *System) Write(path, text string, mode os.FileMode) {
	s.t.Helper()
	cmd := s.Command("sh", "-c", fmt.Sprintf("mkdir -p '%s' && cat > '%s' && chmod %o '%[2]s'", filepath.Dir(path), path, mode))
	cmd.Stdin = strings.NewReader(text)
	succeeds(s.t, cmd)
}

// Bring copies a file of this machine into the system.
func (s *System) Bring(path, target string) {
	s.t.Helper()
	b, err := os.ReadFile(path)
	must(s.t, err)
	s.Write(target, string(b), 0o644)
}

// Exists tells whether there is something in the system of that path.
func (s *System) Exists(path string) bool {
	_, code := s.Try("test -e '" + path + "'")
	return code == 0
}

// succeeds runs a command, which must.
func succeeds(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
