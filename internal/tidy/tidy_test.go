package tidy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// role makes the test binary one whose tests do something untidy.
const role = "TIDY_TEST_ROLE"

func TestMain(m *testing.M) {
	if what := os.Getenv(role); what != "" {
		os.Exit(Run(func() int { return untidy(what) }))
	}
	os.Exit(Run(m.Run))
}

// untidy says where its directories are.
func untidy(what string) int {
	for _, dir := range []string{os.TempDir(), Memory()} {
		os.Stdout.WriteString(dir + "\n")
	}
	switch what {
	case "leaves a file":
		must(os.WriteFile(filepath.Join(os.TempDir(), "a-file"), nil, 0o600))
	case "leaves a file in memory":
		must(os.WriteFile(filepath.Join(Memory(), "a-file"), nil, 0o600))
	case "fails":
		return 7
	case "dies":
		must(os.WriteFile(filepath.Join(Memory(), "a-file"), nil, 0o600))
		must(os.WriteFile(filepath.Join(os.TempDir(), "a-file"), nil, 0o600))
		self, err := os.FindProcess(os.Getpid())
		must(err)
		must(self.Kill())
		select {}
	}
	return 0
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// run runs the tests of a role, and returns how they end, what they say and their directories.
func run(t *testing.T, what string) (exit int, said string, dirs []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+what)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, _ := cmd.Output() // the exit status tells
	return cmd.ProcessState.ExitCode(), stderr.String(), strings.Fields(string(out))
}

func TestWhatTestsLeaveBehindIsToldAndRemoved(t *testing.T) {
	for what, want := range map[string]int{"leaves nothing": 0, "leaves a file": 1, "leaves a file in memory": 1, "fails": 7} {
		exit, said, dirs := run(t, what)
		if exit != want || strings.Contains(said, "a-file") != strings.Contains(what, "file") {
			t.Errorf("%s: exit status %d, want %d: %s", what, exit, want, said)
		}
		wantGone(t, dirs)
	}
}

func TestAGuardCleansUpAfterTestsThatDie(t *testing.T) {
	exit, said, dirs := run(t, "dies")
	if exit != -1 {
		t.Errorf("exit status %d: %s", exit, said)
	}
	if _, err := os.Stat(dirs[0]); err != nil {
		t.Errorf("there was nothing to clean up: %v", err)
	}
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		_, temp := os.Stat(dirs[0])
		_, memory := os.Stat(dirs[1])
		if os.IsNotExist(temp) && os.IsNotExist(memory) {
			break
		}
	}
	wantGone(t, dirs)
}

func wantGone(t *testing.T, dirs []string) {
	t.Helper()
	if len(dirs) != 2 {
		t.Fatalf("directories %q", dirs)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want it gone", dir, err)
		}
	}
}

func TestAProcessThatUsesNothingForLongHasStalled(t *testing.T) {
	enough := int(StallLimit / lookEvery)
	tick := make(chan time.Time, 3*enough)
	for range cap(tick) {
		tick <- time.Time{}
	}
	close(tick)
	looks := 0 // it works once, just before the limit
	stalled(tick, func() time.Duration {
		looks++
		if looks < enough {
			return 0
		}
		return time.Second
	})
	if want := 2 * enough; looks != want {
		t.Errorf("stalled after %d looks, want %d", looks, want)
	}
}
