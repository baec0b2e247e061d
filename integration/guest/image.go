package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Layer is one image of a chain, as qemu-img info sees it.
type Layer struct {
	Path          string `json:"filename"`
	Format        string `json:"format"`
	VirtualSize   int64  `json:"virtual-size"` // bytes that the guest sees
	ActualSize    int64  `json:"actual-size"`  // bytes allocated on the host
	Backing       string `json:"full-backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
}

// A State is what a guest sees on a disk.
type State struct {
	SHA256 string // of the disk's bytes, in hexadecimal
	Blocks uint64 // the numbered blocks written: K
}

// QemuImg runs qemu-img and returns what it prints. Its exit status is in the
// *exec.ExitError.
func QemuImg(ctx context.Context, args ...string) (stdout string, err error) {
	return output(exec.CommandContext(ctx, "qemu-img", args...))
}

// Chain returns the layers below and including the image at path, that first. It
// takes no locks, so the image may be in use.
func Chain(ctx context.Context, path, format string) ([]Layer, error) {
	out, err := QemuImg(ctx, "info", "-U", "--backing-chain", "--output=json", "-f", format, path)
	if err != nil {
		return nil, err
	}
	var layers []Layer
	if err := json.Unmarshal([]byte(out), &layers); err != nil {
		return nil, fmt.Errorf("qemu-img info %s: %w", path, err)
	}
	return layers, nil
}

// CheckImage has qemu-img check one image for corruption and leaks; raw images have
// nothing to check. The active layer of a running guest can only be checked while
// the guest is suspended: QEMU holds part of its metadata in memory.
func CheckImage(ctx context.Context, path, format string) error {
	if format == "raw" {
		return nil
	}
	_, err := QemuImg(ctx, "check", "-U", "-f", format, path)
	return err
}

// ReadState reads what a guest with parameters p sees through the image at path,
// and checks it. It takes no locks, so it can look at a chain that is being merged: a
// running guest must be suspended if path is its active layer.
func ReadState(ctx context.Context, path, format string, p Params) (s State, err error) {
	layers, err := Chain(ctx, path, format)
	if err != nil {
		return State{}, err
	}
	return readState(ctx, layers, p)
}

// readState reads through layers, the top one first.
func readState(ctx context.Context, layers []Layer, p Params) (s State, err error) {
	source, err := unlocked(layers)
	if err != nil {
		return State{}, err
	}
	disk := *spare.Get().(*[]byte)
	defer func() { spare.Put(&disk) }()
	if disk, err = readAll(ctx, source, layers[0].VirtualSize, disk); err != nil {
		return State{}, err
	}
	sum := sha256.Sum256(disk)
	s.SHA256 = hex.EncodeToString(sum[:])
	if s.Blocks, err = Check(bytes.NewReader(disk), p); err != nil {
		err = fmt.Errorf("%s: %w", layers[0].Path, err)
	}
	return s, err
}

// spare is memory for disks that were read: tests read thousands, of a few sizes.
var spare = sync.Pool{New: func() any { return new([]byte) }}

// readAll has qemu-img write a disk of size bytes to a file that is in memory only, and reads that into disk if it has room.
func readAll(ctx context.Context, source string, size int64, disk []byte) ([]byte, error) {
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		return disk, err
	}
	f := os.NewFile(uintptr(fd), "disk")
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return disk, err
	}
	cmd := exec.CommandContext(ctx, "qemu-img", "convert", "-n", "--target-is-zero", "-O", "raw", source, "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if _, err := output(cmd); err != nil {
		return disk, err
	}
	disk = slices.Grow(disk[:0], int(size))[:size]
	_, err = f.ReadAt(disk, 0)
	return disk, err
}

// unlocked describes a chain, the top layer first, to QEMU so that it takes
// no locks at all. With -U it still wants to know that nobody else writes.
func unlocked(layers []Layer) (string, error) {
	var node map[string]any
	for _, l := range slices.Backward(layers) {
		driver := "file"
		if info, err := os.Stat(l.Path); err == nil && info.Mode()&os.ModeDevice != 0 {
			driver = "host_device"
		}
		below := node
		node = map[string]any{"driver": l.Format, "file": map[string]any{
			"driver": driver, "filename": l.Path, "locking": "off",
		}}
		if below != nil {
			node["backing"] = below
		}
	}
	text, err := json.Marshal(node)
	return "json:" + string(text), err
}

// output runs cmd and adds what it was and what it complained about to an error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "LC_ALL=C")
	}
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + stdout.String())
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, said)
	}
	return stdout.String(), nil
}
