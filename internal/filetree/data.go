package filetree

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".virt-rotate-"

// tempName is a name that nobody else has.
func tempName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return tempPrefix + hex.EncodeToString(b[:])
}

// data copies the contents, and leaves holes where there are only zeros.
func (c *copying) data(to, from *os.File, size int64) error {
	for at := int64(0); at < size; {
		begin, end := nextData(from, at, size)
		if err := c.piece(to, from, begin, end); err != nil {
			return err
		}
		at = end
	}
	return to.Truncate(size)
}

// nextData finds the next part of a file that is no hole; from its end on, the same.
func nextData(from *os.File, at, size int64) (begin, end int64) {
	begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil { // the file system tells nothing of holes: all is data
		return at, size
	}
	if end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE); err != nil || end <= begin {
		end = size
	}
	return min(begin, size), min(end, size)
}

// zeroStep is the smallest hole that is left, in bytes.
const zeroStep = 64 << 10

// piece copies one part.
func (c *copying) piece(to, from *os.File, at, end int64) error {
	for at < end {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		buf := c.buf[:min(int64(len(c.buf)), end-at)]
		n, err := io.ReadFull(io.NewSectionReader(from, at, end-at), buf)
		if err != nil {
			return &fs.PathError{Op: "read", Path: from.Name(), Err: err}
		}
		if err := writeData(to, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
		if c.Done != nil {
			c.Done(int64(n))
		}
	}
	return nil
}

var zeros [zeroStep]byte

// writeData leaves out what is zero.
func writeData(to *os.File, b []byte, at int64) error {
	for len(b) > 0 {
		part := b[:min(len(b), zeroStep)]
		if !bytes.Equal(part, zeros[:len(part)]) {
			if _, err := to.WriteAt(part, at); err != nil {
				return err
			}
		}
		at += int64(len(part))
		b = b[len(part):]
	}
	return nil
}

// dress gives the copy what else belongs to a file: to is the copy, from the original, which
// is opened here where it is nil and a directory; both are nil for what is never opened.
func (c *copying) dress(p *place, to, from *os.File, into *os.File, name string) error {
	if !c.Archive {
		if to == nil {
			return nil
		}
		return to.Chmod(p.Mode.Perm() &^ c.umask)
	}
	fd := int(into.Fd())
	err := unix.Fchownat(fd, name, int(p.UID), int(p.GID), unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && (!errors.Is(err, unix.EPERM) || os.Geteuid() == 0) { // an ordinary user keeps it
		return fmt.Errorf("owner %d:%d: %w", p.UID, p.GID, err)
	}
	switch {
	case to != nil:
		err = errors.Join(to.Chmod(c.mode(p.Mode)), c.attributes(p, to, from))
	case p.Mode&fs.ModeSymlink == 0:
		err = unix.Fchmodat(fd, name, uint32(c.mode(p.Mode).Perm()), 0)
	default:
		err = nil
	}
	times := []unix.Timespec{p.accessed, unix.NsecToTimespec(p.Time.UnixNano())}
	return errors.Join(err, unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// mode is what is kept of a mode.
func (c *copying) mode(m fs.FileMode) fs.FileMode {
	keep := fs.ModePerm | fs.ModeSticky
	if c.Special {
		keep |= fs.ModeSetuid | fs.ModeSetgid
	}
	return m & keep
}

// attributes copies the extended attributes that are kept. Not every file system has them.
func (c *copying) attributes(p *place, to, from *os.File) error {
	if from == nil {
		dir, err := p.openDir()
		if err != nil {
			return err
		}
		defer dir.Close()
		from = dir
	}
	for _, name := range attributeNames(int(from.Fd())) {
		if !c.keeps(name) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(from.Fd()), name, value)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(int(to.Fd()), name, value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attribute %s: %w", Quote(name), err)
		}
	}
	return nil
}

// keeps tells whether an attribute is kept: those of users, access control lists and SELinux
// labels; others, as capabilities, only with what else is special.
func (c *copying) keeps(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_") || name == "security.selinux" || c.Special
}

func attributeNames(fd int) []string {
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(fd, list)
	if err != nil || n <= 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
}
