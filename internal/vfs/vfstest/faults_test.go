package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

var errFault = errors.New("injected")

func TestChangesAndOpsAreCounted(t *testing.T) {
	m := New()
	f := create(t, m, "/a", []byte("data")) // 2 changes
	must(t, f.Truncate(8192))
	must(t, f.Punch(0, 4096))
	must(t, second(f.Copy(0, f, 4096, 4096)))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	must(t, m.Rename("/a", "/b"))
	if m.Changes() != 8 || m.Ops() != 8 {
		t.Errorf("%d changes, %d operations", m.Changes(), m.Ops())
	}
	info, err := m.Stat("/b")
	must(t, err)
	contentOf(t, open(t, m, "/b")) // open, stat, read
	must(t, f.Reserve(0, 1))
	if m.Changes() != 8 || m.Ops() != 13 {
		t.Errorf("%d changes, %d operations", m.Changes(), m.Ops())
	}
	must(t, m.RemoveExact("/b", info.ID))
	must(t, m.WriteFile("/c", []byte("state"), 0o600))
	if m.Changes() != 14 || m.Ops() != 19 {
		t.Errorf("%d changes, %d operations", m.Changes(), m.Ops())
	}
}

func TestBeforeRunsOnceBeforeThatChange(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", []byte("0"))
	var seen []string
	m.Before(2, func() { seen = append(seen, string(read(t, m, "/a"))) })
	for _, c := range []string{"1", "2", "3"} {
		write(t, f, 0, []byte(c))
	}
	if !slices.Equal(seen, []string{"1"}) {
		t.Errorf("saw %q", seen)
	}
}

func TestHookMayPanic(t *testing.T) {
	m := New()
	m.Before(1, func() { panic("hook") })
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		create(t, m, "/a", nil)
	}()
	create(t, m, "/a", nil)
}

