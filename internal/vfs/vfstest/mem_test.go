package vfstest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

var _ vfs.FS = (*Mem)(nil)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// fill is n bytes of one kind.
func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func create(t *testing.T, m vfs.FS, path string, content []byte) vfs.File {
	t.Helper()
	f, err := m.Create(path, 0o600)
	must(t, err)
	write(t, f, 0, content)
	return f
}

func write(t *testing.T, f vfs.File, off int64, b []byte) {
	t.Helper()
	must(t, second(f.WriteAt(b, off)))
}

// durable creates a file whose name and content are durable.
func durable(t *testing.T, m *Mem, path string, content []byte) vfs.File {
	t.Helper()
	f := create(t, m, path, content)
	must(t, f.Sync())
	must(t, m.SyncDir(filepath.Dir(path)))
	return f
}

func open(t *testing.T, m *Mem, path string) vfs.File {
	t.Helper()
	f, err := m.Open(path, true)
	must(t, err)
	return f
}

// contentOf reads the open file.
func contentOf(t *testing.T, f vfs.File) []byte {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	b := make([]byte, info.Size)
	if n, err := f.ReadAt(b, 0); int64(n) != info.Size {
		t.Fatalf("read %d of %d bytes: %v", n, info.Size, err)
	}
	return b
}

func read(t *testing.T, m *Mem, path string) []byte {
	t.Helper()
	b, err := m.ReadFile(path)
	must(t, err)
	return b
}

func wantContent(t *testing.T, m *Mem, path string, want []byte) {
	t.Helper()
	if got := read(t, m, path); !bytes.Equal(got, want) {
		t.Errorf("%s: %s, want %s", path, brief(got), brief(want))
	}
}

// brief shows the first byte of each sector.
func brief(b []byte) string {
	var s []byte
	for i := 0; i < len(b); i += sectorSize {
		s = append(s, max(b[i], '.'))
	}
	return string(s) + " (" + place(0, int64(len(b))) + ")"
}

func wantNames(t *testing.T, m *Mem, dir string, want ...string) {
	t.Helper()
	if got, err := m.ReadDir(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s holds %q, %v; want %q", dir, got, err, want)
	}
}

func TestFilesAreFoundByName(t *testing.T) {
	m := New()
	f := create(t, m, "/d/b", []byte("data"))
	create(t, m, "/d/a", nil)
	wantNames(t, m, "/d", "a", "b")
	wantNames(t, m, "/", nil...)
	info, err := m.Stat("/d/../d/b")
	if err != nil || info.ID != (vfs.ID{Dev: 1, Ino: 1}) || info.Size != 4 || info.Links != 1 || info.Mode != 0o600 {
		t.Errorf("%+v, %v", info, err)
	}
	if same, err := f.Stat(); err != nil || same != info || f.Path() != "/d/b" {
		t.Errorf("%+v, %v", same, err)
	}
	wantErr(t, second(m.Create("/d/b", 0o600)), fs.ErrExist)
	wantErr(t, second(m.Create("/d", 0o600)), fs.ErrExist)
	wantErr(t, second(m.Open("/d/c", false)), fs.ErrNotExist)
	wantErr(t, second(m.ReadFile("/c")), fs.ErrNotExist)
	var kind *vfs.KindError
	if err := second(m.Lstat("/d")); !errors.As(err, &kind) || kind.Kind != "directory" {
		t.Error(err)
	}
}

func TestRenameReplaces(t *testing.T) {
	m := New()
	f := create(t, m, "/a", []byte("new"))
	create(t, m, "/b", []byte("old"))
	must(t, m.Rename("/a", "/b"))
	must(t, m.Rename("/b", "/b"))
	wantNames(t, m, "/", "b")
	wantContent(t, m, "/b", []byte("new"))
	wantErr(t, m.Rename("/a", "/c"), fs.ErrNotExist)
	write(t, f, 0, []byte("N"))
	wantContent(t, m, "/b", []byte("New"))
}

