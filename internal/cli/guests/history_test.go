package guests

import (
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
)

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
