package vfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// TakeAttributes gives the file at to owner, mode and extended attributes (ACL, SELinux
// label) of the one at from, which it is to take the place of.
func TakeAttributes(to, from string) error {
	info, err := Lstat(from)
	if err != nil {
		return err
	}
	if now, err := Lstat(to); err != nil {
		return err
	} else if now.UID != info.UID || now.GID != info.GID {
		if err := os.Chown(to, int(info.UID), int(info.GID)); err != nil {
			return fmt.Errorf("the owner of the old file: %w", err)
		}
	}
	if err := os.Chmod(to, info.Mode); err != nil {
		return err
	}
	return takeXattrs(to, from)
}

// takeXattrs copies what the file system lets this process read.
func takeXattrs(to, from string) error {
	names, err := xattrNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		value, err := xattr(from, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err == nil {
			err = unix.Setxattr(to, name, value, 0)
		}
		if err != nil && !isUnsupported(err) {
			return &os.PathError{Op: "setxattr " + name, Path: to, Err: err}
		}
	}
	return nil
}

func xattrNames(path string) ([]string, error) {
	b := make([]byte, 64<<10) // what a file can have at most
	n, err := unix.Listxattr(path, b)
	if isUnsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }), nil
}

func xattr(path, name string) ([]byte, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Getxattr(path, name, b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}
