//go:build failpoint

package rotate

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

var boundaries, writes atomic.Int64

// named says that the process has been where a name, and no number, told it to die.
var named atomic.Bool

// failpoint ends the process at the n-th call, n from VIRT_ROTATE_KILL_AT, or at the
// first one of that name.
func failpoint(name string) { endAt("VIRT_ROTATE_KILL_AT", &boundaries, "boundary", name) }

// Boundary is failpoint for those who work beside a rotation.
func Boundary(name string) { failpoint(name) }

// Mortal is fs, but the process ends before the n-th change of a file, n from
// VIRT_ROTATE_KILL_AT_WRITE.
func Mortal(fs vfs.FS) vfs.FS {
	return vfstest.Mortal(fs, func(what, path string) error {
		endAt("VIRT_ROTATE_KILL_AT_WRITE", &writes, "write", what+" "+path)
		return nil
	})
}

// endAt kills the process at the n-th call, n from the variable of the environment.
// With VIRT_ROTATE_STOP it only stops, and can be told to go on (SIGCONT).
func endAt(variable string, calls *atomic.Int64, kind, name string) {
	n, at := calls.Add(1), os.Getenv(variable)
	if at != strconv.FormatInt(n, 10) && (at != name || named.Swap(true)) {
		return
	}
	fmt.Fprintf(os.Stderr, "killed at %s %d: %s\n", kind, n, name)
	if os.Getenv("VIRT_ROTATE_STOP") == "" {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	runtime.LockOSThread() // a thread that stops itself gets no further
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
}
