package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
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

func TestStatusReadsLastRunsOfOlderVersions(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	if _, errs, code := call(t, append(flags, "run")...); code != exitRefused {
		t.Fatalf("exit %d, %s", code, errs)
	}
	out, _, _ := call(t, append(flags, "status")...)
	if !strings.Contains(out, "ago: refused: unreadable: /guest/diskimage1: ") {
		t.Errorf("status %s", out)
	}
	path := filepath.Join(stateDir(flags), "last-run.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var runs map[string]map[string]any
	if err := json.Unmarshal(data, &runs); err != nil || len(runs) != 1 {
		t.Fatalf("%s: %v", data, err)
	}
	for _, run := range runs {
		delete(run, "refused")
	}
	if data, err = json.Marshal(runs); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	out, errs, code := call(t, append(flags, "status")...)
	if err != nil || code != 0 || !strings.Contains(out, "ago: refused\n") {
		t.Errorf("%v, exit %d, %s%s", err, code, out, errs)
	}
}
