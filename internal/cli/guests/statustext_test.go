package guests

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func TestStatusTellsWhyTheLastRunRefused(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	due := now.Add(-time.Second)
	three := now.Add(-3 * time.Hour)
	refused := []decide.Refusal{{Code: "no-space", Path: "/x", Detail: "too little"}, {Code: "hook", Detail: "exit status 1"}}
	for _, c := range []struct {
		run  rotate.LastRun
		want string
	}{
		{rotate.LastRun{Time: three, Result: "refused", Refused: refused[1:]}, "  last run  3h00m ago: refused: hook: exit status 1\n"},
		{rotate.LastRun{Time: three, Result: "partly-refused", Refused: refused}, "  last run  3h00m ago: partly-refused: no-space: /x: too little; hook: exit status 1\n"},
		{rotate.LastRun{Time: three, Result: "failed", Error: "why", Refused: refused[1:]}, "  last run  3h00m ago: failed: why; hook: exit status 1\n"},
		{rotate.LastRun{Time: three, Result: "done"}, "  last run  3h00m ago: done\n"},
	} {
		s := rotate.DomainStatus{Name: "web", Policy: "p", State: host.ShutOff, LastRun: &c.run, Due: &due, Waiting: "nothing was written"}
		var out bytes.Buffer
		statusText(&out, &statusReport{Domains: []domainStatus{{DomainStatus: s}}}, now)
		if !strings.Contains(out.String(), c.want) || !strings.Contains(out.String(), "  next      snapshot due now\n  waiting   nothing was written\n") {
			t.Errorf("got\n%s\nwant %s", out.String(), c.want)
		}
	}
}

// What somebody wrote beside a snapshot cannot trick a terminal.
func TestStatusTellsNotesAndWhetherASnapshotWasQuiesced(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s := rotate.DomainStatus{Name: "web", Snapshots: []rotate.SnapshotStatus{
		{Name: "s1", Time: now, Reason: "not taken by virt-rotate", Note: "before the\nupgrade\x1b[31m"},
		{Name: "s2", Time: now, Ours: true, Keep: true, Reason: "newest", Quiesced: true},
	}}
	var out bytes.Buffer
	statusText(&out, &statusReport{Domains: []domainStatus{{DomainStatus: s}}}, now)
	for _, want := range []string{"foreign  not taken by virt-rotate: before the upgrade\\x1b[31m\n", "keep     newest, quiesced\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant %q", out.String(), want)
		}
	}
}
