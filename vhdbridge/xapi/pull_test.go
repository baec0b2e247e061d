package xapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi/xapitest"
)

const size = 16<<20 + 512

// noise is a disk with some at a few places.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	scribble(b, seed)
	return b
}

// scribble changes a disk at some places, zeros among them.
func scribble(b []byte, seed byte) {
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	for range 4 {
		off := r.IntN(len(b) - 70000)
		for i := range 60000 {
			b[off+i] = byte(r.Uint32())
		}
	}
	off := r.IntN(len(b) - 70000)
	clear(b[off : off+65536])
}

// change lets the guest write.
func change(s *xapitest.Server, vdi string, seed byte) {
	b := bytes.Clone(s.Content(vdi))
	scribble(b, seed)
	s.Fill(vdi, xapitest.Disk{Content: b})
}

// web is a guest with two disks and two snapshots, which has written since.
func web(t *testing.T, power string) (s *xapitest.Server, vm string, disks []string) {
	t.Helper()
	return webOf(t, power, size, 5<<20)
}

// webOf is it with disks of so many bytes.
func webOf(t *testing.T, power string, root, data int) (s *xapitest.Server, vm string, disks []string) {
	t.Helper()
	s = xapitest.New(t)
	vm = s.VM(1, "web", power)
	disks = []string{s.Disk(1, vm, "0", "root", xapitest.Disk{Content: noise(1, root)}), s.Disk(2, vm, "1", "data", xapitest.Disk{Content: noise(2, data)})}
	s.Attach(vm, "OpaqueRef:NULL", "3", "CD")
	for i, name := range []string{"monday", "tuesday"} {
		s.Snapshot(vm, name, fmt.Sprintf("2024010%dT03:15:00Z", i+1))
		change(s, disks[0], byte(10+i))
		change(s, disks[1], byte(20+i))
	}
	return s, vm, disks
}

func dial(t *testing.T, s *xapitest.Server) *xapi.Client {
	t.Helper()
	c, err := xapi.Dial(t.Context(), configOf(s))
	must(t, err)
	t.Cleanup(func() { _ = c.Logout(context.Background()) })
	return c
}

