package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
)

// LoadPolicy reads the policy file.
func LoadPolicy(e *term.Env) (*policy.File, error) {
	f, err := policy.Load(e.PolicyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, term.Usagef("%w; virt-rotate policy init writes a first one", err)
	}
	if err != nil {
		return nil, &term.ExitError{Code: term.ExitUsage, Err: err}
	}
	return f, checkOwner(f, e.PolicyPath)
}

// checkOwner refuses a policy with hooks that others could have written: they would run
// programs with our rights. Without hooks it does no more harm than its reader allows.
func checkOwner(f *policy.File, path string) error {
	if !f.HasHooks() {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return term.Usagef("%s has hooks, but belongs to user %d: it must be root's or your own", path, st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return term.Usagef("%s has hooks, but others can write to it (mode %04o): chmod go-w %s", path, info.Mode().Perm(), fmt.Sprintf("%q", path))
	}
	return nil
}
