package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/integration/monitoring"
)

// Exit statuses of monitoring plugins.
const (
	pluginOK = iota
	pluginWarning
	pluginCritical
	pluginUnknown
)

// watched is a policy with metrics_file, and more for its rule.
func (b *bed) watched(more string) {
	b.t.Helper()
	must(b.t, os.MkdirAll(b.path("prom"), 0o755))
	b.writePolicy(fmt.Sprintf("metrics_file = %q\n\n[policy.p]\ndomains = [\"g*\"]\nevery = \"1h\"\nkeep = { last = 3 }\nmin_free = \"0%%\"\n%s", b.path("prom", "virt-rotate.prom"), more))
}

// checkIn runs check as it will be some hours from now.
func (b *bed) checkIn(hours int, args ...string) result {
	b.t.Helper()
	return b.rotateIn(time.Duration(hours)*time.Hour, append([]string{"check"}, args...)...)
}

// rotateIn runs virt-rotate as if it was so much later.
func (b *bed) rotateIn(later time.Duration, args ...string) result {
	b.t.Helper()
	program, err := mortal()
	must(b.t, err)
	return b.begin(program, []string{"VIRT_ROTATE_CLOCK=" + time.Now().Add(later).Format(time.RFC3339)}, args...).wait()
}

// wantVerdict wants the first line to begin so, and no line on standard error.
func (b *bed) wantVerdict(r result, exit int, first string, more ...string) {
	b.t.Helper()
	if r.Exit != exit || !strings.HasPrefix(r.Stdout, "VIRT-ROTATE "+first) || r.Stderr != "" {
		b.t.Errorf("want %d, %s: %v", exit, first, r)
	}
	for _, text := range more {
		if !strings.Contains(r.Stdout, text) {
			b.t.Errorf("no %q: %v", text, r)
		}
	}
}

func TestCheckAndMetricsOfARealGuest(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.watched("")
	b.boot(guest.Spec{Name: "g1"})
	b.wantVerdict(b.rotate("check"), pluginWarning, "WARNING - 1 of 1 guest not well protected: g1 (no-snapshot) | guests=1")
	b.rotate("run").wantExit(t, 0)
	b.wantVerdict(b.rotate("check"), pluginOK, "OK - 1 guest protected | guests=1;;;0 ok=1;;;0 ", "\ng1: OK; 1 snapshot, the newest ", "; 2 of 30 layers; last run ", "s;7200;14400;0 g1_layers=2;;;0;30 g1_allocated=")
	b.wantVerdict(b.checkIn(1), pluginOK, "OK - ")
	b.wantVerdict(b.checkIn(3), pluginWarning, "WARNING - 1 of 1 guest not well protected: g1 (overdue) | ")
	b.wantVerdict(b.checkIn(5), pluginCritical, "CRITICAL - 1 of 1 guest not well protected: g1 (overdue) | ")
	b.underNegate()
	b.handedOn("virt_rotate_libvirt_up 1", "virt_rotate_runs_total 1", `virt_rotate_domain_check_level{domain="g1"} 0`,
		`virt_rotate_domain_chain_layers{disk="vda",domain="g1"} 2`, `virt_rotate_domain_runs_total{domain="g1",result="done"} 1`,
		`virt_rotate_domain_snapshots{domain="g1"} 1`)

	b.watched("quiesce = \"yes\"\n") // there is no guest agent
	b.wantVerdict(b.rotate("check"), pluginWarning, "WARNING - 1 of 1 guest not well protected: g1 (no-guest-agent) | ", "when the next snapshot is due: ")
	b.rotate("run", "--now").wantExit(t, 4)
	b.wantVerdict(b.checkIn(5), pluginCritical, "CRITICAL - 1 of 1 guest not well protected: g1 (overdue, no-guest-agent) | ", "no-guest-agent since ")
	b.handedOn(`virt_rotate_domain_check_level{domain="g1"} 1`, `virt_rotate_domain_problem{code="no-guest-agent",domain="g1"} 1`,
		`virt_rotate_domain_last_run_result{domain="g1",result="refused"} 1`, `virt_rotate_domain_refusals_total{code="no-guest-agent",domain="g1"} 1`)

	b.watched("")
	b.define(guest.Spec{Name: "other"})
	b.wantVerdict(b.rotate("check"), pluginWarning, "WARNING - 1 of 2 guests not well protected: other (no-policy) | ", " uncovered=1;;;0\n")
	b.wantVerdict(b.rotate("check", "g1"), pluginOK, "OK - 1 guest protected | ")
	b.silent()
}

