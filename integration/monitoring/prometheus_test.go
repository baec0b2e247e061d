package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/internal/metrics"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

const examples = "../../examples/prometheus"

// everything is a host that has a series of each metric.
func everything() *metrics.Host {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	return &metrics.Host{
		Version: "v1", Up: true, Level: rotate.Critical, Runs: history.HostRuns{Start: at, End: at.Add(time.Minute), Count: 7},
		Storages: []metrics.Storage{{Dir: hostile, Peers: map[string]time.Time{hostile: at}}},
		Guests: []metrics.Guest{
			{Verdict: rotate.Verdict{Domain: hostile, Policy: "p", Level: rotate.Critical, Snapshots: 3, Newest: &at, MaxAge: 2 * time.Hour, CritAge: 4 * time.Hour,
				MaxChain: 30, Free: 1 << 40, MinFree: 1 << 30, LastRun: &rotate.LastRun{Time: at, Result: decide.ResultFailed}, LastSuccess: &at,
				Reasons: []rotate.Reason{{Level: rotate.Critical, Code: "overdue"}}},
				Status: &rotate.DomainStatus{State: "shut off", Disks: []rotate.DiskStatus{{Target: "vda", Chain: []rotate.LayerStatus{{Allocated: 5}}}}},
				Totals: &history.Totals{Merged: 11, Freed: 12, Runs: map[string]int{"done": 4}, Refused: map[string]int{"hook": 2}},
				Took:   time.Second},
			{Verdict: rotate.Verdict{Domain: "scratch", Level: rotate.Warning, Free: -1, Reasons: []rotate.Reason{{Level: rotate.Warning, Code: rotate.ReasonUncovered}}}},
		},
	}
}

// hostile would be more than a value, were it not escaped.
const hostile = "a\"} 1\nvirt_rotate_libvirt_up 0\n#\\ é"

func text(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := metrics.Print(&b, everything()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := Tool(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// promtool runs it and wants it to succeed without a word of complaint.
func promtool(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, "promtool"), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestPromtoolHasNothingAgainstOurMetrics(t *testing.T) {
	if out := promtool(t, text(t), "check", "metrics"); out != "" {
		t.Errorf("promtool check metrics: %s", out)
	}
}

func TestAlertRulesHoldInPromtool(t *testing.T) {
	promtool(t, "", "check", "rules", examples+"/virt-rotate.rules.yml")
	promtool(t, "", "test", "rules", examples+"/virt-rotate.rules.test.yml")
	rules, cases := read(t, "virt-rotate.rules.yml"), read(t, "virt-rotate.rules.test.yml")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 6 {
		t.Fatalf("%d alerts", len(alerts))
	}
	for _, a := range alerts {
		fires := regexp.MustCompile(`alertname: ` + a[1] + `\n +exp_alerts:\n +- exp_labels:`)
		quiet := regexp.MustCompile(`alertname: ` + a[1] + `\n +(-|- eval_time.*)`)
		if !fires.MatchString(cases) || !quiet.MatchString(cases) {
			t.Errorf("no case in which %s fires, or none in which it does not", a[1])
		}
	}
	wantOurs(t, "the rules", rules)
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// wantOurs wants every metric of ours that is named in an expression to be one that there is.
func wantOurs(t *testing.T, where, exprs string) {
	t.Helper()
	ours := regexp.MustCompile(`(?m)^# TYPE (\w+) `).FindAllStringSubmatch(text(t), -1)
	for _, name := range regexp.MustCompile(`\bvirt_rotate_\w+`).FindAllString(exprs, -1) {
		if !slices.ContainsFunc(ours, func(m []string) bool { return m[1] == name }) {
			t.Errorf("%s name %s, which virt-rotate does not write", where, name)
		}
	}
}

// A dashboard is what of Grafana's format can be seen without it.
type dashboard struct {
	Title, UID string
	Panels     []struct {
		ID      int
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ RefID, Expr string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

func TestTheDashboardAsksForWhatThereIs(t *testing.T) {
	var d dashboard
	dec := json.NewDecoder(strings.NewReader(read(t, "grafana-dashboard.json")))
	if err := dec.Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || len(d.Panels) < 10 {
		t.Fatalf("%+v", d)
	}
	known := regexp.MustCompile(`\$(instance|domain)\b`)
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: an id that was there, no query, or beyond the right edge", p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			expr := known.ReplaceAllString(q.Expr, ".*")
			if strings.Contains(expr, "$") || !strings.Contains(expr, "virt_rotate_") {
				t.Errorf("panel %q asks for %s", p.Title, q.Expr)
			}
			wantOurs(t, "panel "+p.Title, q.Expr)
			fmt.Fprintf(&rules, "      - record: panel:p%d%s\n        expr: %q\n", p.ID, q.RefID, expr)
		}
	}
	for _, v := range d.Templating.List {
		wantOurs(t, "variable "+v.Name, v.Definition)
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}
