package tidy

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	// StallLimit is how long a process may use next to no processor time.
	StallLimit = 15 * time.Minute
	lookEvery  = time.Minute
	// nextToNone is for each lookEvery: timers and the garbage collector use some.
	nextToNone = 20 * time.Millisecond
)

// watch ends the process with all its stacks when it stalls.
func watch() {
	stalled(time.Tick(lookEvery), used)
	debug.SetTraceback("all")
	fmt.Fprintf(os.Stderr, "panic: tests hang: they have used no processor time for %v\n", StallLimit)
	panic("tests hang")
}

// stalled returns when little was used between so many ticks in a row.
func stalled(tick <-chan time.Time, used func() time.Duration) {
	last, quiet := used(), time.Duration(0)
	for range tick {
		now := used()
		if quiet += lookEvery; now-last > nextToNone {
			quiet = 0
		}
		if last = now; quiet >= StallLimit {
			return
		}
	}
}

// used is the processor time of this process and of the children that it has waited for.
func used() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 0
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}
