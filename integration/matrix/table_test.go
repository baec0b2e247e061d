package main

import (
	"os"
	"testing"
	"time"
)

// Lines of suites that were not run stay.
func TestTablesKeepWhatWasNotRun(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("docs", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"docs/testing.md", "README.md"} {
		if err := os.WriteFile(file, []byte("above\n"+begin+end+"below\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	day := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, rows := range [][]row{
		{{suite: "sid", libvirt: "12.8.0", qemu: "11.1.3", demo: "passed", passed: 5, seconds: 7}, {suite: "trixie", libvirt: "11.2.0", qemu: "10.0.1", demo: "passed", passed: 4}},
		{{suite: "trixie", libvirt: "11.3.0", qemu: "10.0.2", demo: "passed", passed: 6}},
	} {
		if err := writeTables(rows, day); err != nil {
			t.Fatal(err)
		}
		day = day.AddDate(0, 0, 1)
	}
	for file, want := range map[string]string{
		"docs/testing.md": "above\n" + begin + head + "| trixie | 11.3.0 | 10.0.2 | passed | 6 | 0 | 0 | 2026-01-03 |\n| sid | 12.8.0 | 11.1.3 | passed | 5 | 0 | 7 | 2026-01-02 |\n" + end + "below\n",
		"README.md":       "above\n" + begin + "| libvirt | QEMU | Debian |\n|---|---|---|\n| 11.3.0 | 10.0.2 | trixie |\n| 12.8.0 | 11.1.3 | sid |\n" + end + "below\n",
	} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s:\n%s", file, got)
		}
	}
}