func TestLogTellsChanges(t *testing.T) {
	m := New()
	f := create(t, m, "/a", []byte("data"))
	contentOf(t, f)
	must(t, m.WriteFile("/d/b", nil, 0o600))
	m.FailAt(1, errFault, false)
	wantErr(t, f.Sync(), errFault)
	want := `1 create /a
2 write /a 0+4
3 writefile /d/.virt-rotate-1.tmp
4 sync /d/.virt-rotate-1.tmp
5 rename /d/.virt-rotate-1.tmp to /d/b
6 syncdir /d
7 sync /a: sync /a: injected`
	if got := strings.Join(m.Log(), "\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// everything does each operation once and returns the first error.
func everything(m *Mem) error {
	f, err := m.Create("/d/a", 0o600)
	if err != nil {
		return err
	}
	info := vfs.Info{}
	buf := make([]byte, 1)
	for _, do := range []func() error{
		func() error { return f.Reserve(0, 100) },
		func() error { return second(f.WriteAt([]byte("data"), 0)) },
		func() error { return f.Truncate(100) },
		func() error { return f.Punch(1, 1) },
		func() error { return second(f.Copy(50, f, 0, 4)) },
		func() error { return second(f.ReadAt(buf, 0)) },
		func() error { _, _, err := f.NextData(0); return err },
		func() error { return f.Lock(vfs.LockWrite) },
		func() error { return f.Sync() },
		func() error { return m.SyncDir("/d") },
		func() error { info, err = f.Stat(); return err },
		func() error { return second(m.Stat("/d/a")) },
		func() error { return second(m.Lstat("/d/a")) },
		func() error { return second(m.Open("/d/a", false)) },
		func() error { return second(m.ReadDir("/d")) },
		func() error { return second(m.ReadFile("/d/a")) },
		func() error { return m.WriteFile("/d/state", []byte("state"), 0o600) },
		func() error { return m.Rename("/d/a", "/d/b") },
		func() error { return m.RemoveExact("/d/b", info.ID) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryOperationCanFail(t *testing.T) {
	total := New()
	must(t, everything(total))
	for n := 1; n <= total.Ops(); n++ {
		m := New()
		m.FailAt(n, errFault, false)
		if err := everything(m); !errors.Is(err, errFault) {
			t.Errorf("operation %d: %v", n, err)
		}
		names, err := m.ReadDir("/d")
		must(t, err)
		for _, name := range names {
			if ok, _ := filepath.Match(vfs.TempPattern, name); ok {
				t.Errorf("operation %d leaves %s", n, name)
			}
		}
	}
	m := New()
	m.FailAt(total.Ops()+1, errFault, false)
	must(t, everything(m))
}

func TestFaultsAreOnceOrSticky(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		m := New()
		f := durable(t, m, "/a", []byte("data"))
		m.FailAt(2, errFault, sticky)
		must(t, second(f.Stat()))
		wantErr(t, second(f.Stat()), errFault)
		if err := second(f.Stat()); errors.Is(err, errFault) != sticky {
			t.Errorf("sticky %v: %v", sticky, err)
		}
	}
}

// A write that fails has written some sectors from the start on, the same each
// time.
func TestFailedWriteIsShort(t *testing.T) {
	lengths := map[int]bool{}
	for i := range 20 {
		var before int
		for try := range 2 {
			m := New()
			f := durable(t, m, "/a", fill('o', 5000))
			for range i {
				must(t, second(f.Stat()))
			}
			m.FailAt(1, errFault, false)
			n, err := f.WriteAt(fill('n', 5000), 0)
			wantErr(t, err, errFault)
			wantContent(t, m, "/a", slices.Concat(fill('n', n), fill('o', 5000-n)))
			if n%sectorSize != 0 || try == 1 && n != before {
				t.Errorf("%d bytes, then %d", before, n)
			}
			before = n
		}
		lengths[before] = true
	}
	if len(lengths) < 5 {
		t.Errorf("lengths %v", lengths)
	}
}

func TestFailedCopyIsPartial(t *testing.T) {
	m := New()
	src, dst := create(t, m, "/src", fill('n', 5000)), create(t, m, "/dst", fill('o', 5000))
	m.FailAt(1, errFault, false)
	wantErr(t, second(dst.Copy(0, src, 0, 5000)), errFault)
	got := contentOf(t, dst)
	n := bytes.Count(got, []byte("n"))
	if n == 0 || n == 5000 || !bytes.Equal(got, slices.Concat(fill('n', n), fill('o', 5000-n))) {
		t.Errorf("%s, %d copied", brief(got), n)
	}
}

// failSync writes to a durable file and lets its Sync fail.
func failSync(t *testing.T, m *Mem) vfs.File {
	t.Helper()
	f := durable(t, m, "/a", fill('o', 1024))
	write(t, f, 0, fill('n', 1024))
	m.FailAt(1, errFault, false)
	wantErr(t, f.Sync(), errFault)
	return f
}

func TestFailedSyncIsNeverRepaired(t *testing.T) {
	m := New()
	f := failSync(t, m)
	first := f.Sync()
	wantErr(t, first, errFault)
	wantErr(t, f.Sync(), first)
	write(t, f, 0, fill('x', 1024))
	wantErr(t, f.Sync(), first)
	wantContent(t, m.Crash(0), "/a", fill('o', 1024))
}

func TestWhatAFailedSyncLostIsNotSyncedLater(t *testing.T) {
	m := New()
	failSync(t, m)
	must(t, open(t, m, "/a").Sync())
	wantContent(t, m, "/a", fill('n', 1024))
	wantOutcomes(t, m, looking("/a"), "nn (0+1024)", "no (0+1024)", "on (0+1024)", "oo (0+1024)")
}

func TestFailedSyncIsToldToAllThatAreOpen(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", nil)
	other := open(t, m, "/a")
	m.FailAt(1, errFault, false)
	wantErr(t, f.Sync(), errFault)
	wantErr(t, other.Sync(), errFault)
	must(t, open(t, m, "/a").Sync())
}

func TestWhatIsWrittenAfterAFailedSyncCanBeDurable(t *testing.T) {
	m := New()
	failSync(t, m)
	again := open(t, m, "/a")
	write(t, again, 512, fill('2', 512))
	must(t, again.Sync())
	wantOutcomes(t, m, looking("/a"), "n2 (0+1024)", "o2 (0+1024)")
	write(t, again, 0, fill('3', 512))
	must(t, again.Sync())
	wantOutcomes(t, m, looking("/a"), "32 (0+1024)")
}

func TestFailedSyncDirCommitsNothing(t *testing.T) {
	m := New()
	create(t, m, "/a", nil)
	m.FailAt(1, errFault, false)
	wantErr(t, m.SyncDir("/"), errFault)
	wantNames(t, m.Crash(0), "/", nil...)
	must(t, m.SyncDir("/"))
	wantNames(t, m.Crash(0), "/", "a")
}

func TestFullDisk(t *testing.T) {
	m := New()
	m.Limit(4 * pageSize)
	f := create(t, m, "/a", fill('a', pageSize))
	n, err := f.WriteAt(fill('b', 4*pageSize), pageSize)
	if wantErr(t, err, syscall.ENOSPC); n != 3*pageSize {
		t.Errorf("%d bytes", n)
	}
	write(t, f, 0, fill('c', 4*pageSize)) // in place
	wantErr(t, m.WriteFile("/state", []byte("state"), 0o600), syscall.ENOSPC)
	wantNames(t, m, "/", "a")
	wantErr(t, second(create(t, m, "/b", nil).Copy(0, f, 0, 1)), syscall.ENOSPC)
	must(t, f.Punch(0, pageSize))
	must(t, m.WriteFile("/state", []byte("state"), 0o600))
	m.Limit(math.MaxInt64)
	write(t, f, 1<<20, fill('d', 1<<20))
}

func TestReservedSpaceCanBeWritten(t *testing.T) {
	m := New()
	m.Limit(4 * pageSize)
	f, other := create(t, m, "/a", nil), create(t, m, "/b", nil)
	wantErr(t, f.Reserve(0, 5*pageSize), syscall.ENOSPC)
	must(t, f.Reserve(100, 3*pageSize-100))
	info, err := f.Stat()
	if err != nil || info.Size != 0 || info.Allocated != 3*pageSize {
		t.Errorf("%+v, %v", info, err)
	}
	wantErr(t, second(other.WriteAt(fill('b', 2*pageSize), 0)), syscall.ENOSPC)
	write(t, f, 0, fill('a', 3*pageSize))
}

func TestRemovedFilesGiveTheirSpaceBackOnceClosed(t *testing.T) {
	m := New()
	m.Limit(pageSize)
	f := create(t, m, "/a", []byte("data"))
	info, err := f.Stat()
	must(t, err)
	must(t, m.RemoveExact("/a", info.ID))
	other := create(t, m, "/b", nil)
	wantErr(t, second(other.WriteAt([]byte("data"), 0)), syscall.ENOSPC)
	must(t, f.Close())
	write(t, other, 0, []byte("data"))
}

func TestNoSyncCountsByPath(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('0', 512))
	var asked []string
	m.NoSync(func(path string, nth int) bool {
		asked = append(asked, fmt.Sprint(path, nth))
		return path == "/a" && nth == 2
	})
	for _, c := range []struct{ write, durable byte }{{'1', '1'}, {'2', '1'}, {'3', '3'}} {
		write(t, f, 0, fill(c.write, 512))
		must(t, f.Sync())
		must(t, m.SyncDir("/"))
		wantContent(t, m.Crash(0), "/a", fill(c.durable, 512))
	}
	if !slices.Equal(asked, []string{"/a1", "/1", "/a2", "/2", "/a3", "/3"}) {
		t.Errorf("asked %q", asked)
	}
	m.NoSync(nil)
	write(t, f, 0, fill('4', 512))
	must(t, f.Sync())
	wantContent(t, m.Crash(0), "/a", fill('4', 512))
}

func TestFailedWriteFileLeavesTheOldState(t *testing.T) {
	for n := 1; n <= 3; n++ {
		m := New()
		must(t, putState("o")(m))
		m.FailAt(n, errFault, false)
		wantErr(t, putState("n")(m), errFault)
		wantContent(t, m, "/state", fill('o', 3000))
		wantNames(t, m, "/", "state")
	}
	wantErr(t, second(New().Stat("/state")), fs.ErrNotExist)
}
