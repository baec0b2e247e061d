package rotate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"golang.org/x/sys/unix"
)

func mkdir(path string) error { return os.Mkdir(path, 0o755) }

// hold opens a file as QEMU does, with a lock that says so.
func hold(t *testing.T, path string) *os.File { return holdBytes(t, path, 100, 1) }

// holdBytes takes QEMU's locks on n bytes from start.
func holdBytes(t *testing.T, path string, start, n int64) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: start, Len: n}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAFileThatIsClosedSoonIsDeletedThen(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	r := rotator(h, rule(2))
	r.Options = coalesce()
	r.crash = func(place string) {
		if place == "before delete-file" {
			f := hold(t, h.Img("web."+hosttest.Name(9)+".qcow2"))
			time.AfterFunc(150*time.Millisecond, func() { f.Close() })
		}
	}
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("%s: %s", p.Result, p.Error)
	}
	checkDone(h, t)
}

func TestOneRunAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	lock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, strings.Replace(vfs.TempPattern, "*", "1", 1))
	hosttest.Must(os.WriteFile(half, nil, 0o600))
	var held *vfs.HeldError
	if _, err := Lock(dir); !errors.As(err, &held) {
		t.Errorf("a second lock: %v", err)
	}
	if _, err := os.Stat(half); err != nil {
		t.Error("removed by who does not hold the lock")
	}
	hosttest.Must(lock.Close())
	if lock, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed run left is still there: %v", err)
	}
}

// Between merge and deletion the merged file changes its role: it stays.
func TestAMergedFileThatIsNeededStays(t *testing.T) {
	cases := []struct {
		name  string
		do    func(t *testing.T, h *hosttest.Host, path string)
		error string
	}{
		{"replaced", func(_ *testing.T, h *hosttest.Host, path string) {
			hosttest.Must(os.Rename(path, h.Img("far/moved")))
			hosttest.Must(os.WriteFile(path, []byte("something else"), 0o600))
		}, "device"},
		{"hard-linked", func(_ *testing.T, h *hosttest.Host, path string) { hosttest.Must(os.Link(path, h.Img("state/link"))) }, "2 names"},
		{"a symbolic link", func(_ *testing.T, h *hosttest.Host, path string) {
			hosttest.Must(os.Rename(path, h.Img("far/moved")))
			hosttest.Must(os.Symlink(h.Img("far/moved"), path))
		}, ""},
		{"the base of another image", func(_ *testing.T, h *hosttest.Host, path string) {
			h.Store(h.Img("clone.qcow2"), hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: path, BackingFormat: "qcow2"})
		}, "is used by"},
		{"the base of another image in a directory that the policy names", func(_ *testing.T, h *hosttest.Host, path string) {
			h.Store(h.Img("far/clone.qcow2"), hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: path, BackingFormat: "qcow2"})
		}, "is used by"},
		{"the disk of another domain", func(_ *testing.T, h *hosttest.Host, path string) {
			d := h.Add("other")
			d.Disks = append(d.Disks, host.Disk{Target: "vda", Kind: "file", Device: "disk", Inactive: []string{path},
				Chain: []host.Layer{{Path: h.Img("web.qcow2"), Format: "qcow2", Kind: "file"}, {Path: path, Format: "qcow2", Kind: "file"}}})
			d.Want["vda"] = h.Read(path)
		}, "is used by disk other/vda"},
		{"a disk of another domain after its restart", func(_ *testing.T, h *hosttest.Host, path string) {
			h.Add("other").Elsewhere = []string{path}
		}, "is used by configuration of other"},
		{"open", func(t *testing.T, _ *hosttest.Host, path string) { hold(t, path) }, "has it open"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // to wait for a file that is open takes seconds
			h := hosttest.New(t)
			one(9, 10, 11)(h, h.Add("web"))
			path := h.Img("web." + hosttest.Name(9) + ".qcow2")
			r := rotator(h, rule(2))
			r.Options = coalesce()
			r.Observer.Scan = []string{h.Img("far/")}
			r.crash = func(place string) {
				if place == "before delete-file" {
					h.Mu.Lock()
					h.Now = h.Now.Add(deleteAge) // a merge takes its time
					c.do(t, h, path)
					h.Mu.Unlock()
				}
			}
			p := runAll(h, t, r)["web"]
			if _, err := os.Lstat(path); err != nil {
				t.Fatal("the file is gone")
			}
			if !strings.Contains(p.Error, c.error) || c.error != "" && p.Result != decide.ResultFailed {
				t.Errorf("%s: %q", p.Result, p.Error)
			}
			r = rotator(h, rule(2))
			r.Options = coalesce()
			r.Observer.Scan = []string{h.Img("far/")}
			runAll(h, t, r)
			if _, err := os.Lstat(path); err != nil {
				t.Error("the next run deleted it")
			}
			checkData(h, t)
		})
	}
}

func TestNobodyElseCanReadAnOverlay(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	path := h.Img("web." + hosttest.Name(12) + ".qcow2")
	h.Event = func(what string) error {
		if what == "end of snapshot" {
			hosttest.Must(os.Chmod(path, 0o644)) // as libvirt does for some domains
		}
		return nil
	}
	runAll(h, t, rotator(h, rule(1)))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
