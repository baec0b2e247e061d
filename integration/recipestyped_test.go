package integration_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// A typed block is at work.
type typed struct {
	r     *recipe
	cmd   *exec.Cmd
	out   *os.File
	ended chan struct{}
	err   error // once it has ended
}

// begins starts a block. What it leaves in the background may go on.
func (r *recipe) begins(begin string) *typed {
	r.t.Helper()
	return r.script(r.block(begin))
}

// script starts what is written for another host.
func (r *recipe) script(text string) *typed {
	r.t.Helper()
	script := strings.NewReplacer(r.places...).Replace(text)
	out, err := os.CreateTemp(r.t.TempDir(), "out")
	must(r.t, err)
	cmd := r.host.Command(context.Background(), "bash", "-euc", script)
	cmd.Env = slices.Concat(cmd.Env, r.env, []string{"LIBVIRT_DEFAULT_URI=" + r.host.URI(), "PATH=" + r.path("bin") + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"})
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.path("here"), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(r.t, cmd.Start())
	r.t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	c := &typed{r: r, cmd: cmd, out: out, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c
}

func (c *typed) succeeds() string {
	c.r.t.Helper()
	<-c.ended
	out, err := os.ReadFile(c.out.Name())
	must(c.r.t, err)
	if c.err != nil {
		c.r.t.Fatalf("%v: %v\n%s", c.cmd.Args, c.err, out)
	}
	c.r.t.Logf("%s\n%s", c.cmd.Args[len(c.cmd.Args)-1], out)
	return string(out)
}

// await waits for what the block brings about while it is at work.
func (c *typed) await(what string, there func() bool) {
	c.r.t.Helper()
	c.r.await(what, func() bool {
		select {
		case <-c.ended:
			c.r.t.Fatalf("%s has not come: %s", what, c.succeeds())
		default:
		}
		return there()
	})
}

func (r *recipe) wantSaid(out string, words ...string) {
	r.t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			r.t.Errorf("no %q in\n%s", w, out)
		}
	}
}

// holds fails the test unless there is a snapshot with that beginning of a name, and each such one
// that was there before has the state that it had.
func (r *recipe) holds(before states, begin string) {
	r.t.Helper()
	there := 0
	for name, disks := range r.keptStates("web-1") {
		if was, ok := before[name]; ok && strings.HasPrefix(name, begin) {
			there++
			if disks["vda"] != was["vda"] {
				r.t.Errorf("%s is another state now: %v, was %v", name, disks["vda"], was["vda"])
			}
		}
	}
	if there == 0 {
		r.t.Errorf("no snapshot %s… is left", begin)
	}
}
