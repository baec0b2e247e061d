package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// script is a program of a shell; $0 is the name of a file of its own.
func script(t *testing.T, text string) (p Program, file string, said *[]string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	said = &[]string{}
	return Program{
		Argv: []string{"/bin/sh", "-c", text, file}, Timeout: 20 * time.Second, grace: 300 * time.Millisecond,
		Output: func(line string) { *said = append(*said, line) },
	}, file, said
}

func TestAProgramThatFailsIsToldWithItsStatus(t *testing.T) {
	p, _, said := script(t, `echo one; echo two >&2; exit 3`)
	err := Run(t.Context(), p)
	if err == nil || err.Error() != "exit status 3" || !slices.Equal(*said, []string{"one", "two"}) {
		t.Errorf("%v, said %q", err, *said)
	}
	p, _, _ = script(t, `exit 0`)
	if err := Run(t.Context(), p); err != nil {
		t.Error(err)
	}
	p.Argv = []string{"/no/such/program"}
	if err := Run(t.Context(), p); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAProgramThatKillsItselfIsTold(t *testing.T) {
	p, _, _ := script(t, `kill -9 $$`)
	if err := Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Error(err)
	}
}

// Neither the program nor its child heeds SIGTERM; the child does not even hold the
// output open.
func TestAProgramThatHangsIsKilledWithItsChildren(t *testing.T) {
	p, file, said := script(t, `trap '' TERM; sh -c 'trap "" TERM; echo $$ >"$0"; while :; do sleep 0.1; done' "$0" >/dev/null 2>&1 &
echo started; while :; do sleep 0.1; done`)
	p.Timeout = time.Second
	began := time.Now()
	err := Run(t.Context(), p)
	var late *TimeoutError
	if !errors.As(err, &late) || late.After != time.Second || !slices.Equal(*said, []string{"started"}) {
		t.Errorf("%v, said %q", err, *said)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	wantGone(t, file)
}

// The program obeys SIGTERM, its child does not and holds the output open.
func TestTheChildOfAProgramThatObeysIsKilled(t *testing.T) {
	p, file, said := script(t, `trap 'echo bye; exit 1' TERM; sh -c 'trap "" TERM; echo $$ >"$0"; while :; do sleep 0.1; done' "$0" &
while :; do sleep 0.1; done`)
	p.Timeout, p.grace = time.Second, time.Minute
	err := Run(t.Context(), p)
	var late *TimeoutError
	if !errors.As(err, &late) || !slices.Contains(*said, "bye") {
		t.Errorf("%v, said %q", err, *said)
	}
	wantGone(t, file)
}

func wantGone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(3 * time.Second); running(pid); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatal("the child runs on")
		}
	}
}

// running tells whether the process is there and no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func TestTheEndOfTheContextEndsTheProgram(t *testing.T) {
	p, _, _ := script(t, `while :; do sleep 0.1; done`)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := Run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p, file, _ := script(t, `touch "$0"`)
	if err := Run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it was started although the context had ended")
	}
}

func TestOutputIsBoundedAndNeverBlocks(t *testing.T) {
	p, file, said := script(t, `head -c 10485760 /dev/zero | tr '\0' 'x'; echo; echo end >"$0"`)
	if err := Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("the program did not come to its end")
	}
	total := 0
	for _, line := range *said {
		total += len(line)
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if last := (*said)[len(*said)-1]; total > MaxOutput+200 || total < MaxOutput || last != fmt.Sprintf("(%d more bytes of output are left out)", 10<<20+1-MaxOutput) {
		t.Errorf("%d bytes in %d lines, the last %q", total, len(*said), last)
	}
}

func TestOutputCannotMoveTheCursor(t *testing.T) {
	p, _, said := script(t, `printf '\033[2Jred\rover\n\n  \377 bad\ttab'`)
	if err := Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(*said, []string{" [2Jred over", "? bad tab"}) {
		t.Errorf("%q", *said)
	}
}

// Something that the program leaves behind is no reason to wait, nor to kill it.
func TestWhatAProgramLeavesRunningIsLeftAlone(t *testing.T) {
	p, file, _ := script(t, `sh -c 'echo $$ >"$0"; sleep 30' "$0" & while ! [ -s "$0" ]; do sleep 0.05; done`)
	began := time.Now()
	if err := Run(t.Context(), p); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	text, _ := os.ReadFile(file)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	if !running(pid) {
		t.Error("it was killed")
	}
}

func TestTheEnvironmentIsSmall(t *testing.T) {
	t.Setenv("SECRET", "x")
	t.Setenv("LIBVIRT_DEFAULT_URI", "qemu:///session")
	t.Setenv("HOME", "/root")
	p, _, said := script(t, `env; pwd; cat`)
	p.Env = map[string]string{"VIRT_ROTATE_DOMAIN": "web", "VIRT_ROTATE_ERROR": "two\nlines\x00"}
	if err := Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	all := "\n" + strings.Join(*said, "\n") + "\n"
	for _, want := range []string{"VIRT_ROTATE_DOMAIN=web", "VIRT_ROTATE_ERROR=two lines", "HOME=/root", "PATH=" + os.Getenv("PATH"), "/"} {
		if !strings.Contains(all, "\n"+want+"\n") {
			t.Errorf("no %q in %s", want, all)
		}
	}
	for _, not := range []string{"SECRET", "LIBVIRT_DEFAULT_URI"} {
		if strings.Contains(all, not) {
			t.Errorf("%s is passed on", not)
		}
	}
}
