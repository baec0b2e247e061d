// Package tidy runs the tests of a package and sees to it that they leave nothing behind
// and do not hang:
//
//	func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }
//
// What the tests make in directories for temporary files, and the programs that they
// start, goes to directories of this run: os.TempDir, t.TempDir and Memory are below
// them. At the end these must be empty, and are removed in any case. A guard does so if
// the process dies first: go test's timeout, a panic and a signal run no clean-up.
//
// How long tests take is no concern of this package: a machine may be busy. But a process
// that has used next to no processor time for StallLimit waits for what does not come.
package tidy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	memory    = "/dev/shm"
	memoryKey = "VIRT_ROTATE_TEST_MEMORY" // tells this process, and those that it starts, the directory there
	prefix    = "vr-"                     // short, since names of UNIX sockets must be
)

// Run calls run, which runs tests, and returns the exit status: that of run, or 1 if
// the tests left something behind.
func Run(run func() int) int {
	dirs, err := prepare()
	if err != nil {
		return failed(err)
	}
	g, err := newGuard(dirs)
	if err != nil {
		return failed(err)
	}
	go watch()
	status := run()
	if err := errors.Join(clean(dirs), g.dismiss()); err != nil {
		return failed(err)
	}
	return status
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "FAIL:", err)
	return 1
}

// Memory is the directory for files that are to be in memory, because there are many
// that are synced, and where that cannot be had, the one for temporary files.
func Memory() string {
	if dir := os.Getenv(memoryKey); dir != "" {
		return dir
	}
	return os.TempDir()
}

// InMemory is like t.TempDir, in memory.
func InMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(Memory(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// prepare makes the directories of this run, and lets the environment name them.
func prepare() (dirs []string, err error) {
	temp, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	dirs = append(dirs, temp)
	// QEMU's user must be able to search it.
	if err := errors.Join(os.Chmod(temp, 0o755), os.Setenv("TMPDIR", temp)); err != nil {
		return dirs, err
	}
	inMemory, err := os.MkdirTemp(memory, prefix)
	if err != nil { // it need not be there
		return dirs, os.Unsetenv(memoryKey)
	}
	return append(dirs, inMemory), os.Setenv(memoryKey, inMemory)
}

// clean removes the directories, and fails if they are not empty.
func clean(dirs []string) error {
	var left []string
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if path != dir && err == nil {
				left = append(left, path)
			}
			return err
		}), os.RemoveAll(dir))
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("the tests have left behind:\n\t%s", strings.Join(left, "\n\t")))
	}
	return errors.Join(errs...)
}