func TestRemoveExactRemovesThatFileOnly(t *testing.T) {
	m := New()
	f := create(t, m, "/d/a", []byte("data"))
	info, err := f.Stat()
	must(t, err)
	var changed *vfs.ChangedError
	for path, id := range map[string]vfs.ID{"/d/a": {Dev: 1, Ino: 7}, "/d": info.ID} {
		if err := m.RemoveExact(path, id); !errors.As(err, &changed) || changed.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(t, m.RemoveExact("/d/a", info.ID))
	wantErr(t, m.RemoveExact("/d/a", info.ID), fs.ErrNotExist)
	if info, err := f.Stat(); err != nil || info.Links != 0 || info.Size != 4 {
		t.Errorf("still open: %+v, %v", info, err)
	}
}

func TestHandlesCheckTheirUse(t *testing.T) {
	m := New()
	create(t, m, "/a", []byte("data"))
	f, err := m.Open("/a", false)
	must(t, err)
	wantErr(t, second(f.WriteAt([]byte("x"), 0)), syscall.EBADF)
	wantErr(t, f.Truncate(0), syscall.EBADF)
	wantErr(t, f.Punch(0, 4), syscall.EBADF)
	wantErr(t, f.Reserve(0, 4), syscall.EBADF)
	wantErr(t, second(f.Copy(0, f, 2, 2)), syscall.EBADF)
	must(t, f.Sync())
	must(t, f.Close())
	wantErr(t, f.Close(), os.ErrClosed)
	wantErr(t, f.Sync(), os.ErrClosed)
	wantErr(t, second(f.ReadAt(make([]byte, 1), 0)), os.ErrClosed)
	wantErr(t, second(open(t, m, "/a").Copy(0, f, 2, 2)), os.ErrClosed)
	wantContent(t, m, "/a", []byte("data"))
}

func TestImpossibleRangesAreRefused(t *testing.T) {
	f := create(t, New(), "/a", []byte("data"))
	for _, r := range [][2]int64{{-1, 1}, {1, -1}, {1<<63 - 1, 1}} {
		wantErr(t, f.Punch(r[0], r[1]), syscall.EINVAL)
		wantErr(t, f.Reserve(r[0], r[1]), syscall.EINVAL)
		wantErr(t, second(f.Copy(r[0], f, 0, r[1])), syscall.EINVAL)
		wantErr(t, second(f.Copy(0, f, r[0], r[1])), syscall.EINVAL)
	}
	_, _, err := f.NextData(-1)
	wantErr(t, err, syscall.EINVAL)
	wantErr(t, second(f.WriteAt([]byte("x"), -1)), syscall.EINVAL)
	wantErr(t, second(f.ReadAt(make([]byte, 1), -1)), syscall.EINVAL)
	wantErr(t, f.Truncate(-1), syscall.EINVAL)
}

// A guest's disk of a terabyte, nearly all of it holes.
func TestHolesCostNothing(t *testing.T) {
	const size = 1 << 40
	m := New()
	f := create(t, m, "/a", nil)
	must(t, f.Truncate(size))
	write(t, f, size/2, []byte("x"))
	must(t, f.Punch(0, size/2))
	must(t, second(create(t, m, "/b", nil).Copy(0, f, 0, size)))
	for _, path := range []string{"/a", "/b"} {
		f := open(t, m.Crash(1), path)
		info, err := f.Stat()
		if err != nil || info.Size != size || info.Allocated != pageSize {
			t.Errorf("%+v, %v", info, err)
		}
		wantNext(t, f, 0, size/2, size/2+pageSize)
		wantNext(t, f, size/2+pageSize, size, size)
	}
}

func wantNext(t *testing.T, f vfs.File, off, start, end int64) {
	t.Helper()
	if s, e, err := f.NextData(off); s != start || e != end || err != nil {
		t.Errorf("from %d: [%d, %d), %v; want [%d, %d)", off, s, e, err, start, end)
	}
}

func TestNextDataFindsStretches(t *testing.T) {
	f := create(t, New(), "/a", nil)
	must(t, f.Reserve(0, 1<<16))
	write(t, f, 8192, fill('x', 5000))
	must(t, f.Truncate(40000))
	write(t, f, 39000, fill('x', 1000))
	wantNext(t, f, 0, 8192, 16384)
	wantNext(t, f, 9000, 9000, 16384)
	wantNext(t, f, 16384, 36864, 40000)
	wantNext(t, f, 40000, 40000, 40000)
	wantNext(t, f, 50000, 40000, 40000)
}

// pair is one file in memory and one on a disk, which are to stay the same.
type pair struct{ mem, disk vfs.File }

// act does one random thing to both and returns what it was.
func (p pair) act(t *testing.T, rng *rand.Rand) string {
	off, n := rng.Int64N(30000), rng.Int64N(10000)
	if rng.IntN(2) == 0 {
		off, n = off&^4095, n&^4095
	}
	var a, b error
	what := []string{"write", "punch", "truncate", "copy", "reserve", "sync"}[rng.IntN(6)]
	switch what {
	case "write":
		data := fill(byte(1+rng.IntN(255)), int(n))
		a, b = second(p.mem.WriteAt(data, off)), second(p.disk.WriteAt(data, off))
	case "punch":
		a, b = p.mem.Punch(off, n), p.disk.Punch(off, n)
	case "truncate":
		a, b = p.mem.Truncate(off), p.disk.Truncate(off)
	case "copy":
		to := rng.Int64N(30000)
		a, b = second(p.mem.Copy(to, p.mem, off, n)), second(p.disk.Copy(to, p.disk, off, n))
	case "reserve":
		a, b = p.mem.Reserve(off, n), p.disk.Reserve(off, n)
	case "sync":
		a, b = p.mem.Sync(), p.disk.Sync()
	}
	if (a == nil) != (b == nil) {
		t.Fatalf("%s: %v in memory, %v on the disk", what, a, b)
	}
	return what + " " + place(off, n)
}

// dataOf lists what NextData goes through, with holes as zeros.
func dataOf(t *testing.T, f vfs.File) []byte {
	info, err := f.Stat()
	must(t, err)
	b := make([]byte, info.Size)
	for off := int64(0); off < info.Size; {
		start, end, err := f.NextData(off)
		must(t, err)
		if start < end {
			must(t, second(f.ReadAt(b[start:end], start)))
		}
		off = end
	}
	return b
}

// What Mem does to a file is what Linux does to it.
func TestMemBehavesAsLinux(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		m := New()
		path := filepath.Join(dir, string(rune('a'+seed)))
		p := pair{create(t, m, path, nil), create(t, vfs.OS(), path, nil)}
		var done []string
		for range 100 {
			done = append(done, p.act(t, rng))
			a, b := contentOf(t, p.mem), contentOf(t, p.disk)
			if !bytes.Equal(a, b) || !bytes.Equal(dataOf(t, p.mem), a) || !bytes.Equal(dataOf(t, p.disk), a) {
				t.Fatalf("seed %d: %s in memory, %s on the disk after %q", seed, brief(a), brief(b), done)
			}
		}
		must(t, p.disk.Close())
	}
}

