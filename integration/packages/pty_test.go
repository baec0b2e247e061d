package packages_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"golang.org/x/sys/unix"
)

// A terminal is a pseudo-terminal with a shell, as somebody has it who types.
type terminal struct {
	t      *testing.T
	master *os.File

	mu   sync.Mutex // guards said
	said strings.Builder
}

// newTerminal starts a shell on a terminal of its own, which ends with the test.
func newTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200}))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	must(t, slave.Close())
	term := &terminal{t: t, master: master}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.said.Write(b[:n])
			term.mu.Unlock()
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_, _ = master.WriteString("\x15exit\n") // a kill would leave the shell behind where cmd only leads to it
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("%v did not end: %v; it shows\n%s", cmd.Args, <-ended, term.text())
		}
		<-read
		_ = master.Close()
	})
	return term
}

// text is all that the terminal has shown since it was last asked by forget.
func (m *terminal) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

func (m *terminal) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said.Reset()
}

func (m *terminal) send(keys string) {
	m.t.Helper()
	_, err := m.master.WriteString(keys)
	must(m.t, err)
}

// await returns what stands between the two marks, once it is shown.
func (m *terminal) await(begin, end string) string {
	m.t.Helper()
	var found string
	err := guest.Await(m.t.Context(), "the terminal to show "+begin, func() (bool, error) {
		_, rest, ok := strings.Cut(m.text(), begin)
		text, _, ends := strings.Cut(rest, end)
		found = text
		return ok && ends, nil
	})
	if err != nil {
		m.t.Fatalf("%v; it shows\n%s", err, m.text())
	}
	return found
}

// pressed types keys and the key Tab, and returns what the command line is then.
func (m *terminal) pressed(keys string) string {
	m.t.Helper()
	m.forget()
	m.send(keys + "\t\x07") // ^G shows the line; see the shells' settings
	line := m.await("LINE<", ">ENDS")
	m.send("\x15") // ^U
	time.Sleep(50 * time.Millisecond)
	return strings.TrimRight(line, " ")
}
