//go:build failpoint

package rotate

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var boundaries atomic.Int64

// failpoint kills the process at the n-th call, n from VIRT_ROTATE_KILL_AT.
func failpoint(name string) {
	n, err := strconv.ParseInt(os.Getenv("VIRT_ROTATE_KILL_AT"), 10, 64)
	if err != nil || boundaries.Add(1) != n {
		return
	}
	fmt.Fprintf(os.Stderr, "killed at boundary %d: %s\n", n, name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
