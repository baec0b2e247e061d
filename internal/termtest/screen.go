// Package termtest shows what a program writes on a real terminal, one of tmux.
package termtest

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// patience is how long a screen may take to become what is wanted, on a busy machine.
const patience = time.Minute

// A Screen is a terminal of 24 lines.
type Screen struct {
	t      testing.TB
	socket string
}

// Start runs a line of shell on a terminal with so many columns, and keeps the terminal
// until the test ends.
func Start(t testing.TB, width, shell string) *Screen {
	t.Helper()
	s := &Screen{t, filepath.Join(t.TempDir(), "tmux")}
	s.tmux("new-session", "-d", "-x", width, "-y", "24", shell+"; sleep 1h")
	t.Cleanup(func() { s.tmux("kill-server") })
	return s
}

func (s *Screen) tmux(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-f", "/dev/null", "-S", s.socket}, args...)...).CombinedOutput() //nolint:gosec // of tests
	if err != nil {
		s.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// Shows waits until the whole screen is as the expression says. Lines that the terminal has
// wrapped are two.
func (s *Screen) Shows(want string) {
	s.t.Helper()
	re, text := regexp.MustCompile("^"+want+"$"), ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if text = strings.TrimSpace(s.tmux("capture-pane", "-p")); re.MatchString(text) {
			return
		}
	}
	s.t.Fatalf("the screen shows\n%s\nwant %s", text, want)
}

// Resize changes the number of columns.
func (s *Screen) Resize(width string) { s.tmux("resize-window", "-x", width) }

// Colours is what the screen shows, with the escape sequences of its colours.
func (s *Screen) Colours() string { return s.tmux("capture-pane", "-p", "-e") }

// All is what the screen shows and what was scrolled away, with wrapped lines joined.
func (s *Screen) All() string { return s.tmux("capture-pane", "-p", "-J", "-S", "-") }

// Type sends a line, with the key that ends it.
func (s *Screen) Type(line string) { s.tmux("send-keys", line, "Enter") }

// Press presses a key that tmux has a name for, such as C-c.
func (s *Screen) Press(key string) { s.tmux("send-keys", key) }
