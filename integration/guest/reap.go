package guest

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// reapGuests has the guests that libvirt starts become children of this process once
// their libvirt has let go of them, and reaps them as they die. Some init processes
// take a second or two to do so, for which libvirt waits at each "virsh destroy".
var reapGuests = sync.OnceValue(func() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the reaper of guests: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			reapDead()
		}
	}()
	return nil
})

// reapDead reaps guests only: whoever has started another child waits for it.
func reapDead() {
	ours, _ := unix.Getsid(0)
	// Orphans come to the first thread. Without the list, guests are zombies until we end.
	children, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	for pid := range strings.FieldsSeq(string(children)) {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && isDeadGuest(stat, ours) {
			var n int
			_, _ = fmt.Sscan(pid, &n)
			_, _ = unix.Wait4(n, nil, unix.WNOHANG, nil)
		}
	}
}

// isDeadGuest takes the text of /proc/PID/stat, where a name has 15 bytes at most. A QEMU of our own
// session is not one that libvirt has started, which gives each guest its own.
func isDeadGuest(stat []byte, ours int) bool {
	const name = " (qemu-system-"
	var state byte
	var parent, group, session int
	i := bytes.LastIndex(stat, []byte(") "))
	if i < 0 || !bytes.Contains(stat, []byte(name)) {
		return false
	}
	n, _ := fmt.Sscanf(string(stat[i+2:]), "%c %d %d %d", &state, &parent, &group, &session)
	return n == 4 && state == 'Z' && session != ours
}
