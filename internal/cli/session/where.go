package session

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
)

// SystemPolicy and systemState belong to the host's own guests.
const (
	SystemPolicy = "/etc/virt-rotate/policy.toml"
	systemState  = "/var/lib/virt-rotate"
	systemURI    = "qemu:///system"
)

// DefaultPolicy is root's policy file: the system's. Of others it is their own where there
// is one, else the system's, which they may be able to read.
func DefaultPolicy() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		dir = "."
	}
	return defaultPolicy(os.Geteuid(), filepath.Join(dir, "virt-rotate", "policy.toml"), there)
}

func defaultPolicy(uid int, own string, there func(string) bool) string {
	if uid == 0 || !there(own) && there(SystemPolicy) {
		return SystemPolicy
	}
	return own
}

// there tells whether a file is there, also where only others can see it.
func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// ofSystem tells whether the policy is that of the host's own guests.
func ofSystem(e *term.Env) bool { return os.Geteuid() == 0 || e.PolicyPath == SystemPolicy }

// defaultStateDir is where state is kept when neither flag nor policy says.
func defaultStateDir(e *term.Env) (string, error) {
	if ofSystem(e) {
		return systemState, nil
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
	return defaultStateDir(e)
}

// URI names the host; "" leaves the choice to libvirt. The system's policy is about the
// system's guests, whoever reads it.
func URI(e *term.Env, f *policy.File) string {
	switch {
	case e.Connect != "":
		return e.Connect
	case f.Connect != "":
		return f.Connect
	case ofSystem(e) && os.Geteuid() != 0 && os.Getenv("LIBVIRT_DEFAULT_URI") == "":
		return systemURI
	}
	return ""
}
