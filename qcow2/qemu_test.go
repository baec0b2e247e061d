package qcow2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run fails the test when the tool fails or is missing.
func run(t *testing.T, dir, tool string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(tool, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", tool, args, err, out, stderr.Bytes())
	}
	return out
}

func qemuImg(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	return run(t, dir, "qemu-img", args...)
}

// qemuIO runs commands on an image in dir.
func qemuIO(t *testing.T, dir, image string, commands ...string) {
	t.Helper()
	args := []string{"-f", "qcow2"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	run(t, dir, "qemu-io", append(args, image)...)
}

func create(t *testing.T, dir, name, options string, more ...string) {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if options != "" {
		args = append(args, "-o", options)
	}
	qemuImg(t, dir, append(append(args, name), more...)...)
}

// load reads a file whole.
func load(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustRead(t *testing.T, image []byte) Header {
	t.Helper()
	h, err := ReadHeader(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// info is what qemu-img info says about an image, as far as Header says it too.
type info struct {
	VirtualSize   int64             `json:"virtual-size"`
	ClusterSize   int64             `json:"cluster-size"`
	BackingFile   string            `json:"backing-filename"`
	BackingFormat string            `json:"backing-filename-format"`
	Dirty         bool              `json:"dirty-flag"`
	Encrypted     bool              `json:"encrypted"`
	Snapshots     []json.RawMessage `json:"snapshots"`
	Specific      struct {
		Data struct {
			Compat        string            `json:"compat"`
			Compression   string            `json:"compression-type"`
			LazyRefcounts bool              `json:"lazy-refcounts"`
			RefcountBits  int               `json:"refcount-bits"`
			Corrupt       bool              `json:"corrupt"`
			ExtendedL2    bool              `json:"extended-l2"`
			DataFile      string            `json:"data-file"`
			DataFileRaw   bool              `json:"data-file-raw"`
			Bitmaps       []json.RawMessage `json:"bitmaps"`
			Encrypt       struct {
				Format string `json:"format"`
			} `json:"encrypt"`
		} `json:"data"`
	} `json:"format-specific"`
}

// summary is what a Header and an info have in common.
func (h Header) summary() string {
	return fmt.Sprintf("v%d size %d cluster %d backing %q %q dirty %v corrupt %v crypt %d snapshots %d "+
		"compression %d lazy %v bits %d extl2 %v data file %q raw %v bitmaps %d",
		h.Version, h.Size, h.ClusterSize(), h.BackingFile, h.BackingFormat, h.Dirty(), h.Corrupt(),
		h.CryptMethod, h.Snapshots, h.CompressionType, h.LazyRefcounts(), 1<<h.RefcountOrder,
		h.ExtendedL2(), h.DataFile, h.DataFileRaw(), h.Bitmaps)
}

func (i info) summary() string {
	d := i.Specific.Data
	version := map[string]int{"0.10": 2, "1.1": 3}[d.Compat]
	crypt := map[string]int{"": CryptNone, "aes": CryptAES, "luks": CryptLUKS}[d.Encrypt.Format]
	compression := map[string]int{"zlib": CompressionZlib, "zstd": CompressionZstd}[d.Compression]
	return fmt.Sprintf("v%d size %d cluster %d backing %q %q dirty %v corrupt %v crypt %d snapshots %d "+
		"compression %d lazy %v bits %d extl2 %v data file %q raw %v bitmaps %d",
		version, i.VirtualSize, i.ClusterSize, i.BackingFile, i.BackingFormat, i.Dirty, d.Corrupt,
		crypt, len(i.Snapshots), compression, d.LazyRefcounts, d.RefcountBits,
		d.ExtendedL2, d.DataFile, d.DataFileRaw, len(d.Bitmaps))
}

// wantAsQEMU compares ReadHeader with qemu-img info and returns the header.
func wantAsQEMU(t *testing.T, dir, image string) Header {
	t.Helper()
	var want info
	out := qemuImg(t, dir, "info", "-f", "qcow2", "--output=json", image)
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	h := mustRead(t, load(t, dir, image))
	if h.summary() != want.summary() {
		t.Errorf("header: %s\nqemu:   %s", h.summary(), want.summary())
	}
	return h
}

func TestHeaderAsQEMU(t *testing.T) {
	for _, options := range []string{
		"", "compat=0.10", "cluster_size=512", "cluster_size=1k", "cluster_size=4k",
		"cluster_size=1M", "cluster_size=2M", "cluster_size=512,compat=0.10",
		"cluster_size=2M,compat=0.10", "lazy_refcounts=on", "refcount_bits=1", "refcount_bits=64",
		"compression_type=zstd", "extended_l2=on", "extended_l2=on,cluster_size=16k",
		"preallocation=metadata", "preallocation=falloc,cluster_size=4k",
	} {
		for _, size := range []string{"0", "512", "10M", "3T"} {
			if size == "3T" && (strings.Contains(options, "size=512") || strings.Contains(options, "size=1k") ||
				strings.Contains(options, "preallocation") || strings.Contains(options, "cluster_size=16k")) {
				continue // more than such an image can hold, or this disk
			}
			t.Run(options+" "+size, func(t *testing.T) {
				dir := t.TempDir()
				create(t, dir, "disk", options, size)
				wantAsQEMU(t, dir, "disk")
			})
		}
	}
}

func TestHeaderOfOverlays(t *testing.T) {
	names := []string{"base", strings.Repeat("b", 200), "näme with, comma\nand newline", "./x/../base", "json:{}"}
	for _, compat := range []string{"0.10", "1.1"} {
		for _, name := range names {
			t.Run(compat+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				create(t, dir, "base", "", "1M")
				// -u: the name need not lead anywhere. Opening follows it.
				create(t, dir, "top", "compat="+compat, "-u", "-b", name, "-F", "qcow2", "1M")
				h := mustRead(t, load(t, dir, "top"))
				if h.BackingFile != name || h.BackingFormat != "qcow2" {
					t.Errorf("backing file %q, format %q", h.BackingFile, h.BackingFormat)
				}
			})
		}
	}
}

func TestHeaderAfterRebase(t *testing.T) {
	dir := t.TempDir()
	create(t, dir, "base", "", "1M")
	create(t, dir, "top", "", "-b", "base", "-F", "qcow2")
	if h := wantAsQEMU(t, dir, "top"); h.BackingFile != "base" {
		t.Errorf("before: %+v", h)
	}
	qemuImg(t, dir, "rebase", "-u", "-f", "qcow2", "-b", "", "top")
	if h := wantAsQEMU(t, dir, "top"); h.BackingFile != "" {
		t.Errorf("after: %+v", h)
	}
}

func TestHeaderOfLongestBackingName(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("d/", 511) + "b"
	create(t, dir, "top", "", "-u", "-b", name, "-F", "raw", "1M")
	if h := mustRead(t, load(t, dir, "top")); h.BackingFile != name || len(name) != maxBackingName {
		t.Errorf("backing name of %d bytes", len(h.BackingFile))
	}
}

func TestHeaderWithSnapshotsAndBitmaps(t *testing.T) {
	dir := t.TempDir()
	create(t, dir, "disk", "", "1M")
	qemuImg(t, dir, "bitmap", "-f", "qcow2", "--add", "disk", "first")
	qemuImg(t, dir, "bitmap", "-f", "qcow2", "--add", "disk", "second")
	if h := wantAsQEMU(t, dir, "disk"); h.Bitmaps != 2 || !h.HasBitmaps() {
		t.Errorf("bitmaps: %+v", h)
	}
	qemuImg(t, dir, "bitmap", "-f", "qcow2", "--remove", "disk", "first")
	qemuImg(t, dir, "snapshot", "-c", "s", "disk")
	if h := wantAsQEMU(t, dir, "disk"); h.Bitmaps != 1 || h.Snapshots != 1 {
		t.Errorf("snapshot: %+v", h)
	}
	qemuImg(t, dir, "bitmap", "-f", "qcow2", "--remove", "disk", "second")
	qemuImg(t, dir, "snapshot", "-d", "s", "disk")
	if h := wantAsQEMU(t, dir, "disk"); h.HasBitmaps() || h.Snapshots != 0 {
		t.Errorf("after removal: %+v", h)
	}
}

// A program that knows no bitmaps clears the autoclear bit and leaves the rest.
func TestStaleBitmapsDoNotCount(t *testing.T) {
	image := load(t, "testdata", "bitmap.qcow2")
	if h := mustRead(t, image); h.Bitmaps != 1 || h.BitmapDirectorySize == 0 {
		t.Errorf("fresh: %+v", h)
	}
	image[offAutoclear+7] = 0
	if h := mustRead(t, image); h.HasBitmaps() || !h.hasExtension(ExtensionBitmaps) {
		t.Errorf("stale: %+v", h)
	}
}

func TestHeaderWithDataFile(t *testing.T) {
	for _, raw := range []string{"on", "off"} {
		dir := t.TempDir()
		t.Chdir(dir) // QEMU takes a relative data file from there
		create(t, dir, "disk", "data_file=data.raw,data_file_raw="+raw, "1M")
		h := wantAsQEMU(t, dir, "disk")
		if !h.HasDataFile() || h.DataFile != "data.raw" || h.DataFileRaw() != (raw == "on") {
			t.Errorf("%+v", h)
		}
		wantBlank(t, dir, "disk", false)
	}
}

func TestHeaderOfEncryptedImages(t *testing.T) {
	// qemu-img measures the hash, and fails when that takes less than a tick of
	// the clock: a slow one keeps it from that.
	luks := "encrypt.format=luks,encrypt.hash-alg=sha512,encrypt.iter-time=10,encrypt.key-secret=s,cluster_size=4k"
	for options, method := range map[string]uint32{
		luks: CryptLUKS, "encrypt.format=aes,encrypt.key-secret=s": CryptAES,
	} {
		dir := t.TempDir()
		createEncrypted(t, dir, "disk", options, "1M")
		h := wantAsQEMU(t, dir, "disk")
		if !h.Encrypted() || h.CryptMethod != method || (h.CryptHeaderLength > 0) != (method == CryptLUKS) {
			t.Errorf("%+v", h)
		}
		wantBlank(t, dir, "disk", true)
	}
}

// createEncrypted tries again when the clock of qemu-img was too coarse.
func createEncrypted(t *testing.T, dir, name, options, size string) {
	t.Helper()
	for range 50 {
		cmd := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-o", options,
			"--object", "secret,id=s,data=secret", name, size)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		if !bytes.Contains(out, []byte("CPU usage")) {
			t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
		}
	}
	t.Fatal("qemu-img cannot measure its hash here")
}

func TestHeaderOfDirtyAndCorruptImages(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dirty.qcow2", "v3.qcow2"} {
		if err := os.WriteFile(filepath.Join(dir, name), load(t, "testdata", name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if h := wantAsQEMU(t, dir, "dirty.qcow2"); !h.Dirty() || h.Corrupt() {
		t.Errorf("%+v", h)
	}
	wantBlank(t, dir, "v3.qcow2", true)
	setByte(t, filepath.Join(dir, "v3.qcow2"), offIncompatible+7, incompatCorrupt)
	if h := wantAsQEMU(t, dir, "v3.qcow2"); h.Dirty() || !h.Corrupt() {
		t.Errorf("%+v", h)
	}
	wantBlank(t, dir, "v3.qcow2", false)
}

func setByte(t *testing.T, path string, off int64, value byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{value}, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantBlank(t *testing.T, dir, image string, want bool) {
	t.Helper()
	b := load(t, dir, image)
	got, err := Blank(bytes.NewReader(b), mustRead(t, b), int64(len(b)))
	if err != nil || got != want {
		t.Errorf("%s: Blank = %v, %v; want %v", image, got, err, want)
	}
}

func TestBlankUntilWritten(t *testing.T) {
	for _, command := range []string{"write -P 7 0 512", "write -z 0 64k", "write -z -u 1M 64k", "write -P 7 8191M 64k"} {
		for _, options := range []string{"", "compat=0.10", "cluster_size=4k"} {
			t.Run(command+" "+options, func(t *testing.T) {
				dir := t.TempDir()
				create(t, dir, "base", "", "8G")
				create(t, dir, "top", options, "-b", "base", "-F", "qcow2")
				wantBlank(t, dir, "top", true)
				qemuIO(t, dir, "top", "read 0 64k", "flush")
				wantBlank(t, dir, "top", true)
				qemuIO(t, dir, "top", command)
				wantBlank(t, dir, "top", false)
				wantBlank(t, dir, "base", true)
			})
		}
	}
}

func TestBlankMindsSnapshots(t *testing.T) {
	dir := t.TempDir()
	create(t, dir, "disk", "", "1M")
	qemuImg(t, dir, "snapshot", "-c", "s", "disk")
	wantBlank(t, dir, "disk", false)
	qemuImg(t, dir, "snapshot", "-d", "s", "disk")
	wantBlank(t, dir, "disk", true)
}
