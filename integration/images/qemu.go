package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// QemuImg runs qemu-img and returns what it prints.
func QemuImg(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "qemu-img", args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("qemu-img %q: %w: %s", args, err, exit.Stderr)
	}
	return out, err
}

// QemuRead reads the disk of an image with qemu-img, by way of a file in tmp.
func QemuRead(ctx context.Context, path, format, tmp string) (*Content, error) {
	f, err := os.CreateTemp(tmp, "read-*.raw")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return nil, err
	}
	if _, err := QemuImg(ctx, "convert", "-t", "unsafe", "-f", format, "-O", "raw", path, f.Name()); err != nil {
		return nil, err
	}
	return FileContent(f.Name())
}

// ErrNotReverted means that an image cannot be reverted to a snapshot: narrow
// refcounts may not allow for it.
var ErrNotReverted = errors.New("not reverted")

// QemuReadSnapshot reads an internal snapshot of the image at path: it reverts a
// copy beside it, which brings back the size as well, and checks that copy.
func QemuReadSnapshot(ctx context.Context, path, snapshot, tmp string) (c *Content, err error) {
	reverted := path + ".reverted"
	defer os.Remove(reverted)
	if err := exec.CommandContext(ctx, "cp", "--sparse=always", path, reverted).Run(); err != nil {
		return nil, err
	}
	if _, err := QemuImg(ctx, "snapshot", "-a", snapshot, reverted); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReverted, err)
	}
	r, err := QemuCheck(ctx, reverted)
	if err != nil {
		return nil, err
	}
	if r.Leaks = 0; r != (CheckResult{}) { // they may have been there before
		return nil, fmt.Errorf("%s, reverted to snapshot %s: qemu-img check: %+v", path, snapshot, r)
	}
	return QemuRead(ctx, reverted, "qcow2", tmp)
}

// An Info is what qemu-img info says.
type Info struct {
	Size          int64  `json:"virtual-size"`
	Backing       string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
	Snapshots     []struct {
		Name string `json:"name"`
	} `json:"snapshots"`
}

// QemuInfo runs qemu-img info.
func QemuInfo(ctx context.Context, path, format string) (i Info, err error) {
	out, err := QemuImg(ctx, "info", "--output=json", "-f", format, path)
	if err == nil {
		err = json.Unmarshal(out, &i)
	}
	return i, err
}

// A CheckResult is what qemu-img check counts.
type CheckResult struct {
	Errors      int64 `json:"check-errors"`
	Corruptions int64 `json:"corruptions"`
	Leaks       int64 `json:"leaks"`
}

// QemuCheck runs qemu-img check, which says by its exit code as well what it has found.
func QemuCheck(ctx context.Context, path string) (r CheckResult, err error) {
	c := exec.CommandContext(ctx, "qemu-img", "check", "--output=json", "-f", "qcow2", path)
	out, err := c.Output()
	exit := (*exec.ExitError)(nil)
	if errors.As(err, &exit) && (exit.ExitCode() == 2 || exit.ExitCode() == 3) {
		err = nil
	}
	if err != nil {
		return r, fmt.Errorf("qemu-img check %s: %w: %s", path, err, out)
	}
	return r, json.Unmarshal(out, &r)
}
