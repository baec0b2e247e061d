package qcow2

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// A snapshotStep is something done to internal snapshots, and how qemu-img is told to.
type snapshotStep struct {
	name string
	img  string
	do   func(m *Image) error
}

func snapshotSteps() []snapshotStep {
	return []snapshotStep{
		{"take", "snapshot -c new", func(m *Image) error { return m.TakeSnapshot("new", time.Unix(1e9, 5)) }},
		{"delete the first", "snapshot -d one", func(m *Image) error { return m.DeleteSnapshot(0) }},
		{"delete the last", "snapshot -d three", func(m *Image) error { return m.DeleteSnapshot(1) }},
		{"revert to the first", "snapshot -a one", func(m *Image) error { return m.RevertTo(0) }},
		{"revert to the last", "snapshot -a three", func(m *Image) error { return m.RevertTo(1) }},
	}
}

// snapshotSpecies have the snapshots "one" and "three".
func snapshotSpecies() (all []species) {
	for _, s := range allSpecies() {
		if slices.Contains(s.steps, "img snapshot -d two") {
			all = append(all, s)
		}
	}
	resized := species{name: "resized", cluster: 512, size: 300, steps: slices.Concat(everyday, withSnapshots, []string{"img resize -f qcow2 %s 4M", "write -P 9 @7000 @3"})}
	return append(all, resized)
}

// changeSnapshots does a step to an image.
func changeSnapshots(f vfs.File, step snapshotStep) error {
	m, err := open(f, nil)
	if err != nil {
		return err
	}
	if err := m.PrepareSnapshots(); err != nil {
		return err
	}
	return step.do(m)
}

// Whatever is done to snapshots, QEMU reads the same in all states as if it had done that
// itself, and finds nothing wrong.
func TestSnapshotsAreChangedAsByQemuImg(t *testing.T) {
	for _, s := range snapshotSpecies() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			sound := raise(t, t.TempDir(), s)
			image := sound.load(t)
			for _, step := range snapshotSteps() {
				theirs := sound.copyTo(t, "theirs", image)
				theirs.img(t, step.img)
				ours := sound.copyTo(t, "ours", image)
				f, err := vfs.OS().Open(filepath.Join(ours.dir, ours.file), true)
				if err != nil {
					t.Fatal(err)
				}
				if err := changeSnapshots(unsynced{f}, step); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				wantSnapshots(t, step.name, ours, theirs)
			}
		})
	}
}

func wantSnapshots(t *testing.T, what string, ours, theirs specimen) {
	t.Helper()
	if res, ok := ours.qemuCheck(t); !ok || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Errorf("%s: qemu-img check: %+v", what, res)
	}
	if res, err := ours.check(t, RepairNone); err != nil || res.Corruptions+res.Leaks > 0 {
		t.Errorf("%s: our check: %+v %v", what, res, err)
	}
	if got, want := ours.states(t), theirs.states(t); !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
	if b := ours.load(t); len(b) > 16<<20 { // more than a checkMem lets be read at once
	} else if got, want := readStates(t, b), readStates(t, theirs.load(t)); !maps.Equal(got, want) {
		t.Errorf("%s: this package reads %v, want %v", what, got, want)
	}
	if got, want := listed(t, ours), listed(t, theirs); got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
	// QEMU goes on with the image, and all stays well.
	ours.io(t, "write -P 11 0 64k", "discard 10k 10k")
	ours.img(t, "snapshot -c afterwards")
	if res, ok := ours.qemuCheck(t); !ok || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Errorf("%s, then QEMU wrote: qemu-img check: %+v", what, res)
	}
}

