package qcow2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A species is a way to make an image for the checks. Offsets and lengths in
// its commands are clusters, as in "write -P 7 @3 @2".
type species struct {
	name    string
	cluster int64
	options string   // for qemu-img create
	size    int64    // of the disk, clusters; the last one is not complete
	steps   []string // of qemu-io, "img …" of qemu-img, or "abort …": qemu-io that dies
}

func (s species) luks() bool { return strings.Contains(s.options, "format=luks") }

// everyday is what most images go through.
var everyday = []string{
	"write -P 1 @0 @5", "write -P 2 @30 @3", "write -P 3 @39 1024", "write -z @1 @2", "write -z -u @4 @1",
	"write -P 4 @10 @1", "discard @10 @1", "write -P 5 @12 512",
}

var withSnapshots = append([]string{
	"write -P 1 @0 @8", "img snapshot -c one", "write -P 2 @2 @2", "write -P 2 @30 @1",
	"img snapshot -c two", "img snapshot -c three", "write -P 3 @3 @2",
}, "img snapshot -d two")

var packed = []string{
	"write -c -P 1 @14 @1", "write -c -P 2 @15 @1", "write -c -P 3 @17 @1", "write -P 4 @20 @2", "write -c -P 5 @24 @1",
}

// spread reaches several L2 tables of small clusters.
var spread = []string{"write -P 6 @100 @3", "write -P 7 @200 @3"}

// tight are compressed clusters that are not all in one cluster of the file.
var tight = []string{
	"write -c -s source @40 @1", "write -c -s source @41 @1", "write -c -s source @42 @1", "write -c -s source @44 @1",
	"write -c -s source @50 @1",
}

var withBitmaps = []string{
	"write -P 1 @0 @8", "img bitmap -f qcow2 --add %s first", "write -P 2 @2 @2",
	"img bitmap -f qcow2 --add -g 64k %s second", "write -P 3 @9 @2", "img bitmap -f qcow2 --disable %s first",
}

var dirty = []string{"abort write -P 1 @0 @7", "abort write -P 2 @21 @3"}

// allSpecies is the matrix: versions, cluster sizes, refcount widths, features.
func allSpecies() []species {
	var all []species
	add := func(name string, cluster, size int64, options string, steps ...[]string) {
		s := species{name: name, cluster: cluster, options: options, size: size}
		for _, more := range steps {
			s.steps = append(s.steps, more...)
		}
		all = append(all, s)
	}
	add("empty", 64<<10, 40, "")
	add("plain", 64<<10, 40, "", everyday)
	for _, cluster := range []int64{512, 1 << 10, 4 << 10, 64 << 10, 2 << 20} {
		size := int64(300)
		if cluster > 4<<10 {
			size = 40
		}
		var more []string
		if size == 300 {
			more = spread
		}
		add(fmt.Sprintf("v2-%d", cluster), cluster, size, "compat=0.10", everyday, more, withSnapshots)
		add(fmt.Sprintf("v3-%d", cluster), cluster, size, "", everyday, more, withSnapshots, packed)
	}
	for bits := 1; bits <= 64; bits *= 2 {
		steps := [][]string{everyday, spread, packed}
		if bits >= 8 { // packed clusters share theirs
			steps = append(steps, withSnapshots)
		}
		add(fmt.Sprintf("bits-%d", bits), 512, 300, fmt.Sprintf("refcount_bits=%d", bits), steps...)
		add(fmt.Sprintf("bits-%d-4k", bits), 4<<10, 600, fmt.Sprintf("refcount_bits=%d", bits), everyday)
	}
	add("extended", 16<<10, 60, "extended_l2=on", everyday, packed, withSnapshots)
	add("extended-64k", 64<<10, 60, "extended_l2=on", everyday, []string{"write -P 9 @50 512"})
	add("packed", 4<<10, 300, "", packed, tight)
	add("packed-512", 512, 300, "", packed, tight)
	add("packed-zstd", 64<<10, 300, "compression_type=zstd", packed, tight, withSnapshots)
	add("bitmaps", 4<<10, 600, "", withBitmaps)
	add("bitmaps-64k", 64<<10, 600, "", withBitmaps, everyday)
	add("lazy", 4<<10, 300, "lazy_refcounts=on", dirty)
	add("lazy-64k", 64<<10, 300, "lazy_refcounts=on", everyday, dirty)
	add("data-file", 4<<10, 600, "data_file=data-file.raw", everyday)
	add("data-file-raw", 64<<10, 40, "data_file=data-file-raw.raw,data_file_raw=on", everyday)
	add("luks", 4<<10, 600, "encrypt.format=luks,encrypt.iter-time=10,encrypt.hash-alg=sha512,encrypt.key-secret=s", everyday)
	add("preallocated", 4<<10, 600, "preallocation=metadata", []string{"write -P 1 @1 @2"})
	return all
}

