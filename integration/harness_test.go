package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/schematest"
	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

// tools must be installed: a missing one fails the tests.
var tools = []string{
	"age", "as", "bindfs", "go", "ld", "libvirtd", "losetup", "mkfs.ext4", "mkfs.xfs", "mount", "nbdfuse", "qemu-img", "qemu-io",
	"qemu-system-x86_64", "restic", "swtpm_setup", "taskset", "umount", "unshare", "virsh", "virt-install",
}

// buildDir holds the virt-rotate binary.
var buildDir string

func TestMain(m *testing.M) {
	if socket := os.Getenv(transportSocket); socket != "" {
		os.Exit(carry(socket))
	}
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
	if err := runMore(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// runMore has more tests run at a time than there are processors, unless -parallel says
// how many: they wait for guests most of the time.
func runMore() error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
}

// binary builds virt-rotate, once, when a test first needs it.
var binary = sync.OnceValues(func() (string, error) { return build("virt-rotate", "libvirt_dlopen") })

func build(name, tags string) (string, error) {
	path := filepath.Join(buildDir, name)
	out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "../cmd/virt-rotate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// A bed is a libvirt host of one test, and what virt-rotate needs to work on it.
type bed struct {
	t      *testing.T
	host   *guest.Host
	daemon *guest.Daemon // nil when libvirt is embedded
	policy string        // file, "" until writePolicy
	loops  []*guest.Loop // closed once the guests are dead
	leaks  bool          // QEMU is killed: leaked clusters are no fault of ours

	program func() (string, error) // the virt-rotate that is run; nil: the ordinary one
	env     []string               // more of its environment
	inside  bool                   // it sees the files as the libvirtd of the bed does
}

// newBed makes a host whose libvirt is embedded in its clients.
func newBed(t *testing.T) *bed {
	t.Helper()
	host, err := guest.NewHost(shortDir(t))
	must(t, err)
	return (&bed{t: t, host: host}).closedAfterTest(host.Close)
}

// newDaemonBed makes a host with a libvirtd of its own.
func newDaemonBed(t *testing.T) *bed {
	t.Helper()
	daemon, err := guest.NewDaemon(shortDir(t))
	must(t, err)
	return (&bed{t: t, host: daemon.Host, daemon: daemon}).closedAfterTest(daemon.Close)
}

func (b *bed) closedAfterTest(closeHost func() error) *bed {
	b.t.Cleanup(func() {
		err := b.host.KillGuests()
		for _, l := range slices.Backward(b.loops) {
			err = errors.Join(err, l.Close())
		}
		if err = errors.Join(err, closeHost()); err != nil {
			b.t.Errorf("clean up: %v", err)
		}
	})
	return b
}

// shortDir is empty. The names of t.TempDir are too long for UNIX sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vr-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// path names a file of the test's own on the host.
func (b *bed) path(elem ...string) string {
	return filepath.Join(append([]string{b.host.Dir()}, elem...)...)
}

// boot defines and starts a guest and waits until it has written a while.
func (b *bed) boot(spec guest.Spec) {
	b.t.Helper()
	b.define(spec)
	b.start(spec.Name)
}

func (b *bed) define(spec guest.Spec) {
	b.t.Helper()
	must(b.t, b.host.Define(b.t.Context(), spec))
}

func (b *bed) start(dom string) {
	b.t.Helper()
	must(b.t, b.host.Start(b.t.Context(), dom))
	b.waitWrites(dom, 40)
}

func (b *bed) destroy(dom string) {
	b.t.Helper()
	must(b.t, b.host.Destroy(b.t.Context(), dom))
}

// domState is a domain's state in libvirt's words.
func (b *bed) domState(dom string) string {
	b.t.Helper()
	return strings.TrimSpace(b.virsh("domstate", dom))
}

// crash is a power cut for one guest.
func (b *bed) crash(dom string) {
	b.t.Helper()
	b.leaks = true
	must(b.t, b.host.Crash(dom))
	must(b.t, b.host.WaitOff(b.t.Context(), dom))
}

// waitWrites waits until the guest has written n more blocks.
func (b *bed) waitWrites(dom string, n uint64) {
	b.t.Helper()
	must(b.t, b.host.WaitWrites(b.t.Context(), dom, n))
}

func (b *bed) virsh(args ...string) string {
	b.t.Helper()
	out, err := b.host.Virsh(b.t.Context(), args...)
	must(b.t, err)
	return out
}

func (b *bed) qemuImg(args ...string) string {
	b.t.Helper()
	out, err := guest.QemuImg(b.t.Context(), args...)
	must(b.t, err)
	return out
}

// snapshot takes an external snapshot of all disks with virsh, as an administrator
// would. Overlays lie beside the layers: STEM.NAME.qcow2.
func (b *bed) snapshot(dom, name string) {
	b.t.Helper()
	args := []string{"snapshot-create-as", dom, name, "--disk-only", "--atomic"}
	for _, d := range b.disks(dom) {
		stem := filepath.Base(b.host.Spec(dom).Disks[d.Target[2]-'a'].Path)
		stem = strings.TrimSuffix(stem, filepath.Ext(stem))
		overlay := filepath.Join(filepath.Dir(d.Path), stem+"."+name+".qcow2")
		args = append(args, "--diskspec", d.Target+",snapshot=external,file="+overlay)
	}
	b.virsh(args...)
}

// disks are a domain's writable disks with their active layers.
func (b *bed) disks(dom string) []guest.Disk {
	b.t.Helper()
	disks, err := b.host.Disks(b.t.Context(), dom)
	must(b.t, err)
	return disks
}

func (b *bed) disk(dom, target string) guest.Disk {
	b.t.Helper()
	for _, d := range b.disks(dom) {
		if d.Target == target {
			return d
		}
	}
	b.t.Fatalf("domain %s has no disk %s", dom, target)
	return guest.Disk{}
}

// chain is a disk's layers, the active one first.
func (b *bed) chain(dom, target string) []guest.Layer {
	b.t.Helper()
	return b.chainOf(b.disk(dom, target))
}

// chainOf is chain without a question to libvirt.
func (b *bed) chainOf(d guest.Disk) []guest.Layer {
	b.t.Helper()
	layers, err := guest.Chain(b.t.Context(), d.Path, d.Format)
	must(b.t, err)
	return layers
}

// snapshots are a domain's snapshots, parents first.
func (b *bed) snapshots(dom string) []guest.Snapshot {
	b.t.Helper()
	s, err := b.host.Snapshots(b.t.Context(), dom)
	must(b.t, err)
	return s
}

// snapshotNames are in the order of snapshots.
func (b *bed) snapshotNames(dom string) []string {
	b.t.Helper()
	names := []string{}
	for _, s := range b.snapshots(dom) {
		names = append(names, s.Name)
	}
	return names
}

// overlay is the file that came into being with a snapshot.
func (b *bed) overlay(dom, snapshot, target string) string {
	b.t.Helper()
	for _, s := range b.snapshots(dom) {
		for _, d := range s.Disks {
			if s.Name == snapshot && d.Target == target {
				return d.Overlay
			}
		}
	}
	b.t.Fatalf("domain %s has no snapshot %s of disk %s", dom, snapshot, target)
	return ""
}

// states are those of a domain's snapshots, by name and disk.
type states map[string]map[string]guest.State

// keptStates reads and checks the state of each snapshot.
func (b *bed) keptStates(dom string) states {
	b.t.Helper()
	kept, err := b.host.KeptStates(b.t.Context(), dom)
	must(b.t, err)
	return kept
}

// checkGuest checks what the guest itself sees, and returns it by disk.
func (b *bed) checkGuest(dom string) map[string]guest.State {
	b.t.Helper()
	now, err := b.host.CheckGuest(b.t.Context(), dom)
	must(b.t, err)
	return now
}

// leaksOnly is the exit status of qemu-img check for an image that is sound but
// has clusters that nothing uses, as a killed QEMU leaves them.
const leaksOnly = 3

// checkImages has qemu-img check each layer of each disk. The guest must be
// suspended or shut off.
func (b *bed) checkImages(dom string) {
	b.t.Helper()
	for _, d := range b.disks(dom) {
		for _, l := range b.chainOf(d) {
			err := guest.CheckImage(b.t.Context(), l.Path, l.Format)
			var exit *exec.ExitError
			if b.leaks && errors.As(err, &exit) && exit.ExitCode() == leaksOnly {
				continue
			}
			if err != nil {
				b.t.Error(err)
			}
		}
	}
}

// wantKept fails the test unless exactly the named snapshots are there, and those
// that were there before have the states that they had.
func (b *bed) wantKept(dom string, before states, names ...string) {
	b.t.Helper()
	after := b.keptStates(dom)
	if got, want := slices.Sorted(maps.Keys(after)), slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		b.t.Errorf("domain %s has snapshots %q, want %q", dom, got, want)
	}
	for name, state := range after {
		if was, ok := before[name]; ok && !maps.Equal(was, state) {
			b.t.Errorf("domain %s, snapshot %s: state changed from %v to %v", dom, name, was, state)
		}
	}
}

// loopDevice makes a block device of size bytes.
func (b *bed) loopDevice(size int64) string {
	b.t.Helper()
	l, err := guest.NewLoop(b.t.Context(), b.path(b.loopName()), size)
	must(b.t, err)
	b.loops = append(b.loops, l)
	return l.Device
}

// loopMount makes a file system of its own, ext4 or xfs (300 MiB and more), and
// returns the directory where it is mounted.
func (b *bed) loopMount(fstype string, size int64) string {
	b.t.Helper()
	name := b.loopName()
	l, err := guest.NewLoopMount(b.t.Context(), b.path(name), fstype, b.path(name+".d"), size)
	must(b.t, err)
	b.loops = append(b.loops, l)
	return l.Dir
}

func (b *bed) loopName() string { return "loop" + strconv.Itoa(len(b.loops)) }

// writePolicy gives later runs of virt-rotate a policy: TOML tables, below the keys
// that say where this host is.
func (b *bed) writePolicy(tables string) {
	b.t.Helper()
	b.policy = b.path("policy.toml")
	text := fmt.Sprintf("connect = %q\nstate_dir = %q\n\n%s\n", b.host.URI(), b.path("state"), tables)
	must(b.t, os.WriteFile(b.policy, []byte(text), 0o644))
}

// A result is what a run of virt-rotate came to. Exit is -1 for a signal.
type result struct {
	Stdout, Stderr string
	Exit           int
	args           []string // of virt-rotate
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d\nstdout:\n%s\nstderr:\n%s", r.Exit, r.Stdout, r.Stderr)
}

// decode parses the output of --output=json into v.
func (r result) decode(t *testing.T, v any) {
	t.Helper()
	schematest.Fits(t, r.args, r.Stdout)
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		t.Fatalf("output is not the JSON we want: %v\n%v", err, r)
	}
}

