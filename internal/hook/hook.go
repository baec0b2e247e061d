// Package hook runs one program of an administrator: with a bound on its time
// and on what it says, an environment of its own, and no shell.
//
// What holds:
//   - Run returns when the program has ended, or has been killed, whatever
//     processes it has started.
//   - The program is the leader of a process group. At its timeout, or when the context
//     ends, all of the group are sent SIGTERM, and, as soon as the leader has
//     ended or Grace has gone by, SIGKILL. No process outside of the group is
//     ever sent anything.
//   - What it says beyond MaxOutput is read and thrown away: it never blocks on it.
package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxOutput is how many bytes of its output are passed on.
const MaxOutput = 64 << 10

// Bounds that are not for the policy to set.
const (
	grace    = 10 * time.Second       // between SIGTERM and SIGKILL
	lingerIO = 500 * time.Millisecond // for output after the program has ended: what it left running may hold it open
)

// A Program is what to run.
type Program struct {
	Argv    []string          // the program, by absolute path, and its arguments
	Env     map[string]string // beside the few variables that are passed on
	Timeout time.Duration
	Output  func(line string) // is told each line of both outputs, without what confuses a terminal; from one goroutine

	grace time.Duration // tests are less patient; 0 = grace
}

// A TimeoutError says that the program was killed since it took too long.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("killed after %s: it took too long", e.After)
}

// Run runs the program in / with no input. It returns nil when the program ended with
// status 0, a *TimeoutError, the error of ctx, or what else went wrong.
func Run(ctx context.Context, p Program) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lines := &lineWriter{tell: p.Output}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", environment(p.Env), lingerIO
	cmd.Stdout, cmd.Stderr = lines, lines // one writer: one goroutine writes to it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	why := p.wait(ctx, cmd.Process.Pid)
	err := cmd.Wait()
	lines.end()
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well, and left something running
		err = nil
	}
	return errors.Join(why, unlessKilled(why, err))
}

// unlessKilled leaves out that a program was killed where that was us.
func unlessKilled(why, err error) error {
	var exit *exec.ExitError
	if why != nil && errors.As(err, &exit) {
		return nil
	}
	return err
}

// wait waits for the end of the process, and sees to it in time. It leaves the process to
// be reaped: until then nothing else can have the number of its group.
func (p *Program) wait(ctx context.Context, pid int) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
		}
	}()
	timer := time.NewTimer(p.Timeout)
	defer timer.Stop()
	var why error
	select {
	case <-ended:
		return nil
	case <-timer.C:
		why = &TimeoutError{p.Timeout}
	case <-ctx.Done():
		why = ctx.Err()
	}
	patience := p.grace
	if patience == 0 {
		patience = grace
	}
	_ = unix.Kill(-pid, unix.SIGTERM) // an error: it has just ended
	select {
	case <-ended:
	case <-time.After(patience):
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	<-ended
	return why
}

// passedOn are the variables that a program gets of our environment: enough to find programs
// and libvirt's session, nothing that was meant for us.
var passedOn = [...]string{"HOME", "LANG", "LC_ALL", "LOGNAME", "TMPDIR", "TZ", "USER", "XDG_RUNTIME_DIR"}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func environment(more map[string]string) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	env := []string{"PATH=" + path}
	for _, name := range passedOn {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range more {
		env = append(env, name+"="+clean(value))
	}
	return env
}
