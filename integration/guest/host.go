package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// qemuConf keeps guests out of cgroups, because two private daemons would both call
// theirs machine/qemu-1-NAME, and their serial lines out of virtlogd.
const qemuConf = `security_driver = "none"
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = []
`

// asRoot has guests of root run as root: test directories may be searchable by
// nobody else. The guests of an ordinary user run as that user anyway.
const asRoot = `user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
`

func conf() []byte {
	if os.Geteuid() == 0 {
		return []byte(asRoot + qemuConf)
	}
	return []byte(qemuConf)
}

// Files of an embedded host, below its directory.
const (
	confFile  = "etc/qemu.conf"
	capsDir   = "cache/qemu/capabilities"
	pidDir    = "run/qemu"
	imagesDir = "images"
	bootDir   = "boot"
)

// maxDir is in bytes: UNIX socket names end at 107, and libvirt puts
// /lib/qemu/domain-NN-NAME/monitor.sock below the directory.
const maxDir = 50

// A Host is a private libvirt with its guests, in a directory of its own.
type Host struct {
	dir, uri string
	cpu      int
	turn     sync.Locker // one process at a time may use an embedded driver
	guard    *guard

	mu      sync.Mutex // guards domains
	domains map[string]Spec
}

// NewHost makes a host in dir, which must be empty or not exist, with a short path.
// Its libvirt is embedded in each client: there is no daemon, and guests go on
// while no client runs. Close it at the end.
func NewHost(dir string) (*Host, error) {
	p, err := nextProcessor()
	if err != nil {
		return nil, err
	}
	return newHost(dir, embedded(dir), new(sync.Mutex), p)
}

func embedded(dir string) string { return "qemu:///embed?root=" + dir }

// newHost makes a host whose clients run on processor p.
func newHost(dir, uri string, turn sync.Locker, p *processor) (*Host, error) {
	caps, err := p.capabilities()
	if err != nil {
		return nil, err
	}
	return prepareHost(dir, uri, turn, p.cpu, caps)
}

// prepareHost is newHost, with what libvirt is to know of QEMU before it asks.
func prepareHost(dir, uri string, turn sync.Locker, cpu int, caps map[string][]byte) (*Host, error) {
	h := &Host{dir: dir, uri: uri, cpu: cpu, turn: turn, domains: map[string]Spec{}}
	if err := errors.Join(checkDir(dir), reapGuests()); err != nil {
		return nil, err
	}
	for _, sub := range []string{"", filepath.Dir(confFile), capsDir, imagesDir, bootDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	// QEMU's user must be able to search it, and os.MkdirTemp makes it 0700.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	for name, data := range caps {
		if err := os.WriteFile(filepath.Join(dir, capsDir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, confFile), conf(), 0o644); err != nil {
		return nil, err
	}
	var err error
	h.guard, err = newGuard(dir)
	return h, err
}

func checkDir(dir string) error {
	if !filepath.IsAbs(dir) || len(dir) > maxDir {
		return fmt.Errorf("host directory %s: want an absolute path of at most %d bytes", dir, maxDir)
	}
	entries, err := os.ReadDir(dir)
	if len(entries) > 0 {
		return fmt.Errorf("host directory %s is not empty", dir)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Dir is the host's directory; Close removes it.
func (h *Host) Dir() string { return h.dir }

// URI is what to connect to.
func (h *Host) URI() string { return h.uri }

// Command prepares a libvirt client. It is pinned to one CPU, as all clients of this
// host are: where cpuid differs between cores, libvirt would probe QEMU again,
// for seconds, after each change of core. Guests are not pinned.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(h.cpu), name}, args...)...)
	// Without LIBVIRT_DEBUG the embedded driver logs to stderr.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LIBVIRT_DEBUG=4")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Turn waits until no other client uses an embedded host, and keeps others out
// until done is called. Virsh and all that builds on it take a turn themselves.
func (h *Host) Turn() (done func()) {
	h.turn.Lock()
	return h.turn.Unlock
}

// Virsh runs a virsh command, or several in one argument with semicolons, and
// returns what it prints.
//
// Rarely, a client of an embedded libvirt 9.0 that ends just after it has connected
// crashes, having done its work, because the driver is still looking at the guests.
// Commands that only look are then tried again, others believed if they have told
// their result.
func (h *Host) Virsh(ctx context.Context, args ...string) (stdout string, err error) {
	defer h.Turn()()
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("virsh %q has not ended after %v", args, Patience))
	defer cancel()
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}()
	for range 3 {
		stdout, err = output(h.Command(ctx, "virsh", append([]string{"-c", h.uri}, args...)...))
		if crashed(err) && !onlyLooks(args) && strings.TrimSpace(stdout) != "" {
			err = nil // it tells its result when all is done
		}
		if !crashed(err) || !onlyLooks(args) {
			break
		}
	}
	return stdout, err
}

func crashed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGSEGV
}

// onlyLooks judges by the first command: those of one batch are of one kind.
func onlyLooks(args []string) bool {
	switch command, _, _ := strings.Cut(args[0], " "); command {
	case "domblklist", "domstate", "dumpxml", "list", "snapshot-dumpxml", "snapshot-list":
		return true
	}
	return false
}

// Close kills all guests and removes the host's directory. Should the process end
// without it, the same happens, a little later; only a virt-rotate goes on.
func (h *Host) Close() error {
	return errors.Join(h.KillGuests(), os.RemoveAll(h.dir), h.guard.dismiss())
}

// KillGuests ends all guests as a power cut would. It is not told to libvirt.
func (h *Host) KillGuests() error {
	files, err := filepath.Glob(filepath.Join(h.dir, pidDir, "*.pid"))
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".pid"); name != "driver" {
			err = errors.Join(err, h.Crash(name))
		}
	}
	return err
}

// Crash kills a guest's QEMU and returns when it is gone, or at once if it was.
// libvirt finds out by itself, but not at once: see WaitOff.
func (h *Host) Crash(name string) error {
	pid, err := h.pid(name)
	if err != nil || !h.owns(pid) {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill guest %s: %w", name, err)
	}
	return Await(context.Background(), fmt.Sprintf("the death of guest %s, process %d", name, pid), func() (bool, error) {
		return !h.owns(pid), nil
	})
}

// pid is 0 when the guest does not run.
func (h *Host) pid(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, pidDir, name+".pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// owns tells whether a process is one of this host's guests: it names files of the host's, or,
// where all its images lie elsewhere, sees the daemon's mounts. A zombie, which some init
// processes leave for a second, has no command line.
func (h *Host) owns(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || strings.Contains(string(line), h.dir+"/") {
		return err == nil
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err == nil && strings.Contains(string(line), "qemu-system") && strings.Contains(string(mounts), h.dir+"/")
}