// wantExit fails the test on another exit status.
func (r result) wantExit(t *testing.T, status int) result {
	t.Helper()
	if r.Exit != status {
		t.Fatalf("want exit status %d, got %v", status, r)
	}
	return r
}

// rotate runs virt-rotate with the bed's policy and host, to its end.
func (b *bed) rotate(args ...string) result {
	b.t.Helper()
	return b.beginRotate(args...).wait()
}

// A rotation is a virt-rotate at work. On an embedded host nothing else can ask
// libvirt until it has ended.
type rotation struct {
	cmd            *exec.Cmd
	stdout, stderr said
	hung           atomic.Bool
	ended          func() result
}

// said is what a program has written so far.
type said struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// beginRotate starts virt-rotate and returns at once.
func (b *bed) beginRotate(args ...string) *rotation {
	b.t.Helper()
	build := b.program
	if build == nil {
		build = binary
	}
	program, err := build()
	must(b.t, err)
	return b.begin(program, nil, args...)
}

// begin starts a build of virt-rotate, with more in its environment.
func (b *bed) begin(program string, env []string, args ...string) *rotation {
	b.t.Helper()
	global := []string{"--connect", b.host.URI()}
	if b.policy != "" {
		global = append(global, "--policy", b.policy)
	}
	// Not t.Context: the process must be gone before the clean-up, not after.
	line := append(append([]string{program}, global...), args...)
	if b.inside {
		line = append(b.daemon.Inside(), line...)
	}
	r := &rotation{cmd: b.host.Command(context.Background(), line[0], line[1:]...)}
	r.cmd.Env = slices.Concat(r.cmd.Env, b.env, env)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	done := b.host.Turn()
	if err := r.cmd.Start(); err != nil {
		done()
		b.t.Fatal(err)
	}
	off := r.killIfItHangs()
	r.ended = sync.OnceValue(func() result {
		defer done()
		defer off()
		_ = r.cmd.Wait() // Exit tells
		if r.hung.Load() {
			fmt.Fprintf(&r.stderr, "\nkilled by the test: it had not ended after %v\n", runPatience)
		}
		return result{r.stdout.String(), r.stderr.String(), r.cmd.ProcessState.ExitCode(), args}
	})
	b.t.Cleanup(func() { r.kill() })
	return r
}

// wait returns when the run has ended.
func (r *rotation) wait() result { return r.ended() }

// kill ends the run with SIGKILL, if it has not ended by itself.
func (r *rotation) kill() result {
	_ = r.cmd.Process.Kill()
	return r.ended()
}
