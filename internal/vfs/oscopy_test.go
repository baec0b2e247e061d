package vfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

// xfs is a file system with reflinks.
func xfs(t *testing.T) string {
	t.Helper()
	return mounted(t, "xfs", 300<<20, "mkfs.xfs", "-q", "-m", "reflink=1")
}

// The ways of copying, by what the kernel lacks.
func noCloning(k *kernel) {
	k.clone = func(int, *unix.FileCloneRange) error { return unix.EOPNOTSUPP }
}

func noKernelCopy(k *kernel) {
	noCloning(k)
	k.copyRange = func(int, *int64, int, *int64, int, int) (int, error) { return -1, unix.EXDEV }
}

// copyEnds says that every source ends after 10000 bytes of a copy.
func copyEnds(k *kernel) {
	noCloning(k)
	copyRange, left := k.copyRange, 10000
	k.copyRange = func(r int, roff *int64, w int, woff *int64, n, flags int) (int, error) {
		n, err := copyRange(r, roff, w, woff, min(n, left), flags)
		left -= n
		return n, err
	}
}

// copyStutters does little at once, is interrupted, and fails in the end.
func copyStutters(k *kernel) {
	noCloning(k)
	copyRange, calls := k.copyRange, 0
	k.copyRange = func(r int, roff *int64, w int, woff *int64, n, flags int) (int, error) {
		switch calls++; {
		case calls%3 == 0:
			return -1, unix.EINTR
		case calls > 10:
			return -1, unix.EIO
		}
		return copyRange(r, roff, w, woff, min(n, 1001), flags)
	}
}

// copied is dst after the copy of n bytes of src.
func copied(dst []byte, off int64, src []byte, from, n int64) []byte {
	b := make([]byte, max(int64(len(dst)), off+n))
	copy(b, dst)
	clear(b[off : off+n])
	if from < int64(len(src)) {
		copy(b[off:off+n], src[from:])
	}
	return b
}

// randomPlace is aligned every other time.
func randomPlace(rng *rand.Rand, limit int64) int64 {
	n := rng.Int64N(limit)
	if rng.IntN(2) == 0 {
		n &^= 4095
	}
	return n
}

// Whatever the way, and wherever the ends of the two files are, the target
// reads as it should.
func TestCopyByAllWays(t *testing.T) {
	places := map[string]string{"disk": t.TempDir(), "shm": shm(t)}
	if os.Geteuid() == 0 {
		places["xfs"] = xfs(t)
	}
	for place, dir := range places {
		for name, lack := range map[string]func(*kernel){
			"clone": func(*kernel) {}, "kernel": noCloning, "buffer": noKernelCopy,
			"early end": copyEnds, "stutter": copyStutters,
		} {
			t.Run(place+" "+name, func(t *testing.T) { copyAtRandom(t, dir, lack) })
		}
	}
}

func copyAtRandom(t *testing.T, dir string, lack func(*kernel)) {
	sub, err := os.MkdirTemp(dir, "")
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	in, out := noise(200_000), noise(100_001)
	src, dst := createOS(t, sub, "src", in), createOS(t, sub, "dst", out)
	for range 40 {
		off, from, n := randomPlace(rng, 150_000), randomPlace(rng, 220_000), randomPlace(rng, 120_000)
		if rng.IntN(3) == 0 && from < 200_000 {
			n = 200_000 - from
		}
		dst.sys = linux()
		lack(&dst.sys)
		if _, err := dst.Copy(off, src, from, n); err != nil {
			t.Fatalf("%d bytes at %d to %d: %v", n, from, off, err)
		}
		if n > 0 {
			out = copied(out, off, in, from, n)
		}
		wantBytes(t, dst, out)
	}
	wantBytes(t, src, in)
}

// shm is a directory on tmpfs.
func shm(t *testing.T) string {
	t.Helper()
	dir := tidy.InMemory(t)
	if !strings.HasPrefix(dir, "/dev/shm/") {
		t.Fatalf("%s is not in memory", dir)
	}
	return dir
}

