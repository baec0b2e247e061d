package nfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

// tools must be installed where the machines are to be started: a missing one fails the tests.
var tools = []string{"go", "ldd", "mkfs.ext4", "qemu-img", "qemu-system-x86_64", "xz"}

// workDir has the machines' files.
var workDir string

func TestMain(m *testing.M) {
	os.Exit(tidy.Run(func() int { return runTests(m) }))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vr-nfs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	workDir = dir
	return m.Run()
}

// wanted skips the test unless make nfs runs it: three machines work for minutes.
func wanted(t *testing.T) {
	t.Helper()
	if os.Getenv("VIRT_ROTATE_NFS") == "" {
		t.Skip("VIRT_ROTATE_NFS is not set: make nfs starts virtual machines")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s: %v: integration/nfs/tools.sh installs it", tool, err)
		}
	}
}

// builds makes what runs in the machines: no library of another system is needed.
var builds = sync.OnceValues(func() (map[string]string, error) {
	paths := map[string]string{}
	for name, from := range map[string]string{"agent": "./agent", "member": "./member", "virt-rotate": "../../cmd/virt-rotate"} {
		paths[name] = filepath.Join(workDir, name)
		cmd := exec.Command("go", "build", "-o", paths[name], from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %s: %w\n%s", from, err, out)
		}
	}
	return paths, nil
})

// optional are programs that are large, and that few tests need.
var optional = []string{"member"}

// A lab is machines for one test.
type lab struct {
	*testing.T
	*nfs.Lab
}

// newLab starts machines that have these programs, too.
func newLab(t *testing.T, more ...string) *lab {
	t.Helper()
	wanted(t)
	programs, err := builds()
	must(t, err)
	dir, err := os.MkdirTemp(workDir, "")
	must(t, err)
	l, err := nfs.New(dir, chosen(programs, more))
	t.Cleanup(func() {
		if l != nil {
			must(t, errors.Join(l.Close(), os.RemoveAll(dir)))
		}
	})
	must(t, err)
	return &lab{t, l}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
