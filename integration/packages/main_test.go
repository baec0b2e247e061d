// Package packages_test shows what a host gets: the files that make install and the packages
// have, completion in the shells themselves, and, with the tag packages, the packages on Debian systems
// of their own with systemd and a real guest (make test-packages).
package packages_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

const top = "../.." // of the checkout

var buildDir string

func TestMain(m *testing.M) {
	os.Exit(tidy.Run(func() int {
		dir, err := os.MkdirTemp("", "vr-build-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		return m.Run()
	}))
}

// binary builds virt-rotate, once, when a test first needs it.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "virt-rotate")
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", path, top+"/cmd/virt-rotate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// output runs a command, which must succeed, and returns what it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}
