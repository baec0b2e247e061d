package term

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// headBytes is how much of a file tells whether it is one of ours.
const headBytes = 1024

// Replace writes data to standard output where path is "-", else into the file at path, which is
// there whole or not at all. What is there already goes only if it begins as ours, with mark among
// its first bytes, or by force; what is no plain file stays.
func (e *Env) Replace(path string, data []byte, mark string, force bool) error {
	if path == "-" {
		_, err := e.Out.Write(data)
		return err
	}
	if err := replaceable(path, mark, force); err != nil {
		return err
	}
	return vfs.WriteFile(path, data, 0o644)
}

func replaceable(path, mark string, force bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &ExitError{ExitRefused, fmt.Errorf("%s: is no plain file, and stays as it is", Printable(path))}
	case force:
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, headBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if mark == "" || !bytes.Contains(head[:n], []byte(mark)) {
		return &ExitError{ExitRefused, fmt.Errorf("%s: is there, and is no report of virt-rotate: name another file, or say --force", Printable(path))}
	}
	return nil
}
