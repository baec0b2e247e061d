package libvirthost

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoKeeper says that nobody on this host is known to keep what a connection tells.
var errNoKeeper = errors.New("whose files libvirt's answers are in is not known")

// A keeper is the process with libvirt's QEMU driver that a connection of ours leads to. It holds a lock on the
// driver's PID file as long as it lives (virPidFileAcquire in qemuStateInitialize, since libvirt 5.6), and reads the
// metadata of snapshots from its files once, when it starts.
type keeper struct {
	pid       int
	life      string   // told apart from all other processes, those of other boots too
	snapshots *os.File // the directory of its domains' snapshots, in its own view of the file systems
}

// keeperOf finds the process by the socket that this process is connected to: who listens there is the driver, or
// systemd on behalf of the one that keeps its PID file beside the socket. Everything else, a tunnel, another
// container's, is nobody's. A driver embedded in this process is left out: asking it is no call, and to look at its
// lock would end it.
func keeperOf(uri string) (*keeper, error) {
	system, err := localDriver(uri)
	if err != nil {
		return nil, err
	}
	s, err := libvirtSocket()
	if err != nil {
		return nil, err
	}
	pid, err := s.driver(system)
	if err != nil {
		return nil, err
	}
	k := &keeper{pid: pid}
	if k.life, err = lifeOf(pid); err != nil {
		return nil, err
	}
	dir, err := snapshotDir(pid, system)
	if err != nil {
		return nil, err
	}
	k.snapshots, err = openIn(pid, dir, unix.O_DIRECTORY)
	return k, err
}

// localDriver tells whether a URI is of this host's system, or of a user's session; anything else is an error.
func localDriver(uri string) (system bool, err error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" || u.Scheme != "qemu" && u.Scheme != "qemu+unix" || u.Path != "/system" && u.Path != "/session" {
		return false, errNoKeeper
	}
	return u.Path == "/system", nil
}

// A socket is the one that this process is connected to.
type socket struct {
	path     string
	listener int // who has begun to listen there
}

// libvirtSockets are the names of sockets of daemons that have the QEMU driver, or lead to the one beside them.
var libvirtSockets = []string{"libvirt-sock", "virtqemud-sock"}

// libvirtSocket finds the only connection of this process to a libvirt of this host.
func libvirtSocket() (found socket, err error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found, err
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		s, ours := connected(fd)
		if !ours || s == found {
			continue
		}
		if found.path != "" {
			return found, errNoKeeper
		}
		found = s
	}
	if found.listener <= 0 { // 0: a process that is not in our PID namespace
		return found, errNoKeeper
	}
	return found, nil
}

// connected tells where a file descriptor leads to, if that is a libvirt.
func connected(fd int) (s socket, ours bool) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return s, false
	}
	u, is := peer.(*unix.SockaddrUnix)
	if !is || !slices.Contains(libvirtSockets, filepath.Base(u.Name)) {
		return s, false
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return s, false
	}
	return socket{u.Name, int(cred.Pid)}, true
}

// driver is the process that holds the QEMU driver's PID file.
func (s socket) driver(system bool) (pid int, err error) {
	file, beside := "/run/libvirt/qemu/driver.pid", slices.Contains([]string{"/run/libvirt", "/var/run/libvirt"}, path.Dir(s.path))
	if !system {
		file, beside = path.Join(path.Dir(s.path), "qemu/run/driver.pid"), true
	}
	f, err := openIn(s.listener, file, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, err
	}
	pid = int(lock.Pid)
	onBehalf := beside && isSystemd(s.listener)
	if lock.Type == unix.F_UNLCK || pid <= 0 || pid != s.listener && !onBehalf {
		return 0, errNoKeeper
	}
	return pid, ownedBy(pid, system)
}

// isSystemd tells whether the process is systemd, which listens until somebody comes.
func isSystemd(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && string(name) == "systemd\n"
}

// ownedBy refuses a driver that runs as another user than the URI says.
func ownedBy(pid int, system bool) error {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return err
	}
	if want := os.Geteuid(); system && st.Uid != 0 || !system && int(st.Uid) != want {
		return errNoKeeper
	}
	return nil
}

// lifeOf names the life of a process: its host's boot, and when it was started.
func lifeOf(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	const started = 22 - 3 // proc(5), counted from the state on, which follows the name in parentheses
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= started {
		return "", errNoKeeper
	}
	return fmt.Sprintf("%s %d %s", bytes.TrimSpace(boot), pid, fields[started]), nil
}

// snapshotDir is where the driver keeps the metadata of snapshots: snapshotDir of libvirt's qemu_conf.c.
func snapshotDir(pid int, system bool) (string, error) {
	if system {
		return "/var/lib/libvirt/qemu/snapshot", nil
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", err
	}
	config := ""
	for _, v := range strings.Split(string(environ), "\x00") {
		if dir, is := strings.CutPrefix(v, "XDG_CONFIG_HOME="); is && path.IsAbs(dir) {
			config = dir
		}
		if dir, is := strings.CutPrefix(v, "HOME="); is && path.IsAbs(dir) && config == "" {
			config = path.Join(dir, ".config")
		}
	}
	if config == "" {
		return "", errNoKeeper
	}
	return path.Join(config, "libvirt/qemu/snapshot"), nil
}

// openIn opens a path as a process sees it. Links lead to where they lead there, which needs Linux 5.6 unless that
// process sees what we see.
func openIn(pid int, name string, flags int) (*os.File, error) {
	flags |= unix.O_CLOEXEC
	if sameView(pid) {
		fd, err := unix.Open(name, flags, 0)
		return file(fd, name), err
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)                                                                                  //nolint:errcheck // it was only looked through
	fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_IN_ROOT}) //nolint:gosec // flags are small
	return file(fd, name), err
}

func file(fd int, name string) *os.File {
	if fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// sameView tells whether a process sees the file systems as this one does.
func sameView(pid int) bool {
	for _, of := range []string{"ns/mnt", "root"} {
		theirs, err := os.Stat(fmt.Sprintf("/proc/%d/%s", pid, of))
		ours, err2 := os.Stat("/proc/self/" + of)
		if err != nil || err2 != nil || !os.SameFile(theirs, ours) {
			return false
		}
	}
	return true
}
