package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A ClaimedError says that the kernel itself uses an image.
type ClaimedError struct{ Path, Reason string }

func (e *ClaimedError) Error() string { return e.Path + ": " + e.Reason }

// Claim keeps the kernel from taking a block device into use, as a file system, for LVM,
// RAID or swap, until it is closed. What it uses already is a *ClaimedError, and so is a
// file that is the medium of a loop device.
func Claim(path string) (io.Closer, error) {
	info, err := Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsBlock {
		device, err := loopOf(info.ID, "/sys/block")
		if err == nil && device != "" {
			err = &ClaimedError{path, fmt.Sprintf("the loop device %s is on it; losetup -d %s ends that", device, device)}
		}
		return io.NopCloser(nil), err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, &ClaimedError{path, "it is mounted, or a part of LVM, RAID, swap or the like"}
	}
	return f, err
}

// loopOf finds the loop device whose medium the file is; "" for none.
func loopOf(id ID, blocks string) (string, error) {
	all, err := filepath.Glob(filepath.Join(blocks, "loop*", "loop", "backing_file"))
	if err != nil {
		return "", err
	}
	for _, attribute := range all {
		b, err := os.ReadFile(attribute)
		if err != nil {
			continue // it was detached meanwhile
		}
		medium, err := os.Stat(strings.TrimSuffix(string(b), "\n"))
		if err == nil && infoOf(medium).ID == id {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(attribute))), nil
		}
	}
	return "", nil
}
