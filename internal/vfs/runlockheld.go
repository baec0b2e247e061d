package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// RunLockHeld tells whether a process has the lock of a run. It takes no lock itself, which a
// run that is just starting would meet: it reads the kernel's list of locks.
func RunLockHeld(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, nil
	}
	list, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	return heldIn(string(list), string(text), st.Dev, st.Ino), nil
}

// heldIn looks for an flock of the file in the kernel's list, whose lines are
// "N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF". File systems with several devices
// have another one there than stat tells: then the holder's own word has to say the process.
func heldIn(list, signed string, dev, ino uint64) bool {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), ino)
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" {
			continue
		}
		if f[5] == file || strings.HasSuffix(f[5], fmt.Sprintf(":%d", ino)) && strings.HasPrefix(signed, "pid "+f[4]+" ") {
			return true
		}
	}
	return false
}
