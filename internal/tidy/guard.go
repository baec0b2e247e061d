package tidy

import (
	"errors"
	"io"
	"os/exec"
	"syscall"
)

// A guard outlives this process, and removes its directories if it dies without doing so.
type guard struct {
	process *exec.Cmd
	stdin   io.WriteCloser
}

// script waits for the end of its input, which is there when the process is. Others may
// have guards of their own: they go first. Whatever still names a directory is killed.
const script = `
read -r _ && exit
sleep 5
for dir; do
	awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | while read -r mounted; do fsfreeze --unfreeze "$mounted" 2>/dev/null; done
	for process in /proc/[0-9]*; do
		grep -qF "$dir/" "$process/cmdline" && kill -9 "${process#/proc/}"
	done
	awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mounted; do umount -l "$mounted"; done
	losetup --noheadings --output NAME,BACK-FILE |
		awk -v dir="$dir/" 'index($2, dir) == 1 { print $1 }' | while read -r device; do losetup --detach "$device"; done
	rm -rf "$dir"
done`

func newGuard(dirs []string) (*guard, error) {
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, dirs...)...)
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
