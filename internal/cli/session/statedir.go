package session

import (
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
)

// defaultStateDir is where state is kept when neither flag nor policy says.
func defaultStateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/virt-rotate", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "virt-rotate"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state", "virt-rotate"), err
}

// StateDir is where state is kept: as the flag says, else as the policy does.
func StateDir(e *term.Env, f *policy.File) (string, error) {
	switch {
	case e.StateDir != "":
		return filepath.Abs(e.StateDir)
	case f.StateDir != "":
		return f.StateDir, nil
	}
	return defaultStateDir()
}
