package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

const (
	daemonLog  = "log/libvirtd.log"
	daemonConf = "etc/libvirtd.conf"
)

// A Daemon is a host with a libvirtd of its own, for qemu:///system. The daemon
// sees the host's directory in place of libvirt's directories on this machine, in a
// mount namespace; clients reach it by its socket alone. It needs root.
type Daemon struct {
	*Host
	process *exec.Cmd
	ended   chan struct{}

	Env []string // more of its environment, from its next start on
}

// noTurn is the turn of hosts that any number of clients may use.
type noTurn struct{}

func (noTurn) Lock()   {}
func (noTurn) Unlock() {}

// NewDaemon makes a host in dir, as NewHost does, and starts its libvirtd.
func NewDaemon(dir string) (*Daemon, error) {
	p, err := nextProcessor()
	if err != nil {
		return nil, err
	}
	h, err := newHost(dir, "qemu+unix:///system?socket="+filepath.Join(dir, "sock/libvirt-sock"), noTurn{}, p)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"lib", "run", "log", "sock"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	d := &Daemon{Host: h}
	if err := os.WriteFile(filepath.Join(dir, daemonConf), d.conf(), 0o644); err != nil {
		return nil, err
	}
	if err := d.StartDaemon(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) conf() []byte {
	return fmt.Appendf(nil, `unix_sock_dir = "%s/sock"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:%s/%s"
`, d.dir, d.dir, daemonLog)
}

// inPlace mounts the host's directories where libvirtd looks, and becomes libvirtd.
const inPlace = `set -e
for pair in etc:/etc/libvirt lib:/var/lib/libvirt run:/run/libvirt cache:/var/cache/libvirt log:/var/log/libvirt; do
	mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
exec taskset -c "$2" libvirtd -f /etc/libvirt/libvirtd.conf --pid-file "$1/libvirtd.pid"`

// Inside is what a command line begins with whose program is to see the files as libvirtd sees them.
func (d *Daemon) Inside() []string {
	return []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.process.Process.Pid)}
}

// StartDaemon starts libvirtd again, after Kill, and waits until it answers. It
// finds the guests that went on without it.
func (d *Daemon) StartDaemon() error {
	d.process = exec.Command("unshare", "--mount", "--propagation", "private",
		"sh", "-c", inPlace, "sh", d.dir, strconv.Itoa(d.cpu))
	stderr, err := os.Create(filepath.Join(d.dir, "log/libvirtd.stderr"))
	if err != nil {
		return err
	}
	defer stderr.Close() // the daemon keeps its own
	d.process.Stderr = stderr
	d.process.Env = append(os.Environ(), d.Env...)
	if err := d.process.Start(); err != nil {
		return err
	}
	d.ended = make(chan struct{})
	go func(p *exec.Cmd, ended chan struct{}) {
		_ = p.Wait() // killed, usually
		close(ended)
	}(d.process, d.ended)
	return d.wait()
}

// wait returns once the daemon answers.
func (d *Daemon) wait() error {
	socket := filepath.Join(d.dir, "sock/libvirt-sock")
	err := Await(context.Background(), "libvirtd to answer", func() (bool, error) {
		select {
		case <-d.ended:
			return false, fmt.Errorf("libvirtd ended at once: %s", d.read("log/libvirtd.stderr"))
		default:
		}
		conn, err := net.Dial("unix", socket) // no process as long as there is no use in it
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		_ = conn.Close()
		_, err = d.Virsh(context.Background(), "list")
		return err == nil, nil //nolint:nilerr // not yet
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, d.read(daemonLog))
	}
	return nil
}

func (d *Daemon) read(file string) string {
	b, _ := os.ReadFile(filepath.Join(d.dir, file))
	return string(b)
}

// Kill ends the daemon with SIGKILL. Its guests go on.
func (d *Daemon) Kill() error {
	if d.ended == nil {
		return nil
	}
	err := d.process.Process.Signal(syscall.SIGKILL)
	<-d.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Hang stops the daemon: it takes connections and answers nothing, until Resume.
func (d *Daemon) Hang() error { return d.process.Process.Signal(syscall.SIGSTOP) }

// Resume lets a daemon that hangs go on.
func (d *Daemon) Resume() error { return d.process.Process.Signal(syscall.SIGCONT) }

// Close kills the daemon and all guests and removes the host's directory.
func (d *Daemon) Close() error {
	return errors.Join(d.Kill(), d.Host.Close())
}
