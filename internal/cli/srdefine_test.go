package cli

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestDefineIsNotForExports(t *testing.T) {
	newExport(t)
	_, errs, code := call(t, "sr", "convert", "web.xva", "--to", "out", "--define", "web")
	if code != term.ExitUsage || !strings.Contains(errs, "are for repositories") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
