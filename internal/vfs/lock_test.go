package vfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

// lockEnv makes the test binary a process that holds the lock it names.
const lockEnv = "VFS_TEST_HOLD_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockEnv); path != "" {
		holdLock(path)
		return
	}
	os.Exit(tidy.Run(m.Run))
}

// holdLock takes the lock, starts a child, says "held" and its child's pid, and
// waits for its death.
func holdLock(path string) {
	l, err := AcquireRunLock(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	child := exec.Command("cat")
	child.Stdin = os.Stdin // ends with the test, at the latest
	if err := child.Start(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	select {}
}

// process is a child whose stdin stays open until the test ends.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	p := &process{cmd, in, bufio.NewReader(out)}
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	p.in.Close()
	p.Process.Kill()
	p.Wait()
}

// patience is how long a child may take to say something.
const patience = time.Minute

// waitFor reads lines up to one that contains text.
func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { p.Process.Kill() })
	defer timer.Stop()
	var all strings.Builder
	for !strings.Contains(all.String(), text) {
		line, err := p.out.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			t.Fatalf("%v: %q, %v", p.Args, all.String(), err)
		}
	}
}

func startHolder(t *testing.T, path string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-holder")
	cmd.Env = append(os.Environ(), lockEnv+"="+path)
	p := start(t, cmd)
	p.waitFor(t, "held")
	return p
}

// The holder's child lives on after the kill: it must not hold the lock.
func TestRunLockOfAnotherProcessEndsWithItsDeath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := startHolder(t, path)
	_, err := AcquireRunLock(path)
	var held *HeldError
	if !errors.As(err, &held) || held.Path != path {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{fmt.Sprintf("pid %d ", holder.Process.Pid), "-holder", "since 2"} {
		if !strings.Contains(held.Holder, want) {
			t.Errorf("holder %q lacks %q", held.Holder, want)
		}
	}
	must(t, holder.Process.Kill())
	holder.Process.Wait()
	l, err := AcquireRunLock(path)
	if err != nil {
		t.Fatal("after the kill: ", err)
	}
	must(t, l.Close())
}

func TestRunLockExcludesThisProcessToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	newFile(t, filepath.Dir(path), "lock", strings.Repeat("stale ", 1000))
	l, err := AcquireRunLock(path)
	must(t, err)
	_, err = AcquireRunLock(path)
	var held *HeldError
	if !errors.As(err, &held) || strings.Contains(held.Holder, "stale") {
		t.Errorf("got %v", err)
	}
	must(t, l.Close())
	l, err = AcquireRunLock(path)
	must(t, err)
	must(t, l.Close())
	wantNames(t, filepath.Dir(path), "lock")
}

func TestRunLockOnAFileThatWasReplacedIsNoLock(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "lock", "")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, os.Remove(path))
	if current, err := lockCurrent(f, path); current || err != nil {
		t.Errorf("removed: %v, %v", current, err)
	}
	newFile(t, dir, "lock", "")
	if current, err := lockCurrent(f, path); current || err != nil {
		t.Errorf("replaced: %v, %v", current, err)
	}
}

func TestRunLockRefusesOddPaths(t *testing.T) {
	dir := t.TempDir()
	victim := newFile(t, dir, "victim", "precious")
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(victim, link))
	dangling := filepath.Join(dir, "dangling")
	must(t, os.Symlink("created", dangling))
	for _, path := range []string{link, dangling, dir, "/dev/null"} {
		if l, err := AcquireRunLock(path); err == nil {
			t.Errorf("locked %s", path)
			l.Close()
		}
	}
	wantContent(t, victim, "precious")
	wantNames(t, dir, "dangling", "link", "victim")
}

func TestHolderIsPrintable(t *testing.T) {
	f, err := os.Open(newFile(t, t.TempDir(), "lock", "pid 1\x1b[2J\n\"run\"\x00"))
	must(t, err)
	defer f.Close()
	if got := holder(f); got != `pid 1[2J"run"` {
		t.Errorf("got %q", got)
	}
}

func wantUse(t *testing.T, path string, want Use) {
	t.Helper()
	if got, err := InUse(path); err != nil || got != want {
		t.Errorf("%s: %+v, %v; want %+v", filepath.Base(path), got, err, want)
	}
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
}

// startQemuIO returns once qemu-io has opened its image.
func startQemuIO(t *testing.T, args ...string) *process {
	t.Helper()
	p := start(t, exec.Command("qemu-io", args...))
	_, err := io.WriteString(p.in, "length\n")
	must(t, err)
	p.waitFor(t, "iB") // KiB or MiB
	return p
}

func TestInUseByQEMU(t *testing.T) {
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	qemuImg(t, "create", "-q", "-f", "qcow2", base, "1M")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	reader, writer, none := Use{Read: true}, Use{Read: true, Write: true}, Use{}
	for _, c := range []struct {
		name      string
		args      []string
		base, top Use
	}{
		{"writer", []string{"-f", "qcow2", top}, reader, writer},
		{"writer of base", []string{"-f", "qcow2", base}, writer, none},
		{"reader", []string{"-r", "-f", "qcow2", top}, reader, reader},
		{"reader that shares all", []string{"-r", "-U", "-f", "qcow2", top}, reader, reader},
		{"writer as raw", []string{"-f", "raw", top}, none, writer},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startQemuIO(t, c.args...)
			wantUse(t, base, c.base)
			wantUse(t, top, c.top)
			must(t, p.in.Close())
			must(t, p.Wait())
			wantUse(t, base, none)
			wantUse(t, top, none)
		})
	}
}

func TestInUseEndsWithAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	p := startQemuIO(t, "-f", "qcow2", path)
	wantUse(t, path, Use{Read: true, Write: true})
	must(t, p.Process.Kill())
	p.Process.Wait()
	wantUse(t, path, Use{})
}
