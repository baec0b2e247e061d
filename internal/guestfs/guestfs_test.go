package guestfs

import (
	"bytes"
	"context"
	"errors"
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

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// served is what a client reads of a disk that is served.
func served(t *testing.T, d *Disk) []byte {
	t.Helper()
	dir := t.TempDir()
	s, err := Serve(t.Context(), d, filepath.Join(dir, "s"))
	must(t, err)
	output(t, "qemu-img", "convert", "-O", "raw", "nbd+unix:///?socket="+s.Socket, filepath.Join(dir, "raw"))
	must(t, s.Close())
	b, err := os.ReadFile(filepath.Join(dir, "raw"))
	must(t, err)
	return b
}

// Whatever an image is called, and whether it is a file or a device, it is that image that is
// served; of one that a guest writes to, with what it builds on.
func TestServedDisks(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("disk"), 256<<10)
	for _, name := range []string{"plain", "with, comma", "nbd:with:colon", "json:{}", `quote"`} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, want, 0o600))
		for _, shared := range []bool{false, true} {
			if !bytes.Equal(served(t, &Disk{Image: Image{path, "raw"}, Shared: shared}), want) {
				t.Errorf("%s: other data", name)
			}
		}
	}
	base, top := filepath.Join(dir, "plain"), filepath.Join(dir, "top")
	output(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
	if !bytes.Equal(served(t, &Disk{Image: Image{top, "qcow2"}, Below: &Image{base, "raw"}, Shared: true}), want) {
		t.Error("an overlay: other data")
	}
	loop := output(t, "losetup", "-f", "--show", base)
	defer output(t, "losetup", "-d", loop)
	if !bytes.Equal(served(t, &Disk{Image: Image{loop, "raw"}}), want) {
		t.Error("a device: other data")
	}
}

// An image that somebody writes to is not served, unless it is one that may be written to; what
// it builds on must not be in any case.
func TestAnImageThatIsWrittenToIsNotServed(t *testing.T) {
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	output(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	output(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	disk := Disk{Image: Image{top, "qcow2"}, Below: &Image{base, "qcow2"}}
	for _, c := range []struct {
		written string
		shared  bool
		fails   bool
	}{{top, false, true}, {top, true, false}, {base, false, true}, {base, true, true}} {
		w, err := start("qemu-nbd", false, nil, "--persistent", "--format=qcow2", "--socket="+dir+"/w", c.written)
		must(t, err)
		must(t, w.awaitBegin(t.Context(), func() bool { return greets(dir + "/w") }))
		disk.Shared = c.shared
		s, err := Serve(t.Context(), &disk, filepath.Join(dir, "s"))
		if errors.Is(err, ErrLocked) != c.fails {
			t.Errorf("%+v: %v", c, err)
		}
		must(t, errors.Join(s.Close(), w.stop()))
	}
}

func TestNamesOfDisksAndPartitions(t *testing.T) {
	disks := []Disk{{Target: "vda"}, {Target: "sda"}, {Target: "vdb"}}
	for name, device := range map[string]string{"vda1": "/dev/sda1", "/dev/vda1": "/dev/sda1", "sda2": "/dev/sdb2", "vdb": "/dev/sdc", "vg/root": "/dev/vg/root", "btrfsvol:/dev/sda1/home": "btrfsvol:/dev/sda1/home"} {
		if got := toAppliance(name, disks); got != device {
			t.Errorf("%s: %s, want %s", name, got, device)
		}
	}
	for device, name := range map[string]string{"/dev/sda1": "vda1", "/dev/sdb2": "sda2", "/dev/sdc": "vdb", "/dev/vg/root": "vg/root"} {
		if got := fromAppliance(device, disks); got != name {
			t.Errorf("%s: %s, want %s", device, got, name)
		}
	}
	for i, name := range map[int]string{0: "/dev/sda", 25: "/dev/sdz", 26: "/dev/sdaa", 27: "/dev/sdab", 701: "/dev/sdzz", 702: "/dev/sdaaa"} {
		if got := applianceName(i); got != name {
			t.Errorf("%d: %s, want %s", i, got, name)
		}
	}
}

func TestAMissingProgramIsToldWithItsPackage(t *testing.T) {
	t.Setenv("PATH", "")
	_, err := find("guestfish")
	var missing *MissingError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "guestfish (Debian family) or libguestfs (Fedora family)") {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte("of a file\n"), 0o600))
	for key, want := range map[string]string{"all:key:a:b": "a:b true", "/dev/sda1:key:x": "x true", "/dev/sdb1:key:x": " false", "all:file:" + file: "of a file true"} {
		secret, fits, err := secretFor(key, "/dev/sda1")
		if got := secret + map[bool]string{true: " true", false: " false"}[fits]; got != want || err != nil {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
	for _, key := range []string{"", "x", "all:tang:y", "all:file:/none"} {
		if _, _, err := secretFor(key, "/dev/sda1"); err == nil {
			t.Errorf("%q is taken", key)
		}
	}
}

// Whoever is told to stop amid the beginning leaves nothing.
func TestAnInterruptedOpenLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/raw", make([]byte, 1<<20), 0o600))
	must(t, os.Mkdir(dir+"/work", 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := Open(ctx, []Disk{{Target: "vda", Image: Image{dir + "/raw", "raw"}}}, Options{HostKernel: true, Dir: dir + "/work"})
	if v != nil || !errors.Is(err, context.Canceled) {
		t.Error(v, err)
	}
	must(t, os.Mkdir(dir+"/work2", 0o700))
	_, err = Open(t.Context(), []Disk{{Target: "vda", Image: Image{dir + "/raw", "raw"}}}, Options{HostKernel: true, Dir: dir + "/work2"})
	var choice *ChoiceError
	if !errors.As(err, &choice) || len(choice.Found) > 0 {
		t.Errorf("a disk without a file system: %v", err)
	}
}
