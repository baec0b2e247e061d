package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/schematest"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// testDriver is libvirt's in-memory hypervisor: one domain, "test", without disks.
const testDriver = "test:///default"

// call runs the program in-process.
func call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), "dev", args, &out, &errs)
	if out.Len() > 0 {
		schematest.Fits(t, args, out.String())
	}
	return out.String(), errs.String(), code
}

// policyFile writes a policy for the test driver and returns the flags that use it.
func policyFile(t *testing.T, text string) []string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--policy", path, "--state-dir", filepath.Join(dir, "state"), "--connect", testDriver}
}

const goodPolicy = "[policy.p]\ndomains = [\"test\"]\nkeep = { last = 3 }\n"

func TestUsageErrorsSayWhatIsWrongAndExitWithTwo(t *testing.T) {
	good := policyFile(t, goodPolicy)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"frob"}, `"frob" is not a command`},
		{[]string{"run", "--frob"}, "-frob"},
		{[]string{"plan", "--output"}, "--output wants a value"},
		{append(good, "plan", "--output=xml"), "want human or json"},
		{append(good, "run", "--now", "--no-snapshot"), "exclude each other"},
		{append(good, "plan", "nobody"), "nobody: no such domain"},
		{append(good, "plan", "tset"), "tset: no such domain; did you mean test?"},
		{append(good, "run", "-q", "-v"), "exclude each other"},
		{append(good, "run", "web-*"), "web-*: no such domain"},
		{append(good, "plan", "test", "[t"), "[t: no such domain"},
		{append(good, "tree", "tes"), "layer that this host knows; did you mean test?"},
		{append(good, "restore", "tset", "latest"), "tset: no such domain; did you mean test?"},
		{append(good, "restore", "test", "-1"), "test: -1: no such snapshot: the domain has none"},
		{append(good, "export", "test", "latest", "-o", "/dev/null/x"), "test: latest: no such snapshot"},
		{append(good, "tree", "/no/such/file"), "neither a domain nor a layer"},
		{[]string{"--policy", "/no/such/policy.toml", "plan"}, "policy init writes a first one"},
		{append(good, "doctor", "--forget", "s"), "name of one domain"},
		{append(good, "doctor", "--forget", "s", "test", "other"), "name of one domain"},
		{append(good, "doctor", "--forget", "s", "nobody"), "nobody: no such domain"},
		{append(good, "doctor", "--forget", "s", "test"), "test: s: no such snapshot"},
		{[]string{"policy", "frob"}, "want check, show or init"},
		{[]string{"policy", "check", "a", "b"}, "takes one file"},
	} {
		out, errs, code := call(t, c.args...)
		if code != term.ExitUsage || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want exit 2 and %q", c.args, code, out, errs, c.want)
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	good := policyFile(t, goodPolicy)
	for _, args := range [][]string{
		append(good, "status", "--output=json", "test"),
		append(good, "status", "test", "--output", "json"),
		append([]string{"status", "test", "--output=json"}, good...),
		append([]string{"--output=json", "status"}, good...),
	} {
		out, errs, code := call(t, args...)
		if code != 0 || !json.Valid([]byte(out)) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
}

// Whoever reads JSON gets errors as JSON, too, on standard error, whatever is wrong.
func TestErrorsAreJSONWhereTheOutputIs(t *testing.T) {
	good := policyFile(t, goodPolicy)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{append(good, "plan", "--output=json", "nobody"), term.ExitUsage, "nobody: no such domain"},
		{append(good, "plan", "--frob", "--output", "json"), term.ExitUsage, "-frob"},
		{[]string{"status", "--output=json", "--policy"}, term.ExitUsage, "--policy wants a value"},
		{[]string{"--connect", "test:///no/such/file", "--policy", good[1], "run", "--output=json"}, term.ExitFailed, "connecting to libvirt"},
	} {
		out, errs, code := call(t, c.args...)
		var report struct {
			Version int
			Error   string
			Status  int `json:"exit-status"`
		}
		if err := json.Unmarshal([]byte(errs), &report); err != nil || code != c.code || report.Status != code || report.Version != 1 || !strings.Contains(report.Error, c.want) || out != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q, %v; want exit %d and %q", c.args, code, out, errs, err, c.code, c.want)
		}
	}
	if _, errs, _ := call(t, "image", "info", "--output=json", "/no/such/image"); !strings.HasPrefix(errs, "virt-rotate: ") {
		t.Errorf("not as qemu-img has it: %q", errs)
	}
	if _, errs, _ := call(t, append(good, "plan", "--", "--output=json")...); !strings.HasPrefix(errs, "virt-rotate: --output=json: no such domain") {
		t.Errorf("%q", errs)
	}
}

