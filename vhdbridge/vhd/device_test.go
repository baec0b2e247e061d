package vhd

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// A device is a file that neither grows nor shrinks, as a logical volume does not.
type device struct {
	vfs.File
	t testing.TB
}

func (d *device) Stat() (vfs.Info, error) {
	info, err := d.File.Stat()
	info.IsBlock = true
	return info, err
}

func (d *device) Truncate(int64) error {
	d.t.Error("a device was truncated")
	return syscall.EINVAL
}

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if info, err := d.File.Stat(); err != nil || off+int64(len(p)) > info.Size {
		d.t.Errorf("write of %d bytes at %d beyond the device", len(p), off)
		return 0, syscall.ENOSPC
	}
	return d.File.WriteAt(p, off)
}

func (d *device) Copy(off int64, src vfs.File, from, n int64) (bool, error) {
	if other, ok := src.(*device); ok {
		src = other.File
	}
	return d.File.Copy(off, src, from, n)
}

// volume puts an image with a little data on a device of size bytes that was full of
// something else.
func volume(l *lab, size int64) {
	l.t.Helper()
	f, err := l.mem.Create(l.path("disk"), 0o600)
	l.must(err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xAA}, int(size)), 0)
	l.must(errors.Join(err, l.mem.SyncDir(dir)))
	l.must(Create(&device{f, l.t}, CreateOptions{Size: 256 * 512, BlockSize: 1024, Backing: "below.raw", BackingFormat: "raw"}))
	i := l.openDevice()
	l.must(i.Prepare())
	l.must(i.Zero(0, 512))
	l.must(i.Flush())
}

func (l *lab) openDevice() *Image {
	l.t.Helper()
	s, err := Open(&device{l.file("disk"), l.t})
	l.must(err)
	return s.(*Image)
}

func TestPowerLossOnADevice(t *testing.T) {
	l := newLab(t)
	volume(l, 64<<10)
	states, news, olds := 0, 0, 0
	for n := 1; ; n++ {
		run := &lab{t, l.mem.Crash(1)}
		var after []*vfstest.Mem
		run.mem.Before(n, func() {
			for fate := range uint64(24) {
				after = append(after, run.mem.Crash(fate))
			}
		})
		l.must(run.openDevice().SetParent("other.raw", "raw", ""))
		if after == nil {
			break
		}
		for fate, mem := range after {
			states++
			crash := &lab{t, mem}
			i := crash.openDevice()
			switch i.Info().ParentPath {
			case "below.raw":
				olds++
			case "other.raw":
				news++
			default:
				t.Errorf("change %d, fate %d: %q", n, fate, i.Info().ParentPath)
			}
			crash.must(i.SetParent("other.raw", "raw", ""))
			d := crash.parsed("disk")
			if d.Parents()["W2ru"] != "other.raw" || !bytes.Equal(d.Over(bytes.Repeat([]byte{1}, 1024))[:1024], append(make([]byte, 512), bytes.Repeat([]byte{1}, 512)...)) {
				t.Errorf("change %d, fate %d: it reads differently", n, fate)
			}
		}
	}
	if states < 100 || olds == 0 || news == 0 {
		t.Errorf("%d states, %d old, %d new", states, olds, news)
	}
}

func TestADeviceThatIsFullIsLeftAlone(t *testing.T) {
	l := newLab(t)
	volume(l, 16<<10)
	i := l.openDevice()
	l.must(i.Prepare())
	before := l.bytes("disk")
	if err := i.Zero(1024, 64*1024); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if err := l.openDevice().SetParent("../"+strings.Repeat("x", 3000)+"/y", "raw", ""); err == nil {
		t.Error("there was room for that")
	}
	if !bytes.Equal(l.bytes("disk"), before) {
		t.Error("it was changed")
	}
}
