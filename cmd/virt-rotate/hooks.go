package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/hook"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// runHook starts a program of the policy.
func runHook(ctx context.Context, h decide.Hook) error {
	return hook.Run(ctx, hook.Program{Argv: h.Command, Env: h.Env, Timeout: h.Timeout, Output: h.Output})
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
		return usagef("%s has hooks, but belongs to user %d: it must be root's or your own", path, st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return usagef("%s has hooks, but others can write to it (mode %04o): chmod go-w %s", path, info.Mode().Perm(), fmt.Sprintf("%q", path))
	}
	return nil
}