func TestReadAtTheEnd(t *testing.T) {
	f := create(t, New(), "/a", []byte("data"))
	b := make([]byte, 10)
	if n, err := f.ReadAt(b, 2); n != 2 || !errors.Is(err, io.EOF) || string(b[:2]) != "ta" {
		t.Errorf("%d, %v, %q", n, err, b)
	}
	if n, err := f.ReadAt(b, 20); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestCopySharesAsReflinksDo(t *testing.T) {
	m := New()
	src := create(t, m, "/src", fill('s', 10000))
	for _, c := range []struct {
		reflink      bool
		size         int
		off, from, n int64
		shared       bool
	}{
		{false, 0, 0, 0, 4096, false},
		{true, 0, 0, 0, 4096, true},
		{true, 0, 4096, 4096, 5904, true}, // the tail
		{true, 20000, 4096, 4096, 5904, false},
		{true, 0, 0, 0, 5000, false},
		{true, 0, 512, 0, 4096, false},
		{true, 0, 0, 512, 4096, false},
		{true, 0, 0, 8192, 4096, false},
		{true, 0, 0, 0, 0, false},
	} {
		m.Reflink = c.reflink
		dst := create(t, m, "/dst", fill('d', c.size))
		if shared, err := dst.Copy(c.off, src, c.from, c.n); shared != c.shared || err != nil {
			t.Errorf("%+v: shared %v, %v", c, shared, err)
		}
		info, err := dst.Stat()
		must(t, err)
		must(t, m.RemoveExact("/dst", info.ID))
	}
}

func TestCopyFromAnotherFileSystem(t *testing.T) {
	src := create(t, New(), "/src", fill('s', 10000))
	dst := create(t, New(), "/dst", fill('d', 2000))
	if shared, err := dst.Copy(1000, src, 5000, 6000); shared || err != nil {
		t.Errorf("shared %v, %v", shared, err)
	}
	want := slices.Concat(fill('d', 1000), fill('s', 5000), fill(0, 1000))
	if got := contentOf(t, dst); !bytes.Equal(got, want) {
		t.Errorf("%s, want %s", brief(got), brief(want))
	}
}

func TestCopyFromBeyondTheEnd(t *testing.T) {
	m := New()
	src, dst := create(t, m, "/src", fill('s', 4500)), create(t, m, "/dst", fill('d', 9000))
	must(t, second(dst.Copy(100, src, 4600, 100)))
	must(t, second(dst.Copy(8900, src, 4600, 200)))
	want := slices.Concat(fill('d', 100), fill(0, 100), fill('d', 8700), fill(0, 200))
	if got := contentOf(t, dst); !bytes.Equal(got, want) {
		t.Errorf("%s, want %s", brief(got), brief(want))
	}
}

func TestLocksExcludeEachOther(t *testing.T) {
	m := New()
	a := create(t, m, "/a", nil)
	b, c := open(t, m, "/a"), open(t, m, "/a")
	must(t, a.Lock(vfs.LockRead))
	must(t, b.Lock(vfs.LockRead))
	var busy *vfs.BusyError
	if err := a.Lock(vfs.LockWrite); !errors.As(err, &busy) || busy.Path != "/a" || busy.Mode != vfs.LockWrite {
		t.Error(err)
	}
	must(t, b.Close())
	must(t, a.Lock(vfs.LockWrite))
	if err := c.Lock(vfs.LockRead); !errors.As(err, &busy) {
		t.Error(err)
	}
	must(t, create(t, m, "/b", nil).Lock(vfs.LockWrite))
	must(t, open(t, m.Crash(1), "/a").Lock(vfs.LockWrite))
	must(t, a.Close())
	must(t, c.Lock(vfs.LockRead))
}

func TestLockOfAPathThatHasChanged(t *testing.T) {
	m := New()
	a := create(t, m, "/a", nil)
	create(t, m, "/b", nil)
	must(t, m.Rename("/b", "/a"))
	var changed *vfs.ChangedError
	if err := a.Lock(vfs.LockRead); !errors.As(err, &changed) {
		t.Error(err)
	}
	must(t, open(t, m, "/a").Lock(vfs.LockWrite))
}

func TestConcurrentUse(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", nil)
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() {
			off := int64(i) * 1000
			errs[i] = errors.Join(second(f.WriteAt(fill('x', 1000), off)), f.Sync(), second(m.Crash(2).ReadFile("/a")))
		})
	}
	all.Wait()
	must(t, errors.Join(errs...))
	wantContent(t, m.Crash(0), "/a", fill('x', 16000))
}

func TestDirectoriesAreAboveTheirFiles(t *testing.T) {
	m := New()
	for _, path := range []string{"/d/b", "/d/sub/x", "/d/sub/deep/y", "/e/z"} {
		create(t, m, path, nil)
	}
	var got []string
	for f, err := range vfs.Below(m, "/d", vfs.ScanLimits()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Path)
	}
	if want := []string{"/d/b", "/d/sub/x", "/d/sub/deep/y"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	var bound *vfs.BoundError
	for _, err := range vfs.Below(m, "/d", vfs.Limits{Entries: 3, Depth: 9}) {
		errors.As(err, &bound)
	}
	if bound == nil {
		t.Error("the bound is not told")
	}
}
