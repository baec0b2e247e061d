package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// hookPolicy has a failed hook that runs a line of shell; the one domain of the test driver is
// always refused.
func hookPolicy(t *testing.T, shell string) []string {
	t.Helper()
	return policyFile(t, goodPolicy+fmt.Sprintf("hooks = { failed = [\"/bin/sh\", \"-c\", '''%s'''], timeout = \"2s\" }\n", shell))
}

func TestAHookIsToldOfARefusal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	flags := hookPolicy(t, "env >"+file+"; echo heard")
	out, errs, code := call(t, append(flags, "run", "-v")...)
	env, err := os.ReadFile(file)
	if err != nil || code != term.ExitRefused || !strings.Contains(errs, "test: failed hook: heard") || !strings.Contains(out, "hook           failed: /bin/sh -c env") {
		t.Fatalf("exit %d, %v, stdout %q, stderr %q", code, err, out, errs)
	}
	for _, want := range []string{"VIRT_ROTATE_HOOK=failed", "VIRT_ROTATE_DOMAIN=test", "VIRT_ROTATE_POLICY=p", "VIRT_ROTATE_RESULT=refused",
		"VIRT_ROTATE_STATE=running", "VIRT_ROTATE_ERROR=refused (unreadable): ", "VIRT_ROTATE_UUID=6695eb01-"} {
		if !strings.Contains("\n"+string(env), "\n"+want) {
			t.Errorf("no %q in\n%s", want, env)
		}
	}
}

func TestPlanTellsTheHooksAndRunsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ran")
	flags := hookPolicy(t, "touch "+file)
	for _, command := range []string{"plan", "status", "doctor", "history"} {
		out, _, _ := call(t, append(flags, command)...)
		if _, err := os.Stat(file); err == nil {
			t.Fatalf("%s ran a hook", command)
		}
		if command == "plan" && !strings.Contains(out, "hook           failed: /bin/sh -c touch") {
			t.Errorf("%q", out)
		}
	}
	call(t, append(flags, "run")...)
	if _, err := os.Stat(file); err != nil {
		t.Error("run did not run it either")
	}
}

func TestAFailedHookThatFailsIsAWarning(t *testing.T) {
	t.Parallel() // it waits
	for name, c := range map[string]struct{ shell, want string }{
		"fails": {"echo why; exit 7", "exit status 7 (its last words: why)"},
		"hangs": {"trap '' TERM; sleep 0.1; exec sleep 60", "killed after 2s"},
	} {
		began := time.Now()
		out, errs, code := call(t, append(hookPolicy(t, c.shell), "run", "--output=json")...)
		var report guests.PlanReport
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%s: %v, %q, %q", name, err, out, errs)
		}
		d := report.Domains[0]
		if code != term.ExitRefused || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], c.want) || d.Result != decide.ResultRefused ||
			len(d.Hooks) != 1 || d.Hooks[0].Error == "" || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %+v, stderr %q", name, code, d, errs)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

func TestHooksOfAPolicyThatOthersCanWriteAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ran")
	flags := hookPolicy(t, "touch "+file)
	for _, mode := range []os.FileMode{0o664, 0o646, 0o666} {
		if err := os.Chmod(flags[1], mode); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"run"}, {"plan"}, {"policy", "check"}} {
			if _, errs, code := call(t, append(flags, command...)...); code != term.ExitUsage || !strings.Contains(errs, "has hooks, but others can write to it") {
				t.Errorf("%s, mode %o: exit %d, %q", command, mode, code, errs)
			}
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the hook was run")
	}
	plain := policyFile(t, goodPolicy)
	if err := os.Chmod(plain[1], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := call(t, append(plain, "policy", "check")...); code != 0 {
		t.Errorf("without hooks: exit %d, %q", code, errs)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(flags[1], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(flags[1], 4711, -1); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := call(t, append(flags, "run")...); code != term.ExitUsage || !strings.Contains(errs, "belongs to user 4711") {
		t.Errorf("exit %d, %q", code, errs)
	}
}
