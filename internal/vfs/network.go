package vfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Locks on file systems of several hosts. Over NFSv3 a query for a lock (F_OFD_GETLK)
// is answered "free" although another host has it, while taking it (F_OFD_SETLK) fails
// as it should. So there a lock is looked for by taking it as well; and since QEMU on
// another host asks with queries, too, an image that is written to is held with write
// locks, on which QEMU fails in taking its own. See docs/decisions/0015.

// Magic numbers of statfs(2), besides those in package unix.
const (
	lustreMagic = 0x0BD00BD0
	gfs2Magic   = 0x01161970
)

// A sharing is what a file system has to do with other hosts.
type sharing int

const (
	ofThisHost sharing = iota
	ofOthers           // other hosts may have it, too
	// mandatory is SMB: as ofOthers, but a write lock keeps all other descriptors from
	// reading the byte, those of this process included.
	mandatory
)

// sharingOf goes by the kind of file system. FUSE can be anything: a share of virtiofs
// or a cluster among it.
func sharingOf(st *unix.Statfs_t) sharing {
	switch uint32(st.Type) {
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return mandatory
	case unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC,
		unix.V9FS_MAGIC, lustreMagic, gfs2Magic:
		return ofOthers
	}
	return ofThisHost
}

// sharedWith tells it of the open file. The node of a device says nothing about the device.
func sharedWith(f *os.File, sys kernel) (sharing, error) {
	fi, err := f.Stat()
	if err != nil || isBlock(fi) {
		return ofThisHost, err
	}
	var st unix.Statfs_t
	if err := retry(func() error { return sys.statfs(int(f.Fd()), &st) }); err != nil {
		return ofThisHost, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	return sharingOf(&st), nil
}

// A prober finds out whether another open file description has a lock on a byte.
type prober struct {
	f      *os.File
	sys    kernel
	shared sharing
	write  *os.File // the same file, open for writing; nil until needed, or where it cannot be opened
	own    bool     // write is to be closed
}

func newProber(f *os.File, sys kernel) (*prober, error) {
	shared, err := sharedWith(f, sys)
	return &prober{f: f, sys: sys, shared: shared}, err
}

// asked queries, which disturbs nobody. A query for a write lock conflicts with read
// locks too, and unlike taking one it needs no descriptor that can write.
func (p *prober) asked(off int64) (bool, error) {
	lk := byteAt(unix.F_WRLCK, off)
	err := retry(func() error { return p.sys.lock(p.f.Fd(), unix.F_OFD_GETLK, &lk) })
	if err != nil {
		return false, &os.PathError{Op: "query lock of", Path: p.f.Name(), Err: err}
	}
	return lk.Type != unix.F_UNLCK, nil
}

// busy asks, and where the answer is not to be believed, it takes the lock and gives it
// back. For that moment a program that wants the byte fails: so it is for network file
// systems only, and never for a byte that f itself has locked, whose lock that would be.
//
// A write lock needs a descriptor that can write. Where there is none (permissions, a
// mount that is read-only) the answer has to do: a read lock could be taken, but conflicts
// with write locks only, and QEMU has none.
func (p *prober) busy(off int64) (bool, error) {
	busy, err := p.asked(off)
	if busy || err != nil || p.shared == ofThisHost {
		return busy, err
	}
	if !p.canWrite() {
		return false, nil
	}
	err = setLock(p.write, p.sys, unix.F_WRLCK, off)
	if isHeld(err) {
		return true, nil
	}
	if err == nil {
		err = setLock(p.write, p.sys, unix.F_UNLCK, off)
	}
	if err != nil {
		return false, &os.PathError{Op: "probe lock of", Path: p.f.Name(), Err: err}
	}
	return false, nil
}

// canWrite sees to a descriptor that can write: the one at hand, or another one of the
// same file, whatever is at its path by now.
func (p *prober) canWrite() bool {
	if p.write != nil {
		return true
	}
	if isWritable(p.f) {
		p.write = p.f
		return true
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.f.Fd()), os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		p.write, p.own = f, true
	}
	return err == nil
}

// Close does not close the file at hand.
func (p *prober) Close() error {
	if !p.own {
		return nil
	}
	return p.write.Close()
}

func isWritable(f *os.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}

func byteAt(kind int16, off int64) unix.Flock_t {
	return unix.Flock_t{Type: kind, Start: off, Len: 1} // Whence 0 is SEEK_SET
}

// setLock changes the lock of f on one byte, at once from one kind to another.
func setLock(f *os.File, sys kernel, kind int16, off int64) error {
	lk := byteAt(kind, off)
	return retry(func() error { return sys.lock(f.Fd(), unix.F_OFD_SETLK, &lk) })
}

// isHeld tells that somebody else has a lock that is in the way.
func isHeld(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
}
