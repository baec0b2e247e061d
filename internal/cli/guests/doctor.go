package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// doctorReport is the JSON of doctor.
type doctorReport struct {
	Findings []decide.Finding `json:"findings"`
}

func doctorCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for leftovers and inconsistencies, and tell the remedy",
		ArgsUsage: "[DOMAIN…]", OnUsageError: term.UsageError,
		Flags: []cli.Flag{term.OutputFlag(), &cli.BoolFlag{Name: "fix", Usage: "mend what is safe to mend"},
			&cli.StringSliceFlag{Name: "forget", Usage: "give up a `SNAPSHOT` of the domain that is lost, or that libvirt no longer lists; later runs merge or delete its layers. May be repeated"}},
		Description: "Beside leftovers it tells whatever run would refuse, and what to do about it. What it\n" +
			"prints as a remedy costs no snapshot but those that it names.\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.With(e, true, func(s *session.Session) error { return examine(e, c, s) })
		},
	}
}

func examine(e *term.Env, c *cli.Context, s *session.Session) error {
	if c.Bool("fix") || c.IsSet("forget") {
		lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if err := forgetSnapshots(c, s); err != nil {
		return err
	}
	w, err := s.Rotator.Observer.Observe(c.Context)
	if err != nil {
		return err
	}
	domains, err := decide.Domains(w, c.Args().Slice())
	if err != nil {
		return err
	}
	rules, err := decide.Select(w, s.Rotator.Match, nil)
	if err != nil {
		return err
	}
	report := doctorReport{asUserOf(os.Geteuid(), rotate.Examine(w, domains, rules, time.Now()))}
	if report.Findings == nil {
		report.Findings = []decide.Finding{}
	}
	var fixed error
	if c.Bool("fix") {
		fixed = rotate.Fix(c.Context, s.Host, w, report.Findings)
	}
	err = e.Print(c, report, func(w io.Writer) { doctorText(w, report.Findings) })
	return errors.Join(fixed, err, doctorExit(report.Findings))
}

// forgetSnapshots gives up the snapshots of --forget, which are of the one domain that is named.
func forgetSnapshots(c *cli.Context, s *session.Session) error {
	names := c.StringSlice("forget")
	if len(names) == 0 {
		return nil
	}
	if c.NArg() != 1 {
		return term.Usagef("doctor --forget wants the name of one domain, whose snapshots are given up")
	}
	return s.Rotator.Forget(c.Context, c.Args().First(), names)
}

// asUserOf says once that an ordinary user cannot read the images, instead of each time
// that this is in the way.
func asUserOf(uid int, found []decide.Finding) []decide.Finding {
	if uid == 0 {
		return found
	}
	denied := func(f decide.Finding) bool { return strings.Contains(f.Detail, syscall.EACCES.Error()) }
	n := len(found)
	found = slices.DeleteFunc(slices.Clone(found), denied)
	if len(found) < n {
		found = append([]decide.Finding{{Code: decide.FindRoot, Detail: fmt.Sprintf("%d images or directories cannot be read by this user: what is with them is not told", n-len(found)),
			Remedy: "run it as root"}}, found...)
	}
	return found
}

// doctorExit is an error while something is left that is not as it should be.
func doctorExit(found []decide.Finding) error {
	for _, f := range found {
		if !f.Fixed && !f.Note {
			return &term.ExitError{Code: term.ExitFailed}
		}
	}
	return nil
}

func doctorText(w io.Writer, found []decide.Finding) {
	if len(found) == 0 {
		fmt.Fprintln(w, "nothing found: all is in order")
	}
	for _, f := range found {
		state := "problem"
		switch {
		case f.Fixed:
			state = "fixed"
		case f.Note:
			state = "note"
		}
		place := strings.Trim(f.Domain+" "+f.Path, " ")
		fmt.Fprintf(w, "%-8s %s: %s: %s\n", state, f.Code, place, f.Detail)
		if !f.Fixed {
			fmt.Fprintf(w, "         remedy: %s\n", strings.ReplaceAll(f.Remedy, "\n", "\n         "))
		}
	}
}
