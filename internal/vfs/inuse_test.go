package vfs

import (
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Every byte of the protocol, one after the other, as another descriptor's
// read lock; then the bytes beside them, which mean nothing.
func TestInUseByByte(t *testing.T) {
	for off, want := range map[int64]Use{
		100: {Read: true},
		101: {Read: true, Write: true},
		102: {Read: true, Write: true},
		103: {Read: true, Write: true},
		200: {Read: true},
		201: {Read: true},
		202: {Read: true},
		203: {Read: true},
		0:   {}, 1: {}, 99: {}, 104: {}, 199: {}, 204: {},
	} {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			path := newFile(t, t.TempDir(), "disk", "")
			f, err := os.Open(path)
			must(t, err)
			defer f.Close()
			lk := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: off, Len: 1}
			must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
			wantUse(t, path, want)
		})
	}
}

// InUse asks for the right of reading alone: images of guests belong to others.
func TestInUseOfReadOnlyFile(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	must(t, os.Chmod(path, 0o400))
	wantUse(t, path, Use{})
}
