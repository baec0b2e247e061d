package hosts_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/hosts"
	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// tools must be installed: a missing one fails the tests.
var tools = []string{"bindfs", "go", "ip", "libvirtd", "nsenter", "qemu-img", "qemu-io", "qemu-system-x86_64", "taskset", "unshare", "virsh"}

// buildDir holds the virt-rotate binary.
var buildDir string

func TestMain(m *testing.M) {
	etcdtest.Member()
	os.Exit(tidy.Run(func() int { return runTests(m) }))
}

func runTests(m *testing.M) int {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintln(os.Stderr, "integration tests need", tool+":", err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "vr-build-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

// binary builds virt-rotate, once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "virt-rotate")
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", path, "../../cmd/virt-rotate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// mortal is the same with places at which it can be made to die.
var mortal = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "virt-rotate-mortal")
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen failpoint", "-o", path, "../../cmd/virt-rotate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// A bed is hosts, and what virt-rotate needs on them.
type bed struct {
	*testing.T
	*hosts.Fleet
	policy   string
	policies map[int]string // of single hosts
	fuse     bool
}

const policyText = `[storage]
shared = ["/srv/share"]
[defaults]
every = "1s"
min_free = "0%%"
keep = { last = %d }
[policy.all]
domains = ["web"]
`

func newBed(t *testing.T, fuse bool, keep int) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "vr-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	f, err := hosts.New(dir, 2, fuse)
	if f != nil {
		t.Cleanup(func() { must(t, f.Close()) })
	}
	must(t, err)
	b := &bed{T: t, Fleet: f, policy: filepath.Join(dir, "policy.toml"), fuse: fuse}
	must(t, os.WriteFile(b.policy, fmt.Appendf(nil, policyText, keep), 0o600))
	return b
}

// rotate runs virt-rotate on a host, and returns its exit status.
func (b *bed) rotate(n int, args ...string) (string, int) {
	b.Helper()
	program, err := binary()
	must(b.T, err)
	h := b.Host(n)
	out, err := h.Command(append([]string{program, "--connect", "qemu:///system", "--policy", cmp.Or(b.policies[n], b.policy), "--state-dir", h.State()}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.Fatal(err)
	}
	if err == nil {
		return string(out), 0
	}
	return string(out), exit.ExitCode()
}

// want runs it, and wants that exit status, and all these words in what it says.
func (b *bed) want(status, n int, command string, words ...string) string {
	b.Helper()
	out, exit := b.rotate(n, strings.Fields(command)...)
	if exit != status {
		b.Fatalf("host%d: %s: exit status %d, want %d\n%s", n, command, exit, status, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			b.Errorf("host%d: %s does not say %q:\n%s", n, command, w, out)
		}
	}
	return out
}

func (b *bed) virsh(n int, args ...string) string {
	b.Helper()
	out, err := b.Host(n).Virsh(args...)
	must(b.T, err)
	return out
}

func (b *bed) on(n int, args ...string) {
	b.Helper()
	_, err := b.Host(n).Run(args...)
	must(b.T, err)
}

func (b *bed) write(n int, pattern byte, mib int) {
	b.Helper()
	must(b.T, b.Host(n).Write("web", pattern, mib))
}

func (b *bed) sum(n int, path string) string {
	b.Helper()
	sum, err := b.Host(n).Sum(path)
	must(b.T, err)
	return sum
}

// files lists the images of the storage.
func (b *bed) files() string {
	found, err := filepath.Glob(b.Path("img/*"))
	must(b.T, err)
	return strings.Join(found, "\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
