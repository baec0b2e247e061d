package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"golang.org/x/sys/unix"
)

// stateDir is the directory that the flags of policyFile name.
func stateDir(flags []string) string { return flags[3] }

func historyJSON(t *testing.T, args ...string) historyReport {
	t.Helper()
	out, errs, code := call(t, append(args, "--output=json")...)
	var report historyReport
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
		if _, errs, code := call(t, append(flags, "run")...); code != exitRefused {
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
		if _, errs, code := call(t, append(flags, "history", c.arg)...); code != exitUsage || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %q", c.arg, code, errs)
		}
	}
}

func TestSinceIsATimeOrADuration(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"":                          {},
		"2026-11-20":                time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
		"2026-11-20 03:00":          time.Date(2026, 11, 20, 3, 0, 0, 0, time.Local),
		"2026-11-20T03:00:00+02:00": time.Date(2026, 11, 20, 1, 0, 0, 0, time.UTC),
		"1d12h":                     now.Add(-36 * time.Hour),
	} {
		if got, err := since(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
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
		var report planReport
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%s: %v %q %q", name, err, out, errs)
		}
		if code != exitRefused || len(report.Domains) != 1 || len(report.Warnings) != 1 || !strings.Contains(errs, "warning: history: ") {
			t.Errorf("%s: exit %d, %+v, stderr %q", name, code, report, errs)
		}
		if c.after < 0 {
			if _, errs, code := call(t, append(flags, "history")...); code != exitFailed || errs == "" {
				t.Errorf("%s: history: exit %d, %q", name, code, errs)
			}
		} else if report := historyJSON(t, append(flags, "history")...); len(report.Entries) != c.after {
			t.Errorf("%s: %+v", name, report)
		}
		if out, errs, code := call(t, append(flags, "status")...); code != 0 || !strings.Contains(out, "last run") || c.after < 0 && !strings.Contains(errs, "history: ") {
			t.Errorf("%s: status: exit %d, %q, %q", name, code, out, errs)
		}
	}
}

// A reader that hangs with the file open costs a run some seconds; one that writes, a reader.
func TestALockedHistoryHangsNobody(t *testing.T) {
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
	if _, errs, code := call(t, append(flags, "history")...); code != exitFailed || !strings.Contains(errs, "another process has it open") {
		t.Errorf("history: exit %d, %q", code, errs)
	}
	if out, errs, code := call(t, append(flags, "status")...); code != 0 || !strings.Contains(out, "last run") || !strings.Contains(errs, "another process has it open") {
		t.Errorf("status: exit %d, %q, %q", code, out, errs)
	}
	if _, errs, code := call(t, append(flags, "run")...); code != exitRefused || !strings.Contains(errs, "warning: history: ") {
		t.Errorf("run: exit %d, %q", code, errs)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("all of it took %s", took)
	}
}

func TestHistoryTextSumsEntriesUp(t *testing.T) {
	at := time.Date(2026, 11, 22, 3, 33, 0, 0, time.Local)
	entries := []history.Entry{
		{Start: at, End: at.Add(90 * time.Second), Command: "run", Domain: "web-1", Policy: "web", Result: "done", Runs: 1, Merged: 3 << 20, Freed: 4 << 20,
			Steps: []history.Step{{Op: "snapshot"}, {Op: "snapshot"}, {Op: "drop-metadata"}, {Op: "merge"}, {Op: "merge"}, {Op: "redefine"}, {Op: "delete-file"}}},
		{Start: at, End: at.Add(5 * time.Hour), Command: "run", Domain: "db", Policy: "p", Result: "nothing-to-do", Runs: 6},
		{Start: at, End: at, Command: "run", Domain: "db", Policy: "p", Result: "failed", Error: "no luck", Runs: 1, Steps: []history.Step{{Op: "redefine"}}, Warnings: []string{"w"}},
		{Start: at, End: at, Command: "restore", Domain: "db", Policy: "p", Result: "done", Runs: 1, Steps: []history.Step{{Op: "switch"}}},
	}
	var out strings.Builder
	historyText(&out, entries)
	want := `2026-11-22 03:33  web-1  web  1m               done           snapshot taken; 1 snapshot dropped; 2 merges of 3.0 MiB; 4.0 MiB freed
2026-11-22 03:33  db     p    6 runs in 5h00m  nothing-to-do  
2026-11-22 03:33  db     p    0s               failed         1 step; no luck; warning: w
2026-11-22 03:33  db     p    0s               done           restore
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}

func TestStatusTellsLastSuccessAndTrend(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	entries := []history.Entry{
		{End: ago(99), Domain: "web", UUID: "another", Command: "run", Result: "done", Allocated: 1},
		{End: ago(72), Domain: "web", UUID: "u", Command: "run", Result: "done", Allocated: 10 << 30, Layers: 4, Merged: 1 << 30, Freed: 1 << 29},
		{End: ago(60), Domain: "db", UUID: "u", Command: "run", Result: "done", Allocated: 2},
		{End: ago(50), Domain: "web", UUID: "u", Command: "restore", Result: "done", Allocated: 3},
		{End: ago(48), Domain: "web", UUID: "u", Command: "run", Result: "nothing-to-do", Allocated: 11 << 30, Layers: 4},
		{End: ago(1), Domain: "web", UUID: "u", Command: "run", Result: "failed", Allocated: 12 << 30, Layers: 5, Merged: 1 << 30},
	}
	s := withTrend(rotate.DomainStatus{Name: "web", LastRun: &rotate.LastRun{Result: "failed"}}, "u", entries)
	if got, want := s.trendText(), "10.0 GiB → 12.0 GiB on disk, 4 → 5 layers in 2d; merged 2.0 GiB, freed 512.0 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if s.LastSuccess == nil || !s.LastSuccess.Equal(ago(48)) || s.successText(now) != "2d ago" {
		t.Errorf("last success %v, %q", s.LastSuccess, s.successText(now))
	}
	s = withTrend(rotate.DomainStatus{Name: "web", LastRun: &rotate.LastRun{Result: "failed"}}, "u", entries[5:])
	if s.LastSuccess != nil || s.successText(now) != "none on record" || s.trendText() != "" {
		t.Errorf("%+v %q %q", s, s.successText(now), s.trendText())
	}
	if s = withTrend(rotate.DomainStatus{Name: "web"}, "u", nil); s.Trend == nil || s.trendText() != "" || s.successText(now) != "" {
		t.Errorf("%+v", s)
	}
}