func configOf(s *xapitest.Server) xapi.Config {
	return xapi.Config{URL: s.URL, User: "root", Password: s.Password, Fingerprints: []string{s.Fingerprint()}, Pause: time.Millisecond}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pull pulls a guest; snapshot is the reference of one that stands for its disks, or "".
func pull(t *testing.T, s *xapitest.Server, dir, name, snapshot string) *xapi.Result {
	t.Helper()
	c := dial(t, s)
	v, err := c.Inventory(t.Context())
	must(t, err)
	vm, err := v.Find(name)
	must(t, err)
	p := xapi.Puller{Client: c, Dir: dir}
	r, err := p.Pull(t.Context(), v.Plan(vm, v.VM(snapshot)))
	must(t, err)
	must(t, p.Names(v))
	return r
}

// read is what a VHD reads as, on all that it builds on.
func read(t *testing.T, dir, uuid string) []byte {
	t.Helper()
	open := func(name string) vhd.Source {
		f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		info, err := f.Stat()
		must(t, err)
		i, err := vhd.NewReader(f, info.Size())
		must(t, err)
		return i
	}
	disk, err := vhd.OpenDisk(open(uuid+".vhd"), func(name, _ string) (vhd.Source, error) { return open(name), nil })
	must(t, err)
	b := make([]byte, disk.Size())
	_, err = disk.ReadAt(b, 0)
	must(t, err)
	return b
}

// same wants every disk of the pool that is in dir to be as the pool has it, and so many.
func same(t *testing.T, s *xapitest.Server, dir string, vms ...string) {
	t.Helper()
	for _, vm := range vms {
		for _, ref := range s.DisksOf(vm) {
			want := s.Content(ref)
			have := read(t, dir, fmt.Sprint(s.Field("VDI", ref, "uuid")))
			if len(have) < len(want) || sha256.Sum256(have[:len(want)]) != sha256.Sum256(want) {
				t.Errorf("%s: content differs", ref)
			}
		}
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAGuestThatIsOffComesWithAllItsSnapshots(t *testing.T) {
	s, vm, disks := web(t, "Halted")
	dir := t.TempDir()
	r := pull(t, s, dir, "web", "")
	if len(r.Pulled) != 6 || len(r.Left) != 0 {
		t.Fatalf("%+v", r)
	}
	same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
	full := int64(0)
	for _, d := range disks {
		full += int64(len(xapitest.Stream(s.Content(d), nil)))
	}
	if s.Sent() > 3*full {
		t.Errorf("%d bytes were sent: each state in full has %d", s.Sent(), full)
	}
	for _, call := range s.Calls() {
		if strings.HasPrefix(call, "VM.snapshot") {
			t.Error("a snapshot was taken, and nobody asked for one")
		}
	}
}

// snapOf is the reference of the snapshot of that name.
func snapOf(t *testing.T, s *xapitest.Server, name string) string {
	t.Helper()
	c := dial(t, s)
	v, err := c.Inventory(t.Context())
	must(t, err)
	i := slices.IndexFunc(v.VMs, func(m *xapi.VM) bool { return m.Snapshot && m.Name == name })
	if i < 0 {
		t.Fatalf("no snapshot %s", name)
	}
	return v.VMs[i].Ref
}

// A second pull reads nothing; what the guest has written since is read when it was started
// and is off again, as what has changed since its newest snapshot.
func TestWhatIsThereWholeIsNotReadAgain(t *testing.T) {
	s, vm, disks := web(t, "Halted")
	dir := t.TempDir()
	pull(t, s, dir, "web", "")
	sent := s.Sent()
	r := pull(t, s, dir, "web", "")
	if s.Sent() != sent || slices.ContainsFunc(r.Pulled, func(p xapi.Pulled) bool { return !p.There }) {
		t.Fatalf("%d bytes more: %+v", s.Sent()-sent, r)
	}
	change(s, disks[0], 99)
	s.Put("VM_metrics", "OpaqueRef:metrics-1", xapitest.Record{"start_time": "20240901T00:00:00Z"})
	pull(t, s, dir, "web", "")
	same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
	if more := s.Sent() - sent; more == 0 || more > 30<<20 {
		t.Errorf("%d bytes more", more)
	}
}

func TestOfARunningGuestOnlySnapshotsAreRead(t *testing.T) {
	s, _, _ := web(t, "Running")
	dir := t.TempDir()
	r := pull(t, s, dir, "web", "")
	if len(r.Pulled) != 4 || len(r.Left) != 2 || !strings.Contains(r.Left[0].Reason, "--snapshot") {
		t.Fatalf("%+v", r)
	}
	same(t, s, dir, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
}

// A snapshot stands for the disks of a running guest. After its shutdown only what it has
// written since is read.
func TestASnapshotStandsForTheDisks(t *testing.T) {
	s, vm, disks := web(t, "Running")
	dir := t.TempDir()
	now := s.Snapshot(vm, "now", "20240201T00:00:00Z")
	r := pull(t, s, dir, "web", now)
	if len(r.Left) != 0 || len(r.Pulled) != 8 {
		t.Fatalf("%+v", r)
	}
	same(t, s, dir, vm, now)
	sent := s.Sent()
	b := bytes.Clone(s.Content(disks[0]))
	copy(b[9<<20:], "the last words")
	s.Fill(disks[0], xapitest.Disk{Content: b})
	s.Set("VM", vm, "power_state", "Halted")
	pull(t, s, dir, "web", "")
	same(t, s, dir, vm, now)
	if more := s.Sent() - sent; more > 3<<20 {
		t.Errorf("%d bytes for one block that changed", more)
	}
}

// Faults of the network and of the host: the pull goes on, and what is there is right.
func TestFaultsAreMet(t *testing.T) {
	for name, faults := range map[string][]xapitest.Fault{
		"a connection that drops":              {{Method: "export", Cut: 1 << 20}, {Method: "export", Cut: 100}},
		"a stream cut where a block ends":      {{Method: "export", Cut: 2048 + 512 + 512 + 2<<20}},
		"a stream of a disk of another size":   {{Method: "export", Damage: func([]byte) []byte { return xapitest.Stream(noise(9, 3<<20), nil) }}},
		"nothing comes":                        {{Method: "export", Cut: 1}},
		"HTTP 500 of a disk":                   {{Method: "export", Status: 500}},
		"HTTP 500 of a call":                   {{Method: "VM.get_all_records", Status: 500}, {Method: "VDI.get_all_records", Status: 503}},
		"a session that expires at a call":     {{Method: "VDI.get_all_records", Expire: true}},
		"a session that expires at a disk":     {{Method: "export", Expire: true}},
		"a stream without its end":             {{Method: "export", Damage: func(b []byte) []byte { return b[:len(b)-512] }}},
		"a stream that goes on":                {{Method: "export", Damage: func(b []byte) []byte { return append(b, make([]byte, 8<<20)...) }}},
		"what is no VHD":                       {{Method: "export", Damage: func(b []byte) []byte { clear(b[:512]); return b }}},
		"a header that is damaged":             {{Method: "export", Damage: func(b []byte) []byte { b[600] ^= 1; return b }}},
		"a table that leads out of the stream": {{Method: "export", Damage: func(b []byte) []byte { b[2048], b[2049] = 0, 0x7F; return b }}},
	} {
		s, vm, _ := webOf(t, "Halted", 4<<20+512, 1<<20) // all of it is read for each fault
		for _, f := range faults {
			s.Fail(f)
		}
		dir := t.TempDir()
		r := pull(t, s, dir, "web", "")
		if len(r.Left) != 0 {
			t.Errorf("%s: %+v", name, r.Left)
			continue
		}
		same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
		if left := slices.DeleteFunc(files(t, dir), func(n string) bool { return !strings.HasSuffix(n, ".tmp") }); len(left) > 0 {
			t.Errorf("%s: %q", name, left)
		}
	}
}

// A disk that cannot be read at all is left out, and told; the others come, also those that
// are read as what has changed since.
func TestADamagedDiskIsLeftOut(t *testing.T) {
	s, vm, disks := web(t, "Halted")
	monday := s.DisksOf(snapOf(t, s, "monday"))[0]
	s.Fail(xapitest.Fault{Method: "export", VDI: monday, Always: true, Damage: func(b []byte) []byte { return b[:len(b)/2] }})
	dir := t.TempDir()
	r := pull(t, s, dir, "web", "")
	if len(r.Left) != 1 || r.Left[0].VDI != fmt.Sprint(s.Field("VDI", monday, "uuid")) || len(r.Pulled) != 5 {
		t.Fatalf("%+v", r)
	}
	same(t, s, dir, vm, snapOf(t, s, "tuesday"))
	_ = disks
}

// A repository without VHDs cannot tell what has changed: the host breaks off. All is read
// then, and the chain is made here.
func TestARepositoryWithoutVHDsComesAsAChain(t *testing.T) {
	s, vm, disks := web(t, "Halted")
	for _, ref := range slices.Concat(disks, s.DisksOf(snapOf(t, s, "monday")), s.DisksOf(snapOf(t, s, "tuesday"))) {
		s.Fill(ref, xapitest.Disk{Content: s.Content(ref), Raw: true})
	}
	dir := t.TempDir()
	if r := pull(t, s, dir, "web", ""); len(r.Left) != 0 {
		t.Fatalf("%+v", r.Left)
	}
	same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
	info, err := os.Stat(filepath.Join(dir, xapitest.UUID(1)+".vhd"))
	must(t, err)
	if info.Size() > 11<<20 {
		t.Errorf("%d bytes for what the guest has written since its snapshot", info.Size())
	}
}

// A pull that was broken off goes on where it was: no disk that is whole is read again, and
// what was begun is removed.
func TestAPullThatWasBrokenOffGoesOn(t *testing.T) {
	s, vm, _ := web(t, "Halted")
	dir := t.TempDir()
	c := dial(t, s)
	v, err := c.Inventory(t.Context())
	must(t, err)
	m, err := v.Find("web")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	begun := 0
	p := xapi.Puller{Client: c, Dir: dir, Progress: func(string, int64) (func(int64), func()) {
		if begun++; begun == 3 {
			cancel()
		}
		return func(int64) {}, func() {}
	}}
	if _, err := p.Pull(ctx, v.Plan(m, nil)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(dir, ".virt-rotate-pull-0123.tmp"), []byte("half"), 0o600))
	before := len(exports(s))
	pull(t, s, dir, "web", "")
	same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
	if again := len(exports(s)) - before; again != 4 {
		t.Errorf("%d disks were read: 2 of 6 were whole", again)
	}
	if slices.ContainsFunc(files(t, dir), func(n string) bool { return strings.HasSuffix(n, ".tmp") }) {
		t.Error(files(t, dir))
	}
}

func exports(s *xapitest.Server) []string {
	return slices.DeleteFunc(s.Calls(), func(c string) bool { return !strings.HasPrefix(c, "export ") })
}

// What was damaged in the directory since is read again, with what builds on it.
func TestAFileThatIsNotWholeIsReadAgain(t *testing.T) {
	s, vm, _ := web(t, "Halted")
	dir := t.TempDir()
	pull(t, s, dir, "web", "")
	for _, name := range files(t, dir) {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Size() > 4<<20 {
			must(t, os.Truncate(filepath.Join(dir, name), info.Size()-600))
			break
		}
	}
	pull(t, s, dir, "web", "")
	same(t, s, dir, vm, snapOf(t, s, "monday"), snapOf(t, s, "tuesday"))
}

func TestTheRateIsKept(t *testing.T) {
	s := xapitest.New(t)
	vm := s.VM(1, "web", "Halted")
	s.Disk(1, vm, "0", "root", xapitest.Disk{Content: bytes.Repeat([]byte{1}, 4<<20)})
	c := dial(t, s)
	v, err := c.Inventory(t.Context())
	must(t, err)
	m, err := v.Find("web")
	must(t, err)
	p := xapi.Puller{Client: c, Dir: t.TempDir(), Rate: 8 << 20}
	begin := time.Now()
	_, err = p.Pull(t.Context(), v.Plan(m, nil))
	must(t, err)
	if took := time.Since(begin); took < 300*time.Millisecond { // one MiB is free
		t.Errorf("4 MiB at 8 MiB/s took %v", took)
	}
}
