package cli

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi/xapitest"
)

// pool is a host with a guest of two disks and two snapshots, and the password in a file of
// the new current directory.
func pool(t *testing.T, power string) (s *xapitest.Server, vm string, line []string) {
	t.Helper()
	t.Chdir(t.TempDir())
	writeTestFile(t, "password", []byte("secret\n"))
	s = xapitest.New(t)
	writeTestFile(t, "host.pem", s.PEM())
	vm = s.VM(1, "web", power)
	r := rand.NewChaCha8([32]byte{3})
	scribble := func(ref string) {
		b := slices.Clone(s.Content(ref))
		for range 3 {
			_, _ = r.Read(b[r.Uint64()%uint64(len(b)-300000):][:200000])
		}
		s.Fill(ref, xapitest.Disk{Content: b})
	}
	for i, name := range []string{"root", "data"} {
		scribble(s.Disk(i+1, vm, fmt.Sprint(i), name, xapitest.Disk{Content: make([]byte, (20-10*i)<<20)}))
	}
	for i := range 2 {
		s.Snapshot(vm, fmt.Sprintf("snap%d", i), fmt.Sprintf("2024010%dT00:00:00Z", i+1))
		for _, ref := range s.DisksOf(vm) {
			scribble(ref)
		}
	}
	return s, vm, []string{"sr", "pull", "--password-file", "password", "--fingerprint", s.Fingerprint(), "--vm", "web", "--to", "pulled", s.URL}
}

// converted wants all disks of the pool as qcow2 images with the content that they have there.
func converted(t *testing.T, s *xapitest.Server, want int, refs ...string) {
	t.Helper()
	if len(refs) != want {
		t.Fatalf("%d disks: %q", len(refs), refs)
	}
	for _, ref := range refs {
		writeTestFile(t, "want.raw", s.Content(ref))
		sameDisk(t, "qcow2", "want.raw", fmt.Sprintf("images/%s.qcow2", s.Field("VDI", ref, "uuid")))
	}
}

// allDisks are those of a guest and of its snapshots.
func allDisks(s *xapitest.Server, vm string) (refs []string) {
	for _, m := range append([]string{vm}, s.SnapshotsOf(vm)...) {
		refs = append(refs, s.DisksOf(m)...)
	}
	return refs
}

// From the pool to qcow2 chains: every state of every disk is as the guest had it.
func TestSRPullAndConvertBringAllStatesOver(t *testing.T) {
	s, vm, line := pool(t, "Halted")
	out := must(t, line...)
	if !strings.Contains(out, "read what has changed since") || !strings.Contains(out, "in full") {
		t.Error(out)
	}
	must(t, "sr", "check", "pulled")
	if tree := must(t, "sr", "scan", "--names", "pulled/pool.xml", "pulled"); !strings.Contains(tree, `"root", disk 0 of "web"`) ||
		!strings.Contains(tree, `"root", disk 0 of "snap1", snapshot of 2024-01-02 00:00 UTC`) || strings.Contains(tree, "wrong") || strings.Count(tree, "*") != 4 {
		t.Error(tree)
	}
	must(t, "sr", "convert", "pulled", "--to", "images")
	converted(t, s, 6, allDisks(s, vm)...)
	if out := must(t, line...); strings.Contains(out, "read ") || strings.Count(out, "there already") != 6 {
		t.Error(out)
	}
	if s.Sessions() != 0 {
		t.Errorf("%d sessions are left", s.Sessions())
	}
	if slices.Contains(s.Calls(), "VM.snapshot") {
		t.Error("a snapshot was taken")
	}
}

func TestSRPullOfARunningGuest(t *testing.T) {
	s, vm, line := pool(t, "Running")
	code, _, errs := try(t, line...)
	if code != term.ExitSome || !strings.Contains(errs, "--snapshot") {
		t.Errorf("%d %s", code, errs)
	}
	dry := append(slices.Clone(line[:len(line)-1]), "--snapshot", "--dry-run", s.URL)
	if _, errs, code := call(t, dry...); code != 0 || !strings.Contains(errs, "would be taken") || slices.Contains(s.Calls(), "VM.snapshot") {
		t.Errorf("%d %s", code, errs)
	}
	_, errs, code = call(t, append(slices.Clone(line[:len(line)-1]), "--snapshot", s.URL)...)
	if code != 0 || !strings.Contains(errs, "xe snapshot-uninstall force=true uuid=bbbbbbbb-") {
		t.Errorf("%d %s", code, errs)
	}
	must(t, "sr", "convert", "pulled", "--to", "images")
	converted(t, s, 8, allDisks(s, vm)...)
	if n := strings.Count(strings.Join(s.Calls(), " "), "VM.snapshot"); n != 1 {
		t.Errorf("%d snapshots were taken", n)
	}
}