// A specimen is an image file that qemu-img can be asked about.
type specimen struct {
	dir, file string
	luks      bool
	dataFile  string // if the image does not name its own
}

// args names the image for qemu-img and qemu-io.
func (s specimen) args() []string {
	if s.luks {
		return []string{"--object", "secret,id=s,data=secret", "--image-opts",
			"driver=qcow2,encrypt.key-secret=s,file.filename=" + s.file}
	}
	if s.dataFile != "" {
		return []string{"--image-opts", "driver=qcow2,data-file.driver=file,data-file.filename=" +
			s.dataFile + ",file.filename=" + s.file}
	}
	return []string{"-f", "qcow2", s.file}
}

// raise makes an image of a species in dir.
func raise(t *testing.T, dir string, s species) specimen {
	t.Helper()
	m := specimen{dir: dir, file: s.name, luks: s.luks()}
	size := fmt.Sprint(s.size*s.cluster - 512)
	options := strings.Trim(fmt.Sprintf("cluster_size=%d,%s", s.cluster, s.options), ",")
	if m.luks {
		createEncrypted(t, dir, m.file, options, size)
	} else {
		create(t, dir, m.file, options, size)
	}
	source := make([]byte, s.cluster) // half of it can be compressed
	rand.NewChaCha8([32]byte{}).Read(source[:len(source)/2])
	m.copyTo(t, "source", source)
	var io []string
	for _, step := range s.steps {
		verb, rest, _ := strings.Cut(step, " ")
		if verb != "img" && verb != "abort" {
			io = append(io, clusterUnits(step, s.cluster))
			continue
		}
		m.io(t, io...)
		io = nil
		if verb == "abort" {
			m.abort(t, clusterUnits(rest, s.cluster))
		} else {
			m.img(t, rest)
		}
	}
	m.io(t, io...)
	return m
}

// clusterUnits replaces @n by n clusters in bytes.
func clusterUnits(command string, cluster int64) string {
	words := strings.Fields(command)
	for i, w := range words {
		var n int64
		if _, err := fmt.Sscanf(w, "@%d", &n); err == nil {
			words[i] = fmt.Sprint(n * cluster)
		}
	}
	return strings.Join(words, " ")
}

func (s specimen) io(t *testing.T, commands ...string) {
	t.Helper()
	if len(commands) == 0 {
		return
	}
	var args []string
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	run(t, s.dir, "qemu-io", append(args, s.args()...)...)
}

// abort kills qemu-io after a command, before it can clean up.
func (s specimen) abort(t *testing.T, command string) {
	t.Helper()
	cmd := exec.Command("qemu-io", append([]string{"-c", command, "-c", "flush", "-c", "abort"}, s.args()...)...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGABRT {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
}

// img runs qemu-img; %s stands for the file, which is at the end otherwise.
func (s specimen) img(t *testing.T, command string) {
	t.Helper()
	if !strings.Contains(command, "%s") {
		command += " %s"
	}
	qemuImg(t, s.dir, strings.Fields(fmt.Sprintf(command, s.file))...)
}

// copyTo makes a second specimen of other bytes; a data file is shared.
func (s specimen) copyTo(t *testing.T, name string, image []byte) specimen {
	t.Helper()
	s.file = name
	if err := os.WriteFile(filepath.Join(s.dir, name), image, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s specimen) load(t *testing.T) []byte {
	t.Helper()
	return load(t, s.dir, s.file)
}

// qemuCheck is what qemu-img check says of s. ok is false if it gave up, or
// died, or did not come to an end.
func (s specimen) qemuCheck(t *testing.T, more ...string) (res CheckResult, ok bool) {
	t.Helper()
	args := append([]string{"check", "--output=json", "-T", "unsafe"}, more...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-img", append(args, s.args()...)...)
	cmd.Dir = s.dir
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	if json.Unmarshal(stdout.Bytes(), &res) != nil {
		return res, false
	}
	return res, true
}

// check runs Check on s.
func (s specimen) check(t *testing.T, repair Repair) (CheckResult, error) {
	t.Helper()
	f, err := vfs.OS().Open(filepath.Join(s.dir, s.file), repair != RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Check(unsynced{f}, repair)
}

// unsynced saves time where nothing crashes.
type unsynced struct{ vfs.File }

func (unsynced) Sync() error { return nil }
