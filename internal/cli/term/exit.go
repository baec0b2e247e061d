package term

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Exit statuses of all commands but those that have qemu-img's.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitSome    = 3
	ExitRefused = 4
	ExitLocked  = 5
)

// ExitHelp tells of the exit statuses in help texts.
const ExitHelp = `Exit status:
   0  done, or nothing to do
   1  failed (doctor: something is not as it should be)
   2  wrong usage, or an error in the policy
   3  some domains failed or were refused, others are done
   4  refused because it would not be safe; nothing was changed
   5  another run holds the lock`

// An ExitError carries an exit status. With no error inside, all has been said.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Usagef makes an error of usage, as fmt.Errorf does.
func Usagef(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}

// UsageError is what a command says of flags that it does not know.
func UsageError(c *cli.Context, err error, _ bool) error {
	name := "virt-rotate"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return Usagef("%w; %s --help tells more", err, name)
}

// ExitCode turns an error into the exit status.
func ExitCode(err error) int {
	var exit *ExitError
	var problems policy.Problems
	var held *vfs.HeldError
	var name *formats.NameError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &problems), errors.As(err, &name), errors.Is(err, observe.ErrNoSuchDomain), errors.Is(err, decide.ErrNoPolicy),
		errors.Is(err, observe.ErrNoSuchSnapshot):
		return ExitUsage
	case errors.As(err, &held):
		return ExitLocked
	case IsRefusal(err):
		return ExitRefused
	}
	return ExitFailed
}

// ErrorText is what is left to say of an error. Whom the system keeps out learns who is
// let in.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if text != "" && errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		text += "; run virt-rotate as root, as its timer does"
	}
	return text
}