// A guest comes over while it runs; when it is off, what it has written since is read from
// the host, and written into what was converted.
func TestSRPullAndConvertAgainWhenTheGuestIsOff(t *testing.T) {
	s, vm, line := pool(t, "Running")
	must(t, append(slices.Clone(line[:len(line)-1]), "--snapshot", "--keep-snapshot", s.URL)...)
	old := time.Now().Add(-time.Hour)
	for _, name := range namesIn(t, "pulled") {
		if err := os.Chtimes("pulled/"+name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "sr", "convert", "pulled", "--to", "images")
	disk := s.DisksOf(vm)[0]
	b := slices.Clone(s.Content(disk))
	copy(b[9<<20:], "the last words")
	s.Fill(disk, xapitest.Disk{Content: b})
	s.Set("VM", vm, "power_state", "Halted")
	sent := s.Sent()
	must(t, line...)
	if more := s.Sent() - sent; more > 3<<20 {
		t.Errorf("%d bytes were read for one block that changed", more)
	}
	var report struct {
		Steps []struct{ Target string }
		Kept  []string
	}
	if err := json.Unmarshal([]byte(must(t, "sr", "convert", "pulled", "--again", "--output=json", "--to", "images")), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Steps) != 2 || len(report.Kept) != 12 {
		t.Errorf("%+v", report)
	}
	converted(t, s, 8, allDisks(s, vm)...)
}

// A snapshot that was asked for by a pull which failed half-way is gone on with.
func TestSRPullTakesNoSecondSnapshotForOnePull(t *testing.T) {
	s, _, line := pool(t, "Running")
	line = append(slices.Clone(line[:len(line)-1]), "--snapshot", "--keep-snapshot", s.URL)
	s.Fail(xapitest.Fault{Method: "export", VDI: s.DisksOf(s.SnapshotsOf("OpaqueRef:vm-1")[0])[1], Cut: 100, Always: true})
	if code, _, _ := try(t, line...); code != term.ExitSome {
		t.Errorf("%d", code)
	}
	s.Mend()
	if _, errs, code := call(t, line...); code != 0 || strings.Contains(errs, "snapshot-uninstall") {
		t.Errorf("%d %s", code, errs)
	}
	if n := strings.Count(strings.Join(s.Calls(), " "), "VM.snapshot"); n != 1 {
		t.Errorf("%d snapshots were taken", n)
	}
}

func TestSRPullListsAndRehearses(t *testing.T) {
	s, _, line := pool(t, "Halted")
	s.VM(2, "evil\x1b[2J", "Running")
	t.Setenv("VIRT_ROTATE_XEN_PASSWORD", "secret")
	list := must(t, "sr", "pull", "--cacert", "host.pem", "--list", s.URL)
	if !strings.Contains(list, "Halted     web\n") || !strings.Contains(list, `evil\x1b[2J`) {
		t.Error(list)
	}
	var report struct {
		Guests []struct {
			Disks []struct {
				Bytes int64
				There bool
			}
		}
	}
	if err := json.Unmarshal([]byte(must(t, append(slices.Clone(line[:len(line)-1]), "--dry-run", "--output=json", s.URL)...)), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Guests) != 1 || len(report.Guests[0].Disks) != 6 || report.Guests[0].Disks[0].Bytes != 10<<20 || report.Guests[0].Disks[0].There {
		t.Errorf("%+v", report)
	}
	if _, err := os.Stat("pulled"); err == nil {
		t.Error("a dry run has made the directory")
	}
}

func TestSRPullSaysWhatIsWrong(t *testing.T) {
	s, _, _ := pool(t, "Halted")
	known := "--fingerprint=" + s.Fingerprint()
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"--vm web --to x " + s.URL, "VIRT_ROTATE_XEN_PASSWORD", term.ExitUsage},
		{"--password-file password --vm web --to x http://xen1", "want https://HOST", term.ExitUsage},
		{"--password-file password --vm web " + s.URL, "--to DEST", term.ExitUsage},
		{"--password-file password --vm web --to x --fingerprint md5:12 " + s.URL, "want sha256:", term.ExitUsage},
		{"--password-file password --vm web --to x --keep-snapshot " + s.URL, "goes with --snapshot", term.ExitUsage},
		{"--password-file password --vm web --to x --rate much " + known + " " + s.URL, "--rate much", term.ExitUsage},
		{"--password-file password --vm nobody --to x " + known + " " + s.URL, "no VM of the pool", term.ExitUsage},
		{"--password-file password --vm web --to x " + s.URL, "compare " + s.Fingerprint() + " with what it says itself", term.ExitFailed},
		{"--password-file password --vm web --to x --fingerprint sha256:" + strings.Repeat("ab", 32) + " " + s.URL, "its fingerprint is " + s.Fingerprint() + "; if its", term.ExitFailed},
		{"--password-file host.pem --vm web --to x " + known + " " + s.URL, "password is wrong", term.ExitFailed},
		{"--password-file password --vm web --to x --cacert password " + s.URL, "no certificate", term.ExitUsage},
	} {
		code, _, errs := try(t, append([]string{"sr", "pull"}, strings.Fields(c.line)...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: %d %s", c.line, code, errs)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("a directory was made")
	}
}

// What fits on no disk here is refused before anything is read.
func TestSRPullComparesTheSpace(t *testing.T) {
	s, _, line := pool(t, "Halted")
	for _, ref := range s.DisksOf(s.SnapshotsOf("OpaqueRef:vm-1")[0]) {
		s.Set("VDI", ref, "physical_utilisation", fmt.Sprint(int64(1)<<60))
	}
	if code, _, errs := try(t, line...); code != term.ExitRefused || !strings.Contains(errs, "are free") || s.Sent() > 0 {
		t.Errorf("%d %s, %d bytes", code, errs, s.Sent())
	}
}

// The program itself, as it is installed.
func TestSRPullByTheBinary(t *testing.T) {
	source, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s, vm, line := pool(t, "Halted")
	binary := filepath.Join(t.TempDir(), "virt-rotate")
	build := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", binary, "github.com/virt-rotate/virt-rotate/cmd/virt-rotate")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{line, {"sr", "convert", "pulled", "--to", "images"}} {
		if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	converted(t, s, 6, allDisks(s, vm)...)
}
