package nfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
)

const (
	memoryMiB = 400 // what it boots from is in memory, twice for a moment
	diskBytes = 256 << 20
	cmdline   = "console=ttyS0 quiet panic=-1 mitigations=off"
)

// A Machine is a virtual machine.
type Machine struct {
	Name string

	kind   string // filer or host
	cables []cable
	dir    string // its own files
	boot   boot
	qemu   *exec.Cmd
	agent  *rpc.Client
}

// A cable ends in two sockets of this machine.
type cable struct{ here, there string }

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// Start switches it on, and waits until it answers. It has the disk that it had before.
func (m *Machine) Start() error {
	if err := m.makeDisk(); err != nil {
		return err
	}
	for _, c := range m.cables { // QEMU does not bind to a socket that is there
		if err := os.Remove(c.here); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	m.qemu = exec.Command("qemu-system-x86_64", m.arguments()...)
	log, err := os.OpenFile(m.path("qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.qemu.Stdout, m.qemu.Stderr = log, log
	if err := m.qemu.Start(); err != nil {
		return err
	}
	if err := m.connect(); err != nil {
		return fmt.Errorf("%s: %w\n%s", m.Name, err, m.console())
	}
	return nil
}

func (m *Machine) makeDisk() error {
	if _, err := os.Stat(m.path("disk")); err == nil {
		return nil
	}
	own := m.path("own")
	err := errors.Join(os.MkdirAll(m.dir, 0o700), os.WriteFile(own, nil, 0o600), os.Truncate(own, lunBytes), os.WriteFile(m.path("disk"), nil, 0o600), os.Truncate(m.path("disk"), diskBytes))
	if err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", m.path("disk")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return nil
}

func (m *Machine) arguments() []string {
	args := []string{
		"-accel", "tcg", "-machine", "pc", "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(memoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.boot.kernel, "-initrd", m.boot.initrd,
		"-append", fmt.Sprintf("%s NAME=%s KIND=%s", cmdline, m.Name, m.kind),
		"-chardev", "file,id=console,append=on,path=" + m.path("console"), "-serial", "chardev:console",
		// A QEMU that is killed leaves to this machine's cache what it has written: nothing has to be flushed for that.
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + m.path("disk"),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + m.path("agent"),
		"-device", "virtserialport,chardev=agent,name=agent",
	}
	args = append(args, m.lun()...)
	for i, c := range m.cables {
		args = append(args,
			"-netdev", fmt.Sprintf("dgram,id=n%d,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", i, c.here, c.there),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s", i, m.mac(i)))
	}
	return args
}

// LUN is the WWN of a disk that all machines have: a LUN of a SAN. Each has another disk of its own before it, or after it.
const LUN = "5000c500a1b2c3d4"

const lunBytes = 16 << 20

// lun attaches it.
func (m *Machine) lun() []string {
	shared := filepath.Join(filepath.Dir(m.dir), "lun")
	disk := func(id, file, wwn string) []string {
		return []string{"-drive", "if=none,id=" + id + ",format=raw,cache=unsafe,file.locking=off,file.filename=" + file,
			"-device", "scsi-hd,bus=san.0,share-rw=on,drive=" + id + ",wwn=0x" + wwn}
	}
	both := [][]string{disk("lun", shared, LUN), disk("own", m.path("own"), fmt.Sprintf("5000c500000000%02x", m.Name[len(m.Name)-1]))}
	if m.kind == "host" && strings.HasSuffix(m.Name, "2") { // there it is /dev/sdb
		slices.Reverse(both)
	}
	return append([]string{"-device", "virtio-scsi-pci,id=san"}, slices.Concat(both...)...)
}

// mac is an address of this machine's own.
func (m *Machine) mac(i int) string {
	return fmt.Sprintf("52:54:00:00:%02x:%02x", m.Name[len(m.Name)-1], i)
}

// bootLimit is long: a machine may have to wait for others that the processor works for.
const bootLimit = 10 * time.Minute

// connect waits until the agent answers.
func (m *Machine) connect() error {
	var conn net.Conn
	err := m.within(bootLimit, func() (err error) {
		conn, err = net.Dial("unix", m.path("agent"))
		return err
	})
	if err != nil {
		return err
	}
	m.agent = rpc.NewClient(conn)
	answered := m.agent.Go("Machine.Run", inside.Command{Args: []string{"true"}}, &inside.Outcome{}, nil)
	select {
	case <-answered.Done:
		return answered.Error
	case <-time.After(bootLimit):
		return errors.New("it does not answer")
	}
}

// within does again what fails, for so long.
func (m *Machine) within(limit time.Duration, do func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := do()
		if err == nil || time.Now().After(end) || m.qemu.ProcessState != nil {
			return err
		}
	}
}

// console is the end of what it has said, with what its QEMU has.
func (m *Machine) console() string {
	console, _ := os.ReadFile(m.path("console"))
	log, _ := os.ReadFile(m.path("qemu.log"))
	return string(log) + string(console[max(0, len(console)-2000):])
}

// Cut takes its power away.
func (m *Machine) Cut() error {
	if m.qemu == nil {
		return nil
	}
	err := m.qemu.Process.Kill()
	_ = m.qemu.Wait() // it was killed
	m.qemu = nil
	if m.agent != nil {
		err = errors.Join(err, m.agent.Close())
	}
	return err
}

// Pause lets it stand still, as a host does whose cable is out, or whose own host has other things to do.
func (m *Machine) Pause() error { return m.qemu.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (m *Machine) Resume() error { return m.qemu.Process.Signal(syscall.SIGCONT) }

// Run runs a program there, and returns what it has said on standard output; another exit status than 0 is an
// error.
func (m *Machine) Run(args ...string) (string, error) {
	o, err := m.Try(args...)
	if err == nil && o.Code != 0 {
		err = fmt.Errorf("%s: %s: exit status %d: %s", m.Name, strings.Join(args, " "), o.Code, o.Stderr+o.Stdout)
	}
	return o.Stdout, err
}

// Try runs a program there.
func (m *Machine) Try(args ...string) (o inside.Outcome, err error) {
	err = m.Call("Machine.Run", inside.Command{Args: args}, &o)
	return o, err
}

// Call asks package inside.
func (m *Machine) Call(method string, args, reply any) error {
	err := m.agent.Call(method, args, reply)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, rpc.ErrShutdown) {
		return fmt.Errorf("%s does not answer any more: %w\n%s", m.Name, err, m.console())
	}
	return err
}