// listed are IDs, names and sizes.
func listed(t *testing.T, s specimen) string {
	t.Helper()
	b := s.load(t)
	h, err := ReadHeader(newCheckMem(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	list, err := ReadSnapshots(newCheckMem(b), h, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(h.Size, " ")
	for _, s := range list {
		text += fmt.Sprint(s.ID, " ", s.Name, " ", s.Size, " ", s.StateSize, " ", s.Icount, "; ")
	}
	return text
}

// crashSpecies are small enough to lose power everywhere.
func crashSpecies() []species {
	steps := slices.Concat(everyday, withSnapshots, packed)
	return []species{
		{name: "v3", cluster: 512, size: 100, steps: steps},
		{name: "v2", cluster: 512, size: 100, options: "compat=0.10", steps: steps},
		{name: "bits-8", cluster: 1024, size: 80, options: "refcount_bits=8", steps: steps},
		{name: "extended", cluster: 16 << 10, size: 40, options: "extended_l2=on", steps: steps},
		{name: "resized", cluster: 512, size: 100, steps: slices.Concat(steps, []string{"img resize -f qcow2 %s 200k", "write -P 9 @300 @3"})},
	}
}

// TestCrashWithinSnapshots: at each crash point every state that stays reads as it did, the
// active one as before or as it is to be; what is wrong are lost clusters and flags that
// are missing; and the image can be written to.
func TestCrashWithinSnapshots(t *testing.T) {
	states := 0
	for i, s := range crashSpecies() {
		fates := uint64(3)
		if i < 2 {
			fates = 10
		}
		if os.Getenv("VIRT_ROTATE_CRASH_STATES") != "" {
			fates = 120
		}
		image := raise(t, t.TempDir(), s).load(t)
		before := readStates(t, image)
		for _, step := range snapshotSteps() {
			whole := onCrashDisk(t, image)
			changeOn(t, whole, step)
			after := readStates(t, contentOf(t, whole))
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				var left [][]byte
				mem.Before(n, func() {
					for seed := range fates {
						left = append(left, contentOf(t, mem.Crash(seed)))
					}
				})
				changeOn(t, mem, step)
				if left == nil {
					if n < 5 {
						t.Fatalf("%s, %s: %d crash points: hook broken?", s.name, step.name, n-1)
					}
					break
				}
				for seed, b := range left {
					states++
					wantSoundStates(t, fmt.Sprintf("%s, %s, change %d, seed %d", s.name, step.name, n, seed), b, before, after)
				}
			}
		}
	}
	t.Logf("%d states", states)
}

func changeOn(t *testing.T, mem *vfstest.Mem, step snapshotStep) {
	t.Helper()
	f, err := mem.Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := changeSnapshots(f, step); err != nil {
		t.Fatal(err)
	}
}

func wantSoundStates(t *testing.T, where string, b []byte, before, after map[string]string) {
	t.Helper()
	have := readStates(t, b)
	if !maps.Equal(have, before) && !maps.Equal(have, after) {
		t.Fatalf("%s: the states read %v, want %v or %v", where, have, before, after)
	}
	c, err := examine(newCheckMem(b))
	if err == nil {
		_, err = verify(c.f, c.h)
	}
	if err != nil || c.res.CheckErrors > 0 {
		t.Fatalf("%s: %s%v", where, c.res.describe(), err)
	}
	for _, p := range c.res.Problems {
		if !strings.Contains(p.Reason, "copied") && !strings.Contains(p.Reason, "refcount") {
			t.Fatalf("%s: %v", where, p)
		}
	}
	mem := onCrashDisk(t, b)
	f, err := mem.Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := Check(f, RepairAll); err != nil || res.Corruptions+res.Leaks > 0 {
		t.Fatalf("%s: repair: %+v %v", where, res, err)
	}
	if !maps.Equal(readStates(t, contentOf(t, mem)), have) {
		t.Fatalf("%s: repaired, the states read as something else", where)
	}
}

// TestFailuresWithinSnapshots: whatever fails, states read as before or as they are to be.
func TestFailuresWithinSnapshots(t *testing.T) {
	for _, s := range crashSpecies()[:2] {
		image := raise(t, t.TempDir(), s).load(t)
		before := readStates(t, image)
		for _, step := range snapshotSteps() {
			whole := onCrashDisk(t, image)
			changeOn(t, whole, step)
			after := readStates(t, contentOf(t, whole))
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				f, err := mem.Open(crashDisk, true)
				if err != nil {
					t.Fatal(err)
				}
				mem.FailAt(n, syscall.EIO, n%2 == 0)
				err = changeSnapshots(f, step)
				wantSoundStates(t, fmt.Sprintf("%s, %s, operation %d fails: %v", s.name, step.name, n, err), contentOf(t, mem.Crash(uint64(n))), before, after)
				if err == nil {
					break
				}
			}
		}
	}
}

// TestSnapshotsThatAreRefused leaves all as it is.
func TestSnapshotsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	narrow := raise(t, dir, species{name: "narrow", cluster: 512, size: 60, options: "refcount_bits=1", steps: everyday}).load(t)
	bitmaps := raise(t, dir, species{name: "bitmaps", cluster: 64 << 10, size: 60, steps: slices.Concat(withBitmaps, []string{"img snapshot -c one"})}).load(t)
	data := raise(t, dir, species{name: "data", cluster: 64 << 10, size: 60, options: "data_file=data.raw"}).load(t)
	take := func(name string) func(*Image) error {
		return func(m *Image) error { return m.TakeSnapshot(name, time.Unix(0, 0)) }
	}
	for name, c := range map[string]struct {
		image []byte
		do    func(*Image) error
		want  string
	}{
		"narrow refcounts": {narrow, take("x"), "refcounts of 1 bits"},
		"no name":          {bitmaps, take(""), "1 to 255 bytes"},
		"a long name":      {bitmaps, take(strings.Repeat("x", 256)), "1 to 255 bytes"},
		"a NUL":            {bitmaps, take("a\x00b"), "NUL"},
		"bitmaps":          {bitmaps, func(m *Image) error { return m.RevertTo(0) }, "2 persistent bitmaps"},
		"none":             {bitmaps, func(m *Image) error { return m.DeleteSnapshot(1) }, "snapshot 1 of 1"},
		"a data file":      {data, take("x"), "external data file"},
	} {
		mem := onCrashDisk(t, c.image)
		f, err := mem.Open(crashDisk, true)
		if err != nil {
			t.Fatal(err)
		}
		err = changeSnapshots(f, snapshotStep{do: c.do})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if string(contentOf(t, mem)) != string(c.image) {
			t.Errorf("%s: the image was changed", name)
		}
	}
	if err := changeSnapshots(mustOpen(t, bitmaps), snapshotStep{do: take("beside bitmaps")}); err != nil {
		t.Error(err)
	}
}

func mustOpen(t *testing.T, image []byte) vfs.File {
	t.Helper()
	f, err := onCrashDisk(t, image).Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
