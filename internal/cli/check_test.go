package cli

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/policy"
)

// Exit statuses of monitoring plugins.
const (
	pluginOK = iota
	pluginWarning
	pluginCritical
	pluginUnknown
)

const noSocket = "qemu+unix:///system?socket=/no/such/socket"

func TestCheckSpeaksAsAPlugin(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		args         []string
		code         int
		want         string // beginning of the first line
	}{
		{"refused", goodPolicy, nil, pluginWarning, "VIRT-ROTATE WARNING - 1 of 1 guest not well protected: test (unreadable, no-snapshot) | guests=1;;;0 ok=0;;;0 warning=1;;;0 critical=0;;;0 unknown=0;;;0 uncovered=0;;;0\n"},
		{"no policy covers it", "[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n", nil, pluginWarning, "VIRT-ROTATE WARNING - 1 of 1 guest not well protected: test (no-policy) | guests=1"},
		{"and that is critical", "[check]\nuncovered = \"crit\"\n[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n", nil, pluginCritical, "VIRT-ROTATE CRITICAL - "},
		{"and that is as it should be", "[check]\nignore = [\"t*\"]\n[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n", nil, pluginOK, "VIRT-ROTATE OK - no guest of this host needs a policy | guests=0"},
		{"but it was asked for", "[check]\nignore = [\"t*\"]\n[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n", []string{"test"}, pluginWarning, "VIRT-ROTATE WARNING - "},
		{"two policies", ambiguous, nil, pluginCritical, "VIRT-ROTATE CRITICAL - 1 of 1 guest not well protected: test (two-policies) | "},
		{"no such guest", goodPolicy, []string{"nobody"}, pluginUnknown, "VIRT-ROTATE UNKNOWN - nobody: no such domain\n"},
		{"no connection", goodPolicy, []string{"--connect", noSocket}, pluginUnknown, "VIRT-ROTATE UNKNOWN - "},
		{"an error in the policy", "frob = 1\n", nil, pluginUnknown, "VIRT-ROTATE UNKNOWN - "},
		{"an option that is not there", goodPolicy, []string{"--frob"}, pluginUnknown, "VIRT-ROTATE UNKNOWN - "},
		{"an option without its value", goodPolicy, []string{"--timeout"}, pluginUnknown, "VIRT-ROTATE UNKNOWN - --timeout wants a value\n"},
		{"a wrong value", goodPolicy, []string{"-t", "soon"}, pluginUnknown, `VIRT-ROTATE UNKNOWN - --timeout "soon": want a duration`},
		{"a wrong format", goodPolicy, []string{"--output=xml"}, pluginUnknown, "VIRT-ROTATE UNKNOWN - "},
		{"seconds", goodPolicy, []string{"-t", "20"}, pluginWarning, "VIRT-ROTATE WARNING - "},
	} {
		out, errs, code := call(t, append(append(policyFile(t, c.policy), "check"), c.args...)...)
		if code != c.code || !strings.HasPrefix(out, c.want) || errs != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", c.name, code, out, errs)
		}
	}
	if out, _, code := call(t, "--policy", "/no/such/policy.toml", "check"); code != pluginUnknown || !strings.HasPrefix(out, "VIRT-ROTATE UNKNOWN - ") {
		t.Errorf("no policy: exit %d, %q", code, out)
	}
}

func TestCheckTellsOfAGuestInALineAndInJSON(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	call(t, append(flags, "run")...)
	out, _, _ := call(t, append(flags, "check")...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], "test: WARNING unreadable since ") || !strings.Contains(lines[1], "; last run 0s ago: refused") ||
		strings.Count(out, "|") != 2 || !strings.Contains(lines[1], " |test_layers=") {
		t.Errorf("%q", lines)
	}
	out, errs, code := call(t, append(flags, "check", "--output=json")...)
	var r struct {
		Level   string
		Summary string
		Guests  []struct {
			Name, Policy, Level string
			Reasons             []struct{ Level, Code, Detail, Since string }
			LastRun             struct{ Result string } `json:"last-run"`
			Warn                float64                 `json:"warn-age-seconds"`
		}
		Uncovered []string
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != pluginWarning || errs != "" {
		t.Fatalf("%v, exit %d, %s%s", err, code, out, errs)
	}
	g := r.Guests[0]
	if r.Level != "WARNING" || r.Summary == "" || g.Name != "test" || g.Level != "WARNING" || g.Warn != 48*3600 || g.LastRun.Result != "refused" || r.Uncovered == nil ||
		len(g.Reasons) == 0 || g.Reasons[0].Since == "" {
		t.Errorf("%+v", r)
	}
}

