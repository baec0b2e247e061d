package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"golang.org/x/sys/unix"
)

// stateDir is the directory that the flags of policyFile name.
func stateDir(flags []string) string { return flags[3] }

func historyJSON(t *testing.T, args ...string) guests.HistoryReport {
	t.Helper()
	out, errs, code := call(t, append(args, "--output=json")...)
	var report guests.HistoryReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
		t.Fatalf("exit %d, %v, stdout %q, stderr %q", code, err, out, errs)
	}
	return report
}

func TestHistoryTellsWhatRunsDid(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	if out, errs, code := call(t, append(flags, "history")...); code != 0 || out != "" || !strings.Contains(errs, "no such run is on record") {
		t.Errorf("before any run: exit %d, stdout %q, stderr %q", code, out, errs)
	}
	for range 2 { // the test driver's disk is not there: both are refused
		if _, errs, code := call(t, append(flags, "run")...); code != term.ExitRefused {
			t.Fatalf("exit %d, %s", code, errs)
		}
	}
	report := historyJSON(t, append(flags, "history")...)
	if len(report.Entries) != 1 {
		t.Fatalf("%+v", report)
	}
	e := report.Entries[0]
	if e.Domain != "test" || e.Policy != "p" || e.Command != "run" || e.Result != decide.ResultRefused || e.Runs != 2 || len(e.UUID) != 36 ||
		len(e.Refused) != 1 || e.Refused[0].Code != host.CodeUnreadable || e.Steps == nil || e.Start.After(e.End) || time.Since(e.End) > time.Minute {
		t.Errorf("%+v", e)
	}
	out, _, code := call(t, append(flags, "history", "test", "--since=1h", "-n", "5")...)
	if code != 0 || !strings.Contains(out, "test  p  2 runs in ") || !strings.Contains(out, "refused: unreadable: /guest/diskimage1") {
		t.Errorf("exit %d, %q", code, out)
	}
	for _, none := range [][]string{{"nobody"}, {"--since=2100-01-01"}} {
		if report := historyJSON(t, append(append(flags, "history"), none...)...); len(report.Entries) > 0 {
			t.Errorf("%q: %+v", none, report)
		}
	}
	if _, err := os.Stat(filepath.Join(stateDir(flags), "history.db")); err != nil {
		t.Error(err)
	}
}

func TestHistoryNeedsNoLibvirt(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	call(t, append(flags, "run")...)
	if report := historyJSON(t, append(flags, "--connect=no-such-driver:///", "history")...); len(report.Entries) != 1 {
		t.Errorf("%+v", report)
	}
}

func TestHistoryRefusesWrongArguments(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	for _, c := range []struct{ arg, want string }{
		{"--since=yesterday", "want a time such as"}, {"--limit=-1", "want a number of entries"}, {"--limit=x", "limit"}, {"--output=xml", "want human or json"},
	} {
		if _, errs, code := call(t, append(flags, "history", c.arg)...); code != term.ExitUsage || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %q", c.arg, code, errs)
		}
	}
}

// Whatever is wrong with the history: the run is the same, and it is told.
func TestAHistoryThatCannotBeWrittenStopsNoRun(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(path string) error
		after int // entries that are on record afterwards; -1: it cannot be read
	}{
		"garbage":   {func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("garbage "), 9999), 0o600) }, 1},
		"directory": {func(path string) error { return os.Mkdir(path, 0o700) }, -1},
		"truncated": {func(path string) error { return os.Truncate(path, 9000) }, 1},
	} {
		flags := policyFile(t, goodPolicy)
		if err := os.MkdirAll(stateDir(flags), 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(stateDir(flags), "history.db")
		if name == "truncated" {
			call(t, append(flags, "run")...)
		}
		if err := c.spoil(path); err != nil {
			t.Fatal(err)
		}
		out, errs, code := call(t, append(flags, "run", "--output=json")...)
		var report guests.PlanReport
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%s: %v %q %q", name, err, out, errs)
		}
		if code != term.ExitRefused || len(report.Domains) != 1 || len(report.Warnings) != 1 || !strings.Contains(errs, "warning: history: ") {
			t.Errorf("%s: exit %d, %+v, stderr %q", name, code, report, errs)
		}
		if c.after < 0 {
			if _, errs, code := call(t, append(flags, "history")...); code != term.ExitFailed || errs == "" {
				t.Errorf("%s: history: exit %d, %q", name, code, errs)
			}
		} else if report := historyJSON(t, append(flags, "history")...); len(report.Entries) != c.after {
			t.Errorf("%s: %+v", name, report)
		}
		if out, errs, code := call(t, append(flags, "status", "*")...); code != 0 || !strings.Contains(out, "last run") || c.after < 0 && !strings.Contains(errs, "history: ") {
			t.Errorf("%s: status: exit %d, %q, %q", name, code, out, errs)
		}
	}
}

// A reader that hangs with the file open costs a run some seconds; one that writes, a reader.
func TestALockedHistoryHangsNobody(t *testing.T) {
	t.Parallel() // it waits
	flags := policyFile(t, goodPolicy)
	call(t, append(flags, "run")...)
	f, err := os.Open(filepath.Join(stateDir(flags), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, errs, code := call(t, append(flags, "history")...); code != term.ExitFailed || !strings.Contains(errs, "another process has it open") {
		t.Errorf("history: exit %d, %q", code, errs)
	}
	if out, errs, code := call(t, append(flags, "status", "*")...); code != 0 || !strings.Contains(out, "last run") || !strings.Contains(errs, "another process has it open") {
		t.Errorf("status: exit %d, %q, %q", code, out, errs)
	}
	if _, errs, code := call(t, append(flags, "run")...); code != term.ExitRefused || !strings.Contains(errs, "warning: history: ") {
		t.Errorf("run: exit %d, %q", code, errs)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("all of it took %s", took)
	}
}
