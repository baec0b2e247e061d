// Package vfs is the small layer between virt-rotate and the file system: what
// a file is, durable writes, careful removal, and who else uses an image.
//
// The engine works on an FS and its Files; Full makes a File of anything that has bytes.
//
// Invariants:
//   - a function that makes, replaces or removes a name has synced the file and its
//     directory when it returns nil, but for the run lock, which nobody needs after a
//     crash; methods of FS and File say themselves what is durable; errors of Close and
//     Sync count;
//   - a function that fails leaves no temporary file behind, a crash may
//     leave one that matches TempPattern;
//   - only File.Lock keeps locks on images (InUse may take some for a moment), and no
//     descriptor is inherited by a child process.
//
// The package is for Linux only: open file description locks have no portable
// counterpart.
package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// deviceDev is the Dev of every block device. No file system has it as st_dev:
// the kernel's device numbers have 32 bits.
const deviceDev = math.MaxUint64

// ID is the identity of a regular file (st_dev, st_ino) or of a block device
// (deviceDev, st_rdev). A device is identified by its number and not by its
// node, so that /dev/vg/lv and /dev/dm-3 are equal.
//
// Neither number is promised to survive a reboot or a remount. A caller that
// keeps an ID across one may find a difference, never a false match of a file
// that kept its number.
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// IsDevice tells whether it is that of a block device.
func (id ID) IsDevice() bool { return id.Dev == deviceDev }

// Info describes a regular file or a block device. Sizes are bytes.
type Info struct {
	ID        ID
	Size      int64 // end of file, or capacity of the device
	Allocated int64 // st_blocks * 512; all of Size for a device
	Links     uint64
	Mode      fs.FileMode
	UID, GID  uint32
	ModTime   time.Time
	IsBlock   bool
	Rdev      uint64 // device number of a block device, else 0
}

// KindError refuses a path that is neither a regular file nor a block device,
// or not the one that was asked for.
type KindError struct {
	Path string
	Kind string // what it is: "directory", "symbolic link", …
}

func (e *KindError) Error() string {
	return fmt.Sprintf("%s: is a %s", e.Path, e.Kind)
}

// Stat follows symbolic links. The size of a block device can only be read by
// opening it for reading. It returns a *KindError or a *fs.PathError.
func Stat(path string) (Info, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Info{}, err
	}
	return inspect(path, fi, 0)
}

// Lstat is Stat, except that a symbolic link at the end of path is a
// *KindError.
func Lstat(path string) (Info, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return Info{}, err
	}
	return inspect(path, fi, unix.O_NOFOLLOW)
}

// inspect opens block devices alone: opening a pipe or a terminal has effects.
func inspect(path string, fi fs.FileInfo, flag int) (Info, error) {
	if isBlock(fi) {
		return deviceInfo(path, flag)
	}
	if !fi.Mode().IsRegular() {
		return Info{}, kindError(path, fi)
	}
	return infoOf(fi), nil
}

// deviceInfo looks again at what it has opened, since path may have changed
// in between.
func deviceInfo(path string, flag int) (Info, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flag, 0)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !isBlock(fi) {
		return Info{}, kindError(path, fi)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Info{}, err
	}
	return asDevice(infoOf(fi), size), nil
}

func asDevice(i Info, size int64) Info {
	i.ID = ID{Dev: deviceDev, Ino: i.Rdev}
	i.IsBlock = true
	i.Size, i.Allocated = size, size
	return i
}

// infoOf takes what stat says about any file. The conversions are needed where
// the fields of Stat_t are narrower than on amd64.
func infoOf(fi fs.FileInfo) Info {
	st := fi.Sys().(*syscall.Stat_t)
	return Info{
		ID:        ID{Dev: uint64(st.Dev), Ino: uint64(st.Ino)},
		Size:      st.Size,
		Allocated: st.Blocks * 512,
		Links:     uint64(st.Nlink),
		Mode:      fi.Mode(),
		UID:       st.Uid,
		GID:       st.Gid,
		ModTime:   fi.ModTime(),
		Rdev:      uint64(st.Rdev),
	}
}

func isBlock(fi fs.FileInfo) bool { return fi.Mode().Type() == fs.ModeDevice }

func kindError(path string, fi fs.FileInfo) *KindError {
	return &KindError{Path: path, Kind: kind(fi.Mode())}
}

func kind(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "regular file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeNamedPipe:
		return "named pipe"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "character device"
	}
	return "file of unknown kind"
}
