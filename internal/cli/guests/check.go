package guests

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
)

// checkHelp tells of the exit statuses of check, which are those of monitoring plugins.
const checkHelp = `Exit status:
   0  OK: every guest is protected
   1  WARNING
   2  CRITICAL
   3  UNKNOWN: libvirt does not answer, or wrong usage, or an error in the policy`

func checkCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "tell whether every guest is protected, as a plugin of Nagios, Icinga and their kin",
		ArgsUsage: "[DOMAIN…]",
		Flags: []cli.Flag{term.OutputFlag(),
			&cli.StringFlag{Name: "timeout", Aliases: []string{"t"}, Value: "30s", Usage: "libvirt has to answer within `TIME`: 30s, 1m, or a number of seconds"}},
		OnUsageError: func(c *cli.Context, err error, sub bool) error {
			return tellUnknown(e, c, term.UsageError(c, err, sub))
		},
		Description: `The first line is the verdict, with performance data behind "|"; a line for each guest
follows, the worst first. A guest is protected when its newest snapshot is young enough
(check.warn and check.crit of its policy, times every), when nothing is refused now or when
the next snapshot is due, when no run was interrupted or failed, when merges do not wait for
too long, and when chain and storage have room. Guests that no policy covers are told, too:
[check] uncovered and ignore in the policy. Named guests are looked at alone.

Where libvirt does not answer, the runs that are on record are told all the same. Nothing
is changed. It needs the rights of run: let NRPE use sudo.

   virt-rotate check
   virt-rotate check --timeout 10s web-1

` + checkHelp,
		Action: func(c *cli.Context) (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = tellUnknown(e, c, fmt.Errorf("a fault of virt-rotate: %v", p))
				}
			}()
			return runCheck(e, c)
		},
	}
}

// tellUnknown says on standard output, where plugins are read, why there is no verdict.
// c may be nil.
func tellUnknown(e *term.Env, c *cli.Context, err error) error {
	text := plainText(err.Error())
	if c != nil && c.String("output") == "json" {
		r := &checkReport{Level: rotate.Unknown, Summary: text, Guests: []checked{}, Uncovered: []string{}}
		_ = e.Print(c, r, nil) // the exit status tells enough
	} else {
		fmt.Fprintf(e.Out, "VIRT-ROTATE UNKNOWN - %s\n", text)
	}
	return &term.ExitError{Code: int(rotate.Unknown)}
}

// CheckUnknown is tellUnknown for an error of which check itself did not come to know.
func CheckUnknown(e *term.Env, err error) error {
	var exit *term.ExitError
	if errors.As(err, &exit) && exit.Err == nil {
		return err
	}
	return tellUnknown(e, nil, err)
}

func runCheck(e *term.Env, c *cli.Context) error {
	if err := term.CheckOutput(c); err != nil {
		return tellUnknown(e, c, err)
	}
	patience, err := patienceOf(c.String("timeout"))
	if err != nil {
		return tellUnknown(e, c, err)
	}
	s, err := newSurvey(e)
	if err != nil {
		return tellUnknown(e, c, err)
	}
	s.look(c.Context, patience, fromOutside(e))
	if err := s.judge(c.Args().Slice()); err != nil {
		return tellUnknown(e, c, err)
	}
	r := newCheckReport(s)
	if err := e.Print(c, r, func(w io.Writer) { r.text(w, s.now) }); err != nil || r.Level != rotate.OK {
		return &term.ExitError{Code: int(r.Level)}
	}
	return nil
}

// patienceOf reads a time limit, as plugins have it in seconds.
func patienceOf(text string) (time.Duration, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 24*60*60 {
		return time.Duration(n) * time.Second, nil
	}
	d, err := policy.ParseDuration(text)
	if err != nil {
		return 0, term.Usagef(`--timeout %q: want a duration such as 30s or 1m, or a number of seconds`, text)
	}
	return d, nil
}