func wantCopy(t *testing.T, dst *osFile, off int64, src File, from, n int64, shared bool) {
	t.Helper()
	if got, err := dst.Copy(off, src, from, n); err != nil || got != shared {
		t.Errorf("%d bytes at %d to %d: shared %v, %v; want %v", n, from, off, got, err, shared)
	}
}

func TestCopySharesWhereItCan(t *testing.T) {
	dir := xfs(t)
	in := noise(100_000) // ends in the middle of a block
	src := createOS(t, dir, "src", in)
	for _, c := range []struct {
		name         string
		size         int64 // of the target
		off, from, n int64
		shared       bool
	}{
		{"blocks", 200_000, 8192, 4096, 65536, true},
		{"all of the source", 0, 0, 0, 100_000, true},
		{"tail at the end", 100_000, 0, 0, 100_000, true},
		{"tail beyond the end", 5, 40960, 98304, 1696, true},
		{"tail into the middle", 200_000, 0, 0, 100_000, false},
		{"tail before the end of the source", 0, 0, 0, 5000, false},
		{"less than a block", 200_000, 0, 0, 100, false},
		{"beyond the source", 0, 0, 0, 102_400, false},
		{"nothing but zeros", 0, 0, 200_000, 4096, false},
		{"target not aligned", 0, 512, 0, 4096, false},
		{"source not aligned", 0, 0, 512, 4096, false},
		{"nothing", 0, 0, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := createOS(t, dir, "dst", noise(c.size))
			defer os.Remove(dst.Path())
			wantCopy(t, dst, c.off, src, c.from, c.n, c.shared)
			wantBytes(t, dst, copied(noise(c.size), c.off, in, c.from, c.n))
			wantCopy(t, dst, 1<<20, src, 0, 4096, true) // cloning is not given up
		})
	}
}

func TestSharedCopyTakesNoSpace(t *testing.T) {
	dir := xfs(t)
	src := createOS(t, dir, "src", noise(8<<20))
	must(t, src.Sync())
	before, err := SpaceAt(dir)
	must(t, err)
	dst := createOS(t, dir, "dst", nil)
	wantCopy(t, dst, 0, src, 0, 8<<20, true)
	must(t, dst.Sync())
	after, err := SpaceAt(dir)
	if err != nil || before.Free-after.Free > 2<<20 {
		t.Errorf("%d bytes less, %v", before.Free-after.Free, err)
	}
	must(t, second(src.WriteAt(make([]byte, 4096), 0)))
	wantBytes(t, dst, noise(8<<20))
}

// countClones fails them with err.
func countClones(f *osFile, err error) *int {
	n := 0
	f.sys.clone = func(int, *unix.FileCloneRange) error {
		n++
		return err
	}
	return &n
}

func TestCloningIsNotTriedAgainInVain(t *testing.T) {
	for _, lack := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY} {
		dir := t.TempDir()
		src, dst := createOS(t, dir, "src", noise(10_000)), createOS(t, dir, "dst", nil)
		n := countClones(dst, lack)
		for range 3 {
			wantCopy(t, dst, 0, src, 0, 8192, false)
		}
		if *n != 1 {
			t.Errorf("%v: tried %d times", lack, *n)
		}
		other := createOS(t, shm(t), "src", noise(10_000))
		wantCopy(t, dst, 0, other, 0, 8192, false)
		if *n != 2 {
			t.Errorf("%v: another device: tried %d times", lack, *n)
		}
	}
}

func TestCloningThatFailsOnceIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	src, dst := createOS(t, dir, "src", noise(8192)), createOS(t, dir, "dst", nil)
	n := countClones(dst, unix.ENOSPC)
	for range 3 {
		wantCopy(t, dst, 0, src, 0, 8192, false)
	}
	if *n != 3 {
		t.Errorf("tried %d times", *n)
	}
	wantBytes(t, dst, noise(8192))
}

func TestCopyWithinAFile(t *testing.T) {
	dir := t.TempDir()
	content := noise(100_000)
	f := createOS(t, dir, "disk", content)
	wantCopy(t, f, 50_000, f, 0, 50_000, false)
	content = copied(content, 50_000, content, 0, 50_000)
	wantBytes(t, f, content)
	again := openOS(t, f.Path(), true)
	for _, off := range []int64{0, 1, 49_999} {
		wantErr(t, second(f.Copy(off, f, 0, 50_000)), syscall.EINVAL)
		wantErr(t, second(f.Copy(off, again, 0, 50_000)), syscall.EINVAL)
	}
	wantBytes(t, f, content)
}

