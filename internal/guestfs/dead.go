package guestfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DetachDead unmounts what a View of a process that was killed has left at a directory, if it
// is there still. Whatever else is there by now is left alone.
func DetachDead(dir string, pid int) (detached bool, err error) {
	source, there, err := mountedAt(dir)
	if err != nil || !there {
		return false, err
	}
	// guestfish's helpers may outlive it for a moment: until then its mount does not say that it is
	// dead, and looking at it could wait for ever.
	if source != "/dev/fuse" && !isOurs(source, pid) {
		return false, nil
	}
	return true, Detach(dir)
}

// mountedAt finds what is mounted uppermost at a directory.
func mountedAt(dir string) (source string, there bool, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	octal := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		_, after, ok := strings.Cut(line, " - ")
		if of := strings.Fields(after); ok && len(of) > 1 && len(fields) > 4 && fields[4] == octal.Replace(dir) {
			source, there = of[1], true
		}
	}
	return source, there, nil
}

// loopName is what a loop device is told about itself, to be known again.
func loopName(pid int) (name [64]byte) {
	copy(name[:len(name)-1], fmt.Sprintf("virt-rotate %d", pid))
	return name
}

// isOurs tells whether a device is a loop device that this process made. The kernel tells what
// it was told about itself only if it can ask for the file below, which went with the process a
// moment ago: a device whose file is gone is of no use to anybody else.
func isOurs(device string, pid int) bool {
	if !strings.HasPrefix(device, "/dev/loop") {
		return false
	}
	f, err := os.Open(device)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
		return true
	}
	return err == nil && info.File_name == loopName(pid)
}