func TestCheckIsUnknownInJSONToo(t *testing.T) {
	out, errs, code := call(t, append(policyFile(t, "frob = 1\n"), "check", "--output=json")...)
	var r struct {
		Level, Summary string
		Guests         []any
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != pluginUnknown || errs != "" || r.Level != "UNKNOWN" || !strings.Contains(r.Summary, "frob") || r.Guests == nil {
		t.Errorf("%v, exit %d, %s%s", err, code, out, errs)
	}
}

// A libvirt that hangs costs the time limit, and what is on record is told all the same.
func TestCheckOfASilentLibvirtTellsWhatIsOnRecord(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	end := time.Now().Add(-5 * time.Hour)
	store := history.In(stateDir(flags))
	if err := os.MkdirAll(stateDir(flags), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, e := range []history.Entry{
		{Start: end, End: end, Command: "run", Domain: "test", UUID: "u", Policy: "p", Result: "done", Steps: []history.Step{{Op: "snapshot"}}},
		{Start: end, End: end, Command: "run", Domain: "gone", UUID: "v", Policy: "p", Result: "done"},
	} {
		if err := store.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "s")
	silent, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	out, errs, code := call(t, append(flags, "--connect", "qemu+unix:///system?socket="+socket, "check", "--timeout", "1s")...)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if code != pluginUnknown || errs != "" || !strings.HasPrefix(out, "VIRT-ROTATE UNKNOWN - libvirt does not answer in time | ") ||
		!strings.Contains(out, "\ntest: UNKNOWN; last success 5h00m ago\n") || strings.Contains(out, "gone") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// Whatever a domain is called, the line stays one, and the figures stay figures.
func TestCheckOfADomainWithAHostileName(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "node.xml")
	const domain = `<domain type='test'><name>%s</name><memory>1024</memory><os><type>hvm</type></os></domain>`
	text := "<node>" + strings.Replace(domain, "%s", "a|b='c d;\"$(x)é", 1) + "</node>"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := policyFile(t, "[policy.p]\ndomains = [\"*\"]\nkeep = { last = 1 }\n")
	out, errs, code := call(t, append(flags, "--connect", "test://"+config, "check")...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != pluginWarning || errs != "" || len(lines) != 2 {
		t.Fatalf("exit %d, %q, %q", code, out, errs)
	}
	text, data, _ := strings.Cut(lines[1], " |")
	if !strings.HasPrefix(text, `a/b='c d;"$(x)é: WARNING`) || !strings.HasPrefix(data, "'a_b__c d__$(x)é_layers'=") || strings.Count(data, "'") != 4 {
		t.Errorf("%q, %q", text, data)
	}
}

func TestPolicyShowTellsOfCheckAndMetrics(t *testing.T) {
	flags := policyFile(t, "metrics_file = \"/srv/x.prom\"\n[storage]\nscan = [\"/srv\"]\n[check]\nignore = [\"x\"]\n"+goodPolicy)
	out, errs, code := call(t, append(flags, "policy", "show")...)
	const want = "metrics_file  = \"/srv/x.prom\"\n\n[storage]\nscan          = [\"/srv\"]\n\n[check]\nuncovered     = \"warn\"\nignore        = [\"x\"]\n\n# test\n[policy.p]\n"
	if code != 0 || !strings.HasPrefix(out, want) {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
	out, _, _ = call(t, append(flags, "policy", "show", "--output=json")...)
	var r struct {
		Check policy.HostCheck
		File  string `json:"metrics_file"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Check.Uncovered != policy.SeverityWarn || r.File != "/srv/x.prom" {
		t.Errorf("%s, %v", out, err)
	}
}

// The examples run check as sudo lets them: with the very words.
func TestTheExamplesOfMonitoringRunWhatSudoAllows(t *testing.T) {
	for file, runs := range map[string]string{"nrpe/virt-rotate.cfg": "command[check_virt_rotate]=/usr/bin/sudo -n /usr/bin/virt-rotate ", "icinga2/virt-rotate.conf": ""} {
		text, err := os.ReadFile(filepath.Join("../../examples", file))
		if err != nil {
			t.Fatal(err)
		}
		_, allowed, _ := strings.Cut(string(text), "NOPASSWD: /usr/bin/virt-rotate ")
		allowed, _, _ = strings.Cut(allowed, "\n")
		if strings.Contains(allowed, "*") || runs != "" && !strings.Contains(string(text), "\n"+runs+allowed+"\n") {
			t.Errorf("%s: sudo allows %q", file, allowed)
		}
		if out, errs, code := call(t, append(policyFile(t, goodPolicy), strings.Fields(allowed)...)...); code != pluginWarning {
			t.Errorf("%s: %s: exit %d, %s%s", file, allowed, code, out, errs)
		}
	}
}
