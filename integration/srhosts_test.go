package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/termtest"
)

// Where other hosts can have a repository (here a share of bindfs, which is FUSE), a coalesce
// wants somebody's word that it is detached, by option or at the prompt, and nothing may have
// been written to it just now.
func TestARepositoryOnAShareIsToBeDetached(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, _, disk := newRepository(t, b.path("sr"))
	for _, vdi := range []string{srSnapA, srSnapB, srClone} {
		must(t, os.Remove(b.path("sr", vdi+".vhd")))
	}
	must(t, os.Mkdir(b.path("share"), 0o755))
	if out, err := exec.Command("bindfs", b.path("sr"), b.path("share")).CombinedOutput(); err != nil {
		t.Fatalf("bindfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", b.path("share")).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	refuses := func(want string, args ...string) {
		t.Helper()
		r := b.rotate(append([]string{"sr", "coalesce", "--leaf", b.path("share")}, args...)...)
		if r.Exit != 4 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: %v", args, r)
		}
		if names, err := filepath.Glob(b.path("sr", "*.vhd")); err != nil || len(names) != 4 {
			t.Errorf("%q, %v", names, err)
		}
	}
	refuses("was written to")
	refuses("was written to", "--detached")
	refuses("was written to", "--dry-run")
	if r := b.rotate("sr", "repair", "--not-in-use", b.path("share")); r.Exit != 4 || !strings.Contains(r.Stderr, "was written to") {
		t.Errorf("repair: %v", r)
	}
	r := b.rotate("sr", "convert", b.path("share"), "--to", b.path("trial")).wantExit(t, 0)
	if !strings.Contains(r.Stderr, "of several moments") {
		t.Errorf("convert: %v", r)
	}
	b.longAgo("sr")
	refuses("say so with --detached")
	if r := b.rotate("sr", "coalesce", "--leaf", "--dry-run", b.path("share")).wantExit(t, 0); !strings.Contains(r.Stdout, "coalesce ") || !strings.Contains(r.Stderr, "--detached") {
		t.Errorf("dry run: %v", r)
	}
	line := b.shellLine([]string{"TERM=screen"}, "sr", "coalesce", b.path("share"))
	s := termtest.Start(t, "200", line+"; echo exit $?")
	s.Shows(`(?s).*Type yes:`)
	s.Type("no")
	s.Shows(`(?s).*exit 4`)
	s = termtest.Start(t, "200", line+"; echo exit $?")
	s.Shows(`(?s).*Type yes:`)
	s.Type("yes")
	s.Shows(`(?s).*1 step done; .*exit 0`)
	b.longAgo("sr")
	b.rotate("sr", "coalesce", b.path("share")).wantExit(t, 0) // nothing to do, nothing to ask
	b.rotate("sr", "coalesce", "--leaf", "--detached", b.path("share")).wantExit(t, 0)
	b.rotate("sr", "convert", b.path("sr"), "--to", b.path("images")).wantExit(t, 0)
	b.reads("the disk", b.path("images", srDisk+".qcow2"), disk)
}

// longAgo makes all files of the directory an hour old.
func (b *bed) longAgo(dir string) {
	b.t.Helper()
	names, err := filepath.Glob(b.path(dir, "*"))
	must(b.t, err)
	then := time.Now().Add(-time.Hour)
	for _, name := range names {
		must(b.t, os.Chtimes(name, then, then))
	}
}

// Of a repository on logical volumes the directory is named in which udev has a symbolic link
// to each device. It is read like any other; nothing in it is changed, which plan and scan say,
// too.
func TestARepositoryOfLinkedDevicesIsConverted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, _, disk := newRepository(t, b.path("sr"))
	must(t, os.Mkdir(b.path("group"), 0o755))
	parents := map[string]string{srBase: "", srFirst: srBase, srSecond: srFirst, srDisk: srSecond, srSnapA: srBase, srSnapB: srSecond, srClone: srFirst}
	for vdi := range parents {
		must(t, os.Rename(b.path("sr", vdi+".vhd"), b.path("sr", "VHD-"+vdi)))
	}
	for vdi, parent := range parents {
		if parent != "" {
			b.rotate("image", "rebase", "-u", "-F", "vhd", "-b", "VHD-"+parent, b.path("sr", "VHD-"+vdi)).wantExit(t, 0)
		}
	}
	for vdi := range parents {
		b.asDevice(b.path("sr", "VHD-"+vdi), b.path("group", "VHD-"+vdi))
	}
	r := b.rotate("sr", "scan", b.path("group")).wantExit(t, 0)
	if strings.Contains(r.Stdout, "coalesceable]") || !strings.Contains(r.Stdout, "not coalesced: 7 devices") {
		t.Errorf("scan: %v", r)
	}
	for _, dry := range []string{"--quiet", "--dry-run"} {
		if r := b.rotate("sr", "coalesce", "--leaf", "--garbage", dry, b.path("group")); r.Exit != 4 || !strings.Contains(r.Stderr, "copy the repository to files") {
			t.Errorf("coalesce %s: %v", dry, r)
		}
	}
	b.rotate("sr", "check", b.path("group")).wantExit(t, 0)
	b.rotate("sr", "convert", b.path("group"), "--to", b.path("images")).wantExit(t, 0)
	b.reads("the disk", b.path("images", srDisk+".qcow2"), disk)
}

// asDevice puts the file behind a device with a symbolic link to it.
func (b *bed) asDevice(file, link string) {
	b.t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		b.t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	b.t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			b.t.Errorf("losetup: %v: %s", err, out)
		}
	})
	must(b.t, os.Symlink(device, link))
}
