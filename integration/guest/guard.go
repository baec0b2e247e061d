package guest

import (
	"errors"
	"io"
	"os/exec"
	"syscall"
)

// A guard outlives this process, and cleans up a host should the process die without
// closing it: guests go on by themselves, and a timeout of go test runs no clean-up.
type guard struct {
	process *exec.Cmd
	stdin   io.WriteCloser
}

// clean waits for the end of its input, which is there when the process is. Only
// processes that name the host's directory are killed.
const clean = `
read _ && exit
dir=$1
for file in "$dir"/libvirtd.pid "$dir"/run/qemu/*.pid; do
	pid=$(cat "$file" 2>/dev/null) && grep -qF "$dir/" "/proc/$pid/cmdline" && kill -9 "$pid"
done
sleep 2
awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | while read -r mounted; do umount "$mounted"; done
losetup --noheadings --output NAME,BACK-FILE |
	awk -v dir="$dir/" 'index($2, dir) == 1 { print $1 }' | while read -r device; do losetup --detach "$device"; done
rm -rf "$dir"`

func newGuard(dir string) (*guard, error) {
	cmd := exec.Command("sh", "-c", clean, "sh", dir)
	// A group of its own: what interrupts this process must not end the guard.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &guard{cmd, stdin}, cmd.Start()
}

// dismiss ends the guard without a clean-up.
func (g *guard) dismiss() error {
	_, err := io.WriteString(g.stdin, "\n")
	return errors.Join(err, g.stdin.Close(), g.process.Wait())
}