func TestHowMuchARunTells(t *testing.T) {
	good := policyFile(t, goodPolicy)
	const line = "test: refused: unreadable: /guest/diskimage1: stat /guest/diskimage1: no such file or directory\n"
	for _, flag := range []string{"--quiet", "-q", "--verbose=false"} {
		if out, errs, code := call(t, append(good, "run", flag)...); code != term.ExitRefused || out != line || errs != "" {
			t.Errorf("run %s: exit %d, stdout %q, stderr %q; want %q", flag, code, out, errs, line)
		}
	}
	if out, errs, code := call(t, append(good, "run", "-v")...); code != term.ExitRefused || !strings.Contains(out, "\n  refused        unreadable: ") || errs != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	nobody := policyFile(t, strings.Replace(goodPolicy, `["test"]`, `["other*"]`, 1))
	if out, errs, code := call(t, append(nobody, "run", "-q")...); code != 0 || out+errs != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// A shell leaves a glob as it is where it fits no file.
func TestDomainsMayBeNamedByGlobs(t *testing.T) {
	good := policyFile(t, goodPolicy)
	if _, errs, code := call(t, append(good, "run")...); code != term.ExitRefused {
		t.Fatalf("exit %d, %s", code, errs)
	}
	for _, glob := range []string{"te*", "[!a]est", "????"} {
		if out, errs, code := call(t, append(good, "status", "--output=json", glob, "test")...); code != 0 || strings.Count(out, `"name": "test"`) != 1 {
			t.Errorf("status %s: exit %d, stdout %q, stderr %q", glob, code, out, errs)
		}
		if report := historyJSON(t, append(good, "history", glob)...); len(report.Entries) != 1 {
			t.Errorf("history %s: %+v", glob, report)
		}
		if _, errs, code := call(t, append(good, "doctor", glob)...); code != term.ExitFailed || errs != "" {
			t.Errorf("doctor %s: exit %d, %q", glob, code, errs)
		}
		if out, errs, code := call(t, append(good, "tree", glob)...); code != 0 || !strings.Contains(out, "/guest/diskimage1") {
			t.Errorf("tree %s: exit %d, %q %q", glob, code, out, errs)
		}
	}
	if report := historyJSON(t, append(good, "history", "[!t]*")...); len(report.Entries) != 0 {
		t.Errorf("%+v", report)
	}
}

func TestWhatFollowsTwoDashesIsNoFlag(t *testing.T) {
	_, errs, code := call(t, append(policyFile(t, goodPolicy), "plan", "--", "--now")...)
	if code != term.ExitUsage || !strings.Contains(errs, "--now: no such domain") {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

func TestPolicyCheckTellsAllErrorsWithTheirLines(t *testing.T) {
	flags := policyFile(t, "[policy.p]\ndomains = [\"a\"]\nkeep = { lst = 3 }\nmethod = \"magic\"\n")
	_, errs, code := call(t, append(flags, "policy", "check")...)
	for _, want := range []string{"policy.toml:3: policy.p.keep.lst", "policy.toml:4: policy.p.method"} {
		if code != term.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("exit %d, stderr %q; want %q", code, errs, want)
		}
	}
	out, _, code := call(t, append(flags, "policy", "check", "--output=json")...)
	var report guests.PolicyCheckReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != term.ExitUsage || report.OK || len(report.Problems) != 2 {
		t.Errorf("exit %d, JSON %s, %v", code, out, err)
	}
}

func TestPolicyInitWritesAPolicyThatLoadsAndNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "policy.toml")
	if out, errs, code := call(t, "policy", "init", path); code != 0 || !strings.Contains(out, path) {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	if out, errs, code := call(t, "policy", "check", "--no-host", path); code != 0 || !strings.Contains(out, "1 policy, no error") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := call(t, "policy", "init", path)
	if data, _ := os.ReadFile(path); code != term.ExitRefused || string(data) != "mine" {
		t.Errorf("exit %d, stderr %q, file %q: want a refusal and the file as it was", code, errs, data)
	}
}

func TestPolicyShowPrintsWhatIsSaidOfStorage(t *testing.T) {
	flags := policyFile(t, "[storage]\nignore = [\"/srv/x\"]\n"+goodPolicy)
	out, errs, code := call(t, append(flags, "policy", "show")...)
	if code != 0 || !strings.HasPrefix(out, "[storage]\nignore        = [\"/srv/x\"]\n\n# test\n") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	out, _, _ = call(t, append(flags, "policy", "show", "--output=json")...)
	var report struct {
		Storage struct {
			Scan, Ignore []string
			SilentAfter  string `json:"silent_after"`
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Storage.Ignore) != 1 || report.Storage.Scan == nil || report.Storage.SilentAfter != "168h" {
		t.Errorf("JSON %s, %v", out, err)
	}
}

func TestPolicyShowPrintsTheEffectivePolicy(t *testing.T) {
	out, errs, code := call(t, append(policyFile(t, "[defaults]\nevery = \"2h\"\n"+goodPolicy), "policy", "show")...)
	if code != 0 || !strings.Contains(out, "# test\n[policy.p]") || !strings.Contains(out, `every         = "2h"`) {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// ambiguous is goodPolicy and another policy that matches its domain.
const ambiguous = goodPolicy + "[policy.q]\ndomains = [\"t*\"]\nkeep = { last = 1 }\n"

func TestADomainOfTwoPoliciesIsRefusedWithBothNames(t *testing.T) {
	flags := policyFile(t, ambiguous)
	for command, want := range map[string]int{"plan": term.ExitRefused, "run": term.ExitRefused, "status": term.ExitDone, "policy show": term.ExitUsage} {
		out, errs, code := call(t, append(flags, strings.Fields(command)...)...)
		if code != want || errs != "" || !strings.Contains(out, `domain "test" is matched by policy p (its domains: line 2) and by policy q (its domains: line 5)`) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", command, code, out, errs)
		}
	}
	out, _, _ := call(t, append(flags, "status", "*")...)
	if !strings.Contains(out, "last run  ") || !strings.Contains(out, "next      nothing while several policies match the domain") {
		t.Errorf("status %q", out)
	}
	if out, _, _ = call(t, append(flags, "history")...); !strings.Contains(out, "p and q") {
		t.Errorf("history %q", out)
	}
}

func TestADomainWhoseDiskIsMissingIsRefusedAndNothingIsWritten(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	out, errs, code := call(t, append(flags, "run", "--output=json")...)
	var report guests.PlanReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %q, %q", err, out, errs)
	}
	refused := report.Domains[0].Refused
	if code != term.ExitRefused || len(refused) != 1 || refused[0].Code != host.CodeUnreadable || refused[0].Path != "/guest/diskimage1" {
		t.Errorf("exit %d, %+v", code, report)
	}
	if left, _ := filepath.Glob(filepath.Join(flags[3], "intents", "*")); len(left) > 0 {
		t.Errorf("intents %q", left)
	}
}

func TestASecondRunNamesTheHolderAndExitsWithFive(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	lock, err := rotate.Lock(flags[3])
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	_, errs, code := call(t, append(flags, "run")...)
	if code != term.ExitLocked || !strings.Contains(errs, "pid") {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

func TestHelpRepeatsTheExitStatuses(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"plan", "--help"}, {"doctor", "--help"}, {"status", "--help"}, {"history", "--help"}, {"tree", "--help"}, {"policy", "check", "--help"}} {
		if out, _, code := call(t, args...); code != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "5 another run holds the lock") {
			t.Errorf("%q: exit %d, stdout %q", args, code, out)
		}
	}
}
