package inside

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Machine runs programs.
type Machine struct{}

// A Command is a program with arguments.
type Command struct{ Args []string }

// An Outcome is how it ended.
type Outcome struct {
	Code           int
	Stdout, Stderr string
}

// Run runs a program to its end. What it starts and leaves behind must not have its output.
func (*Machine) Run(c Command, o *Outcome) error {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = nil
	}
	*o = Outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	return err
}

// Device is what hosts call the block device at path.
func (*Machine) Device(path string, d *blockid.Device) error {
	info, err := vfs.Stat(path)
	if err == nil {
		*d = blockid.Sys{}.Device(info.Rdev)
	}
	return err
}

// Visible are the disks that the machine sees.
func (*Machine) Visible(_ None, names *[]string) error {
	*names = blockid.Sys{}.Visible()
	return nil
}

// A Content is a file with what is in it.
type Content struct {
	Path string
	Data []byte
}

// Put writes a file, with the directories above it.
func (*Machine) Put(c Content, _ *None) error {
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.Path, c.Data, 0o644)
}

// Read returns what is in a file.
func (*Machine) Read(path string, data *[]byte) (err error) {
	*data, err = os.ReadFile(path)
	return err
}