// underNegate lets the monitoring plugins' own negate run check and turn its states round.
func (b *bed) underNegate() {
	b.t.Helper()
	negate, err := monitoring.Tool("negate")
	must(b.t, err)
	program, err := binary()
	must(b.t, err)
	for state, exit := range map[string]int{"CRITICAL": pluginCritical, "WARNING": pluginWarning} {
		cmd := b.host.Command(b.t.Context(), negate, "-s", "-t", "120", "-o", state, program, "--connect", b.host.URI(), "--policy", b.policy, "check")
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != exit || !strings.HasPrefix(string(out), "VIRT-ROTATE "+state+" - 1 guest protected | ") {
			b.t.Errorf("negate -o %s: exit status %d, %s", state, got, out)
		}
	}
}

// handedOn wants node_exporter to tell what the last run has written.
func (b *bed) handedOn(want ...string) {
	b.t.Helper()
	told, err := monitoring.Scrape(b.t.Context(), b.path("prom"))
	must(b.t, err)
	for _, line := range append(want, "node_textfile_scrape_error 0") {
		if !strings.Contains(told, "\n"+line+"\n") {
			b.t.Errorf("node_exporter does not tell %s:\n%s", line, told)
		}
	}
}

// silent checks a host whose libvirtd hangs, and one where it is gone.
func (b *bed) silent() {
	b.t.Helper()
	must(b.t, b.daemon.Hang())
	began := time.Now()
	r := b.rotate("check", "--timeout", "2s")
	took := time.Since(began)
	must(b.t, b.daemon.Resume())
	b.wantVerdict(r, pluginUnknown, "UNKNOWN - libvirt does not answer in time | guests=1", "\ng1: UNKNOWN; last run ", ": refused; last success ")
	if took > time.Minute {
		b.t.Errorf("check took %s", took)
	}
	must(b.t, b.daemon.Kill())
	b.wantVerdict(b.rotate("check"), pluginUnknown, "UNKNOWN - ", "sock/libvirt-sock", "\ng1: UNKNOWN; last run ")
	b.rotate("run").wantExit(b.t, 1)
	b.handedOn("virt_rotate_libvirt_up 0", `virt_rotate_domain_check_level{domain="g1"} 3`, "virt_rotate_runs_total 2")
	must(b.t, b.daemon.StartDaemon())
}

// What a run is amid is no fault, and what one left behind is; metrics tell nothing of a
// run that is at work but what is there.
func TestCheckBesideARunAndAfterItsDeath(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	_, r := b.inSlowMerge("1")
	b.wantVerdict(b.rotate("check"), pluginOK, "OK - 1 guest protected | ")
	if m := b.rotate("metrics").wantExit(t, 0); !strings.Contains(m.Stdout, "\nvirt_rotate_domain_check_level{domain=\"g1\"} 0\n") {
		t.Error(m)
	}
	r.kill()
	b.leaks = true
	b.wantVerdict(b.rotate("check"), pluginWarning, "WARNING - 1 of 1 guest not well protected: g1 (unfinished-run) | ", "unfinished-run since ")
	b.writePolicy(keep("1", "")) // whoever takes the job over lifts the limit
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	b.wantVerdict(b.rotate("check"), pluginOK, "OK - ")
}
