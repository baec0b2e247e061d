package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestStatusReadsLastRunsOfOlderVersions(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	if _, errs, code := call(t, append(flags, "run")...); code != term.ExitRefused {
		t.Fatalf("exit %d, %s", code, errs)
	}
	out, _, _ := call(t, append(flags, "status", "*")...)
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
	out, errs, code := call(t, append(flags, "status", "*")...)
	if err != nil || code != 0 || !strings.Contains(out, "ago: refused\n") {
		t.Errorf("%v, exit %d, %s%s", err, code, out, errs)
	}
}
