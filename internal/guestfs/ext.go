package guestfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What a list of files, and what is told of one, may have, in bytes.
const (
	mostListed    = 4 << 20
	mostDescribed = 64 << 10
)

// An Ext is an ext2, ext3 or ext4 file system that fills a file or a device. The program debugfs
// reads it, without mounting and without its journal, as it is on the disk. What it says is
// not to be believed: names are any text, and sizes any number.
type Ext struct {
	Disk *os.File // may have no name any more
}

// An ExtFile is a regular file of an Ext.
type ExtFile struct {
	Name  string
	Inode uint32
	Size  int64 // bytes
}

// Root lists the regular files of the root directory.
func (e *Ext) Root(ctx context.Context) (files []ExtFile, err error) {
	text, err := e.ask(ctx, "ls -p /", mostListed)
	for line := range strings.Lines(text) {
		if f, ok := extFile(strings.TrimSuffix(line, "\n")); ok {
			files = append(files, f)
		}
	}
	return files, err
}

// extFile reads a line of "ls -p": /inode/mode/uid/gid/name/size/.
func extFile(line string) (f ExtFile, ok bool) {
	fields := strings.Split(line, "/")
	if len(fields) != 8 || !strings.HasPrefix(fields[2], "100") { // inode(7): S_IFREG
		return f, false
	}
	inode, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return f, false
	}
	size, err := strconv.ParseInt(fields[6], 10, 64)
	return ExtFile{fields[5], uint32(inode), size}, err == nil
}

// Modified is when a file was written to.
func (e *Ext) Modified(ctx context.Context, f ExtFile) (time.Time, error) {
	text, err := e.ask(ctx, fmt.Sprintf("stat <%d>", f.Inode), mostDescribed)
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(text, "mtime: 0x")
	seconds, err := strconv.ParseUint(rest[:min(8, len(rest))], 16, 32)
	if err != nil {
		return time.Time{}, fmt.Errorf("debugfs does not tell when %q was written", f.Name)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil //nolint:gosec // 32 bits
}

// Read gives the content to take, which need not read all of it.
func (e *Ext) Read(ctx context.Context, f ExtFile, take func(r io.Reader) error) error {
	return e.run(ctx, fmt.Sprintf("cat <%d>", f.Inode), take)
}

// ask is what debugfs says to a request.
func (e *Ext) ask(ctx context.Context, request string, most int64) (text string, err error) {
	err = e.run(ctx, request, func(r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, most+1))
		if int64(len(b)) > most {
			return fmt.Errorf("debugfs says more than %d bytes", most)
		}
		text = string(b)
		return err
	})
	return text, err
}

// run has debugfs do one thing. It exits with 0 whatever goes wrong, which it says on standard
// error, behind a line with its version.
func (e *Ext) run(ctx context.Context, request string, take func(r io.Reader) error) error {
	program, err := find("debugfs")
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(running, program, "-c", "-R", request, "/proc/self/fd/3") //nolint:gosec // the requests are ours
	cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{e.Disk}, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said tail
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	err = take(out)
	_, _ = io.CopyN(io.Discard, out, mostListed) // what it says in the end tells more than why it ends
	cancel()
	_ = cmd.Wait()
	return errors.Join(ctx.Err(), err, complaint(said.String()))
}

// ErrNotExt says that an Ext is none.
var ErrNotExt = errors.New("there is no ext file system on it")

// complaint is what debugfs says besides its version.
func complaint(said string) error {
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			lines = append(lines, line)
		}
	}
	switch {
	case len(lines) == 0:
		return nil
	case strings.Contains(said, "Bad magic number"):
		return ErrNotExt
	}
	return fmt.Errorf("debugfs: %s", strings.Join(lines, "; "))
}

// Scratch is an empty file without a name: whatever this process dies of, nothing is left of it.
func Scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "virt-rotate-*.raw")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
