package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// host has a guest of each kind.
func host(domain string) *Host {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	return &Host{
		Version: "v1", Up: true, Level: rotate.Critical, Runs: history.HostRuns{Start: at, End: at.Add(90 * time.Second), Count: 7},
		Storages: []Storage{{Dir: "/srv/" + domain, Blocked: true, Peers: map[string]time.Time{domain: at}}},
		Guests: []Guest{
			{Verdict: rotate.Verdict{Domain: domain, Policy: "p", Level: rotate.Critical, Snapshots: 3, Newest: &at, MaxAge: 2 * time.Hour, CritAge: 4 * time.Hour,
				MaxChain: 30, Free: 1 << 40, MinFree: 1 << 30, LastRun: &rotate.LastRun{Time: at, Result: decide.ResultFailed}, LastSuccess: &at,
				Reasons: []rotate.Reason{{Level: rotate.Critical, Code: "overdue"}, {Level: rotate.Warning, Code: "overdue"}}},
				Status: &rotate.DomainStatus{State: "shut off", Disks: []rotate.DiskStatus{{Target: "vda", Chain: []rotate.LayerStatus{{Allocated: 5}, {Allocated: 6}}}}},
				Totals: &history.Totals{Merged: 11, Freed: 12, Runs: map[string]int{"done": 4, "failed": 3}, Refused: map[string]int{"hook": 2}},
				Took:   1500 * time.Millisecond},
			{Verdict: rotate.Verdict{Domain: "scratch", Level: rotate.Warning, Free: -1, Reasons: []rotate.Reason{{Level: rotate.Warning, Code: rotate.ReasonUncovered}}}},
		},
	}
}

func printed(t *testing.T, h *Host) string {
	t.Helper()
	var b bytes.Buffer
	if err := Print(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAHostInPrometheusText(t *testing.T) {
	got := printed(t, host("web"))
	for _, line := range []string{
		`virt_rotate_domain_allocated_bytes{disk="vda",domain="web"} 11`, `virt_rotate_domain_chain_layers{disk="vda",domain="web"} 2`,
		`virt_rotate_domain_merged_bytes_total{domain="web"} 11`, `virt_rotate_domain_freed_bytes_total{domain="web"} 12`,
		`virt_rotate_domain_newest_snapshot_timestamp_seconds{domain="web"} 1.7672688e+09`, `virt_rotate_domain_problem{code="overdue",domain="web"} 2`,
		`virt_rotate_domain_check_level{domain="web"} 2`, `virt_rotate_domain_uncovered{domain="scratch"} 1`, `virt_rotate_uncovered_domains 1`, `virt_rotate_domains 1`,
		`virt_rotate_domain_last_run_duration_seconds{domain="web"} 1.5`, `virt_rotate_last_run_duration_seconds 90`,
		`virt_rotate_storage_blocked{storage="/srv/web"} 1`, `virt_rotate_storage_host_told_timestamp_seconds{host="web",storage="/srv/web"} 1.7672688e+09`,
		`virt_rotate_domain_snapshot_critical_age_seconds{domain="web"} 14400`, `virt_rotate_domain_storage_free_bytes{domain="web"} 1.099511627776e+12`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, got)
		}
	}
	for _, never := range []string{`snapshots{domain="scratch"}`, `info{domain="scratch"`, `free_bytes{domain="scratch"}`} {
		if strings.Contains(got, never) {
			t.Errorf("what is not known is told: %s", never)
		}
	}
}

func TestNamesAndUnitsAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(printed(t, host("web")))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// Whatever a domain is called, the text has one series of it, with that name as value.
func TestAHostileNameIsALabelsValueAndNothingElse(t *testing.T) {
	for _, name := range []string{`a"} 1` + "\nvirt_rotate_libvirt_up 0\n#", `back\slash\`, "new\nline", "\xff\xfe", "{}", "é\u202e"} {
		p := expfmt.NewTextParser(model.UTF8Validation)
		families, err := p.TextToMetricFamilies(strings.NewReader(printed(t, host(name))))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		levels := families["virt_rotate_domain_check_level"].GetMetric()
		if len(levels) != 2 || families["virt_rotate_libvirt_up"].GetMetric()[0].GetGauge().GetValue() != 1 {
			t.Errorf("%q: %v", name, levels)
			continue
		}
		want := strings.ToValidUTF8(name, "\uFFFD")
		if a, b := levels[0].GetLabel()[0].GetValue(), levels[1].GetLabel()[0].GetValue(); a != want && b != want {
			t.Errorf("%q became %q and %q", name, a, b)
		}
	}
}

func TestAFileIsReplacedWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.prom")
	for _, name := range []string{"web", "db"} {
		if err := Write(path, host(name)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != printed(t, host(name)) {
			t.Errorf("%v, %s", err, text)
		}
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestAHostOfWhichNothingIsKnown(t *testing.T) {
	got := printed(t, &Host{Version: "v1", Level: rotate.Unknown})
	if !strings.Contains(got, "virt_rotate_libvirt_up 0\n") || strings.Contains(got, "_domains ") || strings.Contains(got, "last_run") {
		t.Errorf("%s", got)
	}
}

func TestTheManualListsEveryMetric(t *testing.T) {
	manual, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(printed(t, host("web"))) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(string(manual), "`"+name+"`") && !strings.Contains(string(manual), "`"+name+"{") {
				t.Errorf("docs/monitoring.md does not tell of %s", name)
			}
		}
	}
}
