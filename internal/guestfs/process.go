package guestfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// endTime is how long a program is given to end by itself.
const endTime = 10 * time.Second

// A process is a program that works for a View. It ends with this one, whatever that dies of,
// and Ctrl-C does not reach it: what it works for is taken down in order.
type process struct {
	name  string
	cmd   *exec.Cmd
	errs  tail
	ended chan struct{} // closed at its end
	err   error         // how it ended; to be read after that
}

// start runs a program; hidden gives it mounts of its own, which nobody else sees and which
// end with it.
func start(name string, hidden bool, prepare func(*exec.Cmd), args ...string) (*process, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setsid: true}
	if hidden && canMount() {
		p.cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	p.cmd.Stderr = &p.errs
	if prepare != nil {
		prepare(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// canMount tells whether this process may have mounts of its own.
func canMount() bool { return os.Geteuid() == 0 }

// path is a file as the process sees it.
func (p *process) path(path string) string {
	if p.cmd.SysProcAttr.Unshareflags == 0 {
		return path
	}
	return fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, path)
}

// failure says what it ended with.
func (p *process) failure() error {
	<-p.ended
	text := strings.TrimSpace(p.errs.String())
	if text == "" && p.err != nil {
		text = p.err.Error()
	}
	if text == "" {
		text = "it ended"
	}
	return fmt.Errorf("%s: %s", p.name, text)
}

// finish waits until it ends by itself, and ends it if it does not.
func (p *process) finish() error {
	select {
	case <-p.ended:
		return nil
	case <-time.After(endTime):
		return p.stop()
	}
}

// stop ends it.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(endTime):
	}
	err := p.cmd.Process.Kill()
	<-p.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// A tail keeps the end of what is written.
type tail struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// tailMost is how much of that, in bytes.
const tailMost = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len()+len(b) > 2*tailMost {
		t.buf.Next(max(0, t.buf.Len()-tailMost))
	}
	return t.buf.Write(b[max(0, len(b)-tailMost):])
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

var _ io.Writer = (*tail)(nil)
