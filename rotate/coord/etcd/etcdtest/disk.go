package etcdtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// diskBytes is what a member's disk has: its log alone takes 64 MB.
const diskBytes = 256 << 20

// disk is a file system of its own, below dir, that is taken away as the test ends: before the members are, which are killed first.
func disk(t testing.TB, dir, name string) (mounted string) {
	t.Helper()
	file, mounted := filepath.Join(dir, name+".disk"), filepath.Join(dir, name)
	err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, diskBytes), os.Mkdir(mounted, 0o700))
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", file}, {"mount", "-o", "loop", file, mounted}} {
		if err != nil {
			break
		}
		var out []byte
		if out, err = exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mounted).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return mounted
}

// From linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Hang lets nothing that the member writes reach its disk until GoOn, as a controller does that tries again and again.
func (c *Cluster) Hang(i int) { c.freezing(i, fiFreeze) }

// GoOn lets it reach the disk.
func (c *Cluster) GoOn(i int) { c.freezing(i, fiThaw) }

// wake lets a member die whose disk may hang.
func (c *Cluster) wake(i int) {
	if f, err := os.Open(filepath.Dir(c.members[i].Dir)); err == nil {
		_ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) // it need not hang
		_ = f.Close()
	}
}

func (c *Cluster) freezing(i int, request uint) {
	c.t.Helper()
	f, err := os.Open(filepath.Dir(c.members[i].Dir))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), request, 0); err != nil {
		c.t.Fatal(err)
	}
}
