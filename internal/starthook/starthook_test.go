package starthook

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func installed(t *testing.T, argv ...string) Hook {
	t.Helper()
	h := Hook{StateDir: filepath.Join(t.TempDir(), "state"), Dir: filepath.Join(t.TempDir(), "hooks", "qemu.d"), Callers: func() []string { return []string{"virt-rotate", "libvirtd"} }}
	must(t, h.Install(argv))
	return h
}

// The hook runs the program with what libvirt gives it, whatever is in the names.
func TestTheHookRunsTheProgram(t *testing.T) {
	h := installed(t, "/usr/bin/printf", "%s|", "it's $HOME `x`")
	out, err := exec.Command(h.Path(), "web 1", "prepare", "begin", "-").CombinedOutput()
	if want := "it's $HOME `x`|web 1|prepare|begin|-|"; err != nil || string(out) != want {
		t.Errorf("%q %v", out, err)
	}
}

// Only a start may fail: libvirt ends guests that run if the hook fails as its daemon finds them again.
func TestOnlyAStartMayFail(t *testing.T) {
	for _, program := range []string{"/bin/false", "/nowhere/virt-rotate"} {
		h := installed(t, program)
		for _, operation := range []string{"prepare begin", "start begin", "started begin", "stopped end", "release end", "migrate begin", "restore begin", "reconnect begin", "attach begin", "of later versions"} {
			verb, part, _ := strings.Cut(operation, " ")
			out, err := exec.Command(h.Path(), "web", verb, part, "-").CombinedOutput()
			if failed := err != nil; failed != (operation == "prepare begin") || !failed && len(out) > 0 {
				t.Errorf("%s: %s: %v %s", program, operation, err, out)
			}
		}
	}
}

// It counts once libvirt has called it, and no longer than it is the file that was called.
func TestTheHookCountsOnceItWasCalled(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(h Hook)
		counts bool
	}{
		"installed again": {func(h Hook) { must(t, h.Install([]string{"/bin/true"})) }, true},
		"called again":    {func(h Hook) { must(t, h.Called()) }, true},
		"other program":   {func(h Hook) { must(t, h.Install([]string{"/bin/false"})) }, false},
		"not executable":  {func(h Hook) { must(t, os.Chmod(h.Path(), 0o644)) }, false},
		"put back": {func(h Hook) {
			must(t, os.Rename(h.Path(), h.Path()+".off"))
			must(t, os.Rename(h.Path()+".off", h.Path()))
		}, false},
		"another's": {func(h Hook) {
			must(t, os.WriteFile(h.Path(), []byte("#!/bin/sh\nexit 0\n"), 0o755))
			must(t, h.Called())
		}, false},
		"gone": {func(h Hook) { must(t, h.Remove()); must(t, h.Remove()) }, false},
	} {
		h := installed(t, "/bin/true")
		if h.Asks() {
			t.Errorf("%s: it counts before it was called", name)
		}
		byHand := h
		byHand.Callers = func() []string { return []string{"virt-rotate", "bash"} }
		if must(t, byHand.Called()); h.Asks() {
			t.Errorf("%s: it counts when somebody else has called it", name)
		}
		if must(t, h.Called()); !h.Asks() {
			t.Errorf("%s: it does not count", name)
		}
		if c.do(h); h.Asks() != c.counts {
			t.Errorf("%s: it counts: %t", name, h.Asks())
		}
	}
}

// What somebody else has put there stays.
func TestAnothersHookStays(t *testing.T) {
	h := installed(t, "/bin/true")
	must(t, os.WriteFile(h.Path(), []byte("#!/bin/sh\n"), 0o755))
	for what, err := range map[string]error{"installed": h.Install([]string{"/bin/true"}), "removed": h.Remove()} {
		if err == nil || !strings.Contains(err.Error(), "has not written it") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if text, err := os.ReadFile(h.Path()); err != nil || string(text) != "#!/bin/sh\n" {
		t.Errorf("%q %v", text, err)
	}
}

// Who has called is read from the kernel.
func TestParentsAreThoseThatTheKernelTells(t *testing.T) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	if must(t, err); len(parents()) == 0 || parents()[0] != strings.TrimSpace(string(comm)) {
		t.Errorf("%q, not %q", parents(), comm)
	}
}
