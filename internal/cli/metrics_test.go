package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// withMetrics is a policy with a metrics_file, and that file.
func withMetrics(t *testing.T, text string) (flags []string, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "virt-rotate.prom")
	return policyFile(t, "metrics_file = \""+file+"\"\n"+text), file
}

func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains("\n"+text, "\n"+line) {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}

func TestARunWritesMetricsWhateverItCameTo(t *testing.T) {
	flags, file := withMetrics(t, goodPolicy)
	for range 2 {
		if out, errs, code := call(t, append(flags, "run")...); code != term.ExitRefused || strings.Contains(errs, "warning") {
			t.Fatalf("exit %d, %s%s", code, out, errs)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, string(text), "virt_rotate_libvirt_up 1\n", "virt_rotate_check_level 1\n", "virt_rotate_domains 1\n", "virt_rotate_runs_total 2\n",
		`virt_rotate_build_info{goversion="go`, `virt_rotate_domain_info{domain="test",policy="p",state="running"} 1`,
		`virt_rotate_domain_last_run_result{domain="test",result="refused"} 1`, `virt_rotate_domain_last_run_result{domain="test",result="done"} 0`,
		`virt_rotate_domain_refusals_total{code="unreadable",domain="test"} 2`, `virt_rotate_domain_runs_total{domain="test",result="refused"} 2`,
		`virt_rotate_domain_problem{code="unreadable",domain="test"} 1`, `virt_rotate_domain_chain_layers{disk="vda",domain="test"} 1`,
		`virt_rotate_domain_snapshot_critical_age_seconds{domain="test"} 345600`, "virt_rotate_last_run_timestamp_seconds ")
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v: node_exporter is another user", info.Mode())
	}
	printed, errs, code := call(t, append(flags, "metrics")...)
	if code != 0 || errs != "" {
		t.Errorf("exit %d, %s", code, errs)
	}
	wantLines(t, printed, "virt_rotate_runs_total 2\n", `virt_rotate_domain_refusals_total{code="unreadable",domain="test"} 2`)
}

// A file that cannot be written is a warning of the run, and changes nothing of its result.
func TestMetricsThatCannotBeWrittenAreAWarning(t *testing.T) {
	flags := policyFile(t, "metrics_file = \"/no/such/directory/x.prom\"\n"+goodPolicy)
	out, errs, code := call(t, append(flags, "run", "--output=json")...)
	if code != term.ExitRefused || !strings.Contains(errs, "virt-rotate: warning: metrics_file: open /no/such/directory/") || !strings.Contains(out, `"warnings": [`) {
		t.Errorf("exit %d, stdout %s, stderr %s", code, out, errs)
	}
}

func TestMetricsWhereLibvirtDoesNotAnswer(t *testing.T) {
	flags, file := withMetrics(t, goodPolicy)
	call(t, append(flags, "run")...)
	away := slices.Concat(flags, []string{"--connect", noSocket})
	if _, errs, code := call(t, append(away, "run")...); code != term.ExitFailed || strings.Contains(errs, "metrics_file") {
		t.Errorf("run: exit %d, %s", code, errs)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	printed, errs, code := call(t, append(away, "metrics")...)
	if code != term.ExitFailed || errs == "" {
		t.Errorf("metrics: exit %d, %s", code, errs)
	}
	other := filepath.Join(t.TempDir(), "x.prom")
	if out, _, code := call(t, append(away, "metrics", "--file", other)...); code != term.ExitFailed || out != "" {
		t.Errorf("metrics --file: exit %d, %s", code, out)
	}
	written, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(text), printed, string(written)} {
		wantLines(t, text, "virt_rotate_libvirt_up 0\n", "virt_rotate_check_level 3\n", "virt_rotate_runs_total 1\n",
			`virt_rotate_domain_check_level{domain="test"} 3`, `virt_rotate_domain_refusals_total{code="unreadable",domain="test"} 1`)
		if strings.Contains(text, "chain_layers") || strings.Contains(text, "_domains ") {
			t.Errorf("what is not known is told:\n%s", text)
		}
	}
}

// A run that did nothing, since another one works, leaves the other's file alone.
func TestMetricsAreOfARunThatRan(t *testing.T) {
	flags, file := withMetrics(t, goodPolicy)
	if _, _, code := call(t, append(flags, "run", "nobody")...); code != term.ExitUsage {
		t.Fatalf("exit %d", code)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a wrong call has written metrics")
	}
	if _, errs, code := call(t, append(flags, "metrics", "test")...); code != term.ExitUsage || errs == "" {
		t.Errorf("exit %d, %s", code, errs)
	}
}