// Disjoint ranges, in no order, which end beyond both files.
func TestConcurrentCopies(t *testing.T) {
	dirs := []string{t.TempDir(), shm(t)}
	if os.Geteuid() == 0 {
		dirs = append(dirs, xfs(t))
	}
	for _, dir := range dirs {
		concurrentCopies(t, dir, 3000)
		concurrentCopies(t, dir, 12288)
	}
}

func concurrentCopies(t *testing.T, dir string, piece int64) {
	const count = 200
	in := noise(piece*(count-20) - 100) // the last pieces are zeros
	src, dst := createOS(t, dir, "src", in), createOS(t, dir, "dst", nil)
	var all sync.WaitGroup
	errs := make([]error, count)
	for i := range errs {
		all.Go(func() {
			_, errs[i] = dst.Copy(int64(i)*piece, src, int64(i)*piece, piece)
		})
	}
	all.Wait()
	must(t, errors.Join(errs...))
	wantBytes(t, dst, copied(nil, 0, in, 0, piece*count))
	must(t, errors.Join(os.Remove(src.Path()), os.Remove(dst.Path())))
}

func TestCopyToAFullDisk(t *testing.T) {
	src := createOS(t, t.TempDir(), "src", noise(2<<20))
	dst := createOS(t, small(t), "dst", nil)
	wantErr(t, second(dst.Copy(0, src, 0, 2<<20)), syscall.ENOSPC)
}

// wrapped is a File of another make.
type wrapped struct{ File }

func (w wrapped) ReadAt(p []byte, off int64) (int, error) {
	if off >= 3<<20 {
		return 0, unix.EIO
	}
	return w.File.ReadAt(p, off)
}

func TestCopyFromAnotherKindOfFile(t *testing.T) {
	dir := t.TempDir()
	src, dst := createOS(t, dir, "src", noise(4<<20)), createOS(t, dir, "dst", nil)
	wantCopy(t, dst, 0, wrapped{src}, 0, 3<<20, false)
	wantBytes(t, dst, noise(4 << 20)[:3<<20])
	wantErr(t, second(dst.Copy(0, wrapped{src}, 0, 4<<20)), unix.EIO)
}

func TestCopyToAndFromBlockDevices(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	in := noise(size)
	src := createOS(t, dir, "src", in)
	device := openOS(t, loopDevice(t, size), true)
	wantCopy(t, device, 0, src, 0, size, false)
	wantBytes(t, device, in)
	wantErr(t, second(device.Copy(4096, src, 0, size)), syscall.ENOSPC)
	wantErr(t, second(device.Copy(4096, src, size, size)), syscall.ENOSPC)
	wantCopy(t, device, 0, src, 0, size, false)
	wantCopy(t, device, 8192, src, size-100, 4096, false)
	in = copied(in, 8192, in, size-100, 4096)
	wantBytes(t, device, in)
	dst := createOS(t, dir, "dst", nil)
	wantCopy(t, dst, 100, device, size-1000, 5000, false)
	wantBytes(t, dst, copied(nil, 100, in, size-1000, 5000))
}

// What was reserved, and then copied to in part, holds no old bytes.
func TestCopyBeyondTheSourceOverwrites(t *testing.T) {
	dir := t.TempDir()
	src, dst := createOS(t, dir, "src", noise(100)), createOS(t, dir, "dst", noise(20_000))
	dst.sys.fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	wantCopy(t, dst, 0, src, 0, 10_000, false)
	wantBytes(t, dst, copied(noise(20_000), 0, noise(100), 0, 10_000))
	wantCopy(t, dst, 15_000, src, 1000, 10_000, false)
	got := make([]byte, 10_000)
	if n, _ := dst.ReadAt(got, 15_000); n != len(got) || !bytes.Equal(got, make([]byte, n)) {
		t.Errorf("%d bytes, not all zero", n)
	}
}
