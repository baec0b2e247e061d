package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitSome    = 3
	exitRefused = 4
	exitLocked  = 5
)

const exitHelp = `Exit status:
   0  done, or nothing to do
   1  failed (doctor: something is not as it should be)
   2  wrong usage, or an error in the policy
   3  some domains failed or were refused, others are done
   4  refused because it would not be safe; nothing was changed
   5  another run holds the lock`

// An exitError carries an exit status. With no error inside, all has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "virt-rotate"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return usagef("%w; %s --help tells more", err, name)
}

// exitCode turns an error into the exit status.
func exitCode(err error) int {
	var exit *exitError
	var problems policy.Problems
	var held *vfs.HeldError
	var name *formats.NameError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &problems), errors.As(err, &name), errors.Is(err, observe.ErrNoSuchDomain), errors.Is(err, observe.ErrNoPolicy),
		errors.Is(err, observe.ErrNoSuchSnapshot):
		return exitUsage
	case errors.As(err, &held):
		return exitLocked
	case isRefusal(err):
		return exitRefused
	}
	return exitFailed
}

// isRefusal tells whether err means that something would not be safe, or is not
// what this program works on, and was left alone.
func isRefusal(err error) bool {
	var refused *chain.RefusedError
	var busy *vfs.BusyError
	var kind *vfs.KindError
	var changed *vfs.ChangedError
	var local *vfs.LocalLocksError
	var unknown *chain.UnknownFormatError
	var unsupported *xva.UnsupportedError
	var destroyed *decide.DestroyedError
	return errors.As(err, &refused) || errors.As(err, &destroyed) || errors.As(err, &unknown) || errors.As(err, &busy) || errors.As(err, &kind) ||
		errors.As(err, &changed) || errors.As(err, &local) || formats.Unsupported(err) || errors.As(err, &unsupported) || errors.Is(err, xva.ErrNotXVA)
}

// errorText is what is left to say of an error.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// plansExit is the exit status of a run or a plan.
func plansExit(plans []decide.Plan) error {
	failed, refused, changed, fine := 0, 0, 0, 0
	for _, p := range plans {
		if len(p.Steps) > 0 {
			changed++
		}
		switch {
		case p.Result == decide.ResultFailed, p.Result == decide.ResultCanceled:
			failed++
		case len(p.Refused) > 0:
			refused++
		default:
			fine++
		}
	}
	switch {
	case failed > 0 && (fine > 0 || refused > 0):
		return &exitError{code: exitSome}
	case failed > 0:
		return &exitError{code: exitFailed}
	case refused > 0 && changed > 0:
		return &exitError{code: exitSome}
	case refused > 0:
		return &exitError{code: exitRefused}
	}
	return nil
}
