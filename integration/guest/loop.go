package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A Loop is a loop device over a sparse file, perhaps with a mounted file system:
// a block device for a guest's disk, or storage that runs full. It needs root.
type Loop struct {
	Device string // such as /dev/loop0
	Dir    string // where its file system is mounted; "" without
	file   string
}

// NewLoop attaches a loop device of size bytes over a new file.
func NewLoop(ctx context.Context, file string, size int64) (*Loop, error) {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(file, size); err != nil {
		return nil, err
	}
	out, err := output(exec.CommandContext(ctx, "losetup", "--find", "--show", file))
	return &Loop{Device: strings.TrimSpace(out), file: file}, err
}

// NewLoopMount makes a file system of size bytes (ext4; or xfs, from 300 MiB up) in
// a new file and mounts it on dir.
func NewLoopMount(ctx context.Context, file, fstype, dir string, size int64) (*Loop, error) {
	l, err := NewLoop(ctx, file, size)
	if err != nil {
		return nil, err
	}
	if err := l.mount(ctx, fstype, dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Loop) mount(ctx context.Context, fstype, dir string) error {
	if _, err := output(exec.CommandContext(ctx, "mkfs."+fstype, "-q", l.Device)); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, "mount", "-t", fstype, l.Device, dir)); err != nil {
		return err
	}
	l.Dir = dir
	return os.Chmod(dir, 0o755)
}

// Close unmounts, detaches and deletes. Guests that use the device must be gone;
// those just killed may hold on for a moment.
func (l *Loop) Close() error {
	if l.Dir != "" {
		if err := persist("umount", l.Dir); err != nil {
			return err
		}
	}
	if err := persist("losetup", "--detach", l.Device); err != nil {
		return err
	}
	return os.Remove(l.file)
}

// persist runs a command again while it fails, for a minute: it waits for processes that
// are being killed, and they may have much memory to give back.
func persist(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var last error
	err := Await(ctx, name, func() (bool, error) {
		_, last = output(exec.Command(name, args...))
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("gave up: %w", last)
	}
	return nil
}
