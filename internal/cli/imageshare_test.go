package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// A QEMU has over.qcow2 open, for writing, and base.qcow2 below it.
func TestWhatAGuestWritesToIsReadWithForceShareOnly(t *testing.T) {
	newSources(t)
	want, base := guestSum(t, "qcow2", "over.qcow2"), guestSum(t, "qcow2", "base.qcow2")
	hold(t, "-f qcow2", "over.qcow2")
	for _, c := range []struct {
		line    string
		refused int // without -U
	}{
		{"map over.qcow2", term.ExitRefused}, {"map --output=json over.qcow2", term.ExitRefused}, {"check over.qcow2", 1},
		{"compare over.qcow2 over.qcow2", image.ExitNotOpened}, {"convert over.qcow2 new.raw", term.ExitRefused}, {"convert --chain over.qcow2 newdir", term.ExitRefused},
		{"info over.qcow2", term.ExitDone}, {"map base.qcow2", term.ExitDone}, {"check base.qcow2", term.ExitDone},
		{"compare base.qcow2 base.qcow2", term.ExitDone}, {"convert base.qcow2 lower.raw", term.ExitDone},
	} {
		args := append([]string{"image"}, strings.Fields(c.line)...)
		_, errs, code := call(t, args...)
		if code != c.refused || c.refused != 0 && !strings.Contains(errs, "another process") {
			t.Errorf("%s: exit %d, %s; want %d", c.line, code, errs, c.refused)
		}
		_, errs, code = call(t, append(args, "-U")...)
		if told := strings.Count(errs, "over.qcow2: another process writes to it: what is read"); code != 0 || (told == 1) != (c.refused != 0) {
			t.Errorf("%s -U: exit %d, %q", c.line, code, errs)
		}
	}
	for file, sum := range map[string]string{"new.raw": want, "lower.raw": base} {
		if fileSum(t, file) != sum {
			t.Errorf("%s has other data", file)
		}
	}
	if _, errs, code := call(t, "image", "check", "-U", "-r", "all", "over.qcow2"); code != 1 || !strings.Contains(errs, "-U is for reading only") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if _, err := os.Stat("newdir/base.qcow2"); err != nil {
		t.Error(err)
	}
}
