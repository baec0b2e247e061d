package fleet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// forgetReport is the JSON of fleet forget.
type forgetReport struct {
	Host     string   `json:"host"`
	Storages []string `json:"storages"` // directories of those where it was on record
}

func forgetCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "forget", Usage: "forget a host that is gone for good",
		ArgsUsage: "HOST", OnUsageError: term.UsageError, Flags: []cli.Flag{term.OutputFlag()},
		Description: `What that host has told keeps nothing any more: if guests of it, or images on its own disks,
still build on layers of the shared storage, merges destroy them. Of a host that comes back,
forget nothing: let virt-rotate run on it. HOST is a name or an ID of fleet status.

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return term.Usagef("%s wants one HOST", c.Command.HelpName)
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.With(e, true, func(s *session.Session) error { return forget(e, c, s) })
		},
	}
}

func forget(e *term.Env, c *cli.Context, s *session.Session) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := s.Rotator.Observer.Observe(c.Context); err != nil { // which finds the storages
		return err
	}
	s.Rotator.Observer.Fleet.OnDevices() // also if no guest here has any
	report := forgetReport{Host: c.Args().First(), Storages: []string{}}
	for _, storage := range s.Rotator.Observer.Fleet.All() {
		switch err := storage.Forget(c.Context, report.Host); {
		case err == nil:
			report.Storages = append(report.Storages, storage.Dir())
		case !errors.Is(err, coord.ErrNoSuchHost) && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if len(report.Storages) == 0 {
		return term.Usagef("%s: %w", report.Host, coord.ErrNoSuchHost)
	}
	return e.Print(c, report, func(out io.Writer) {
		for _, dir := range report.Storages {
			fmt.Fprintf(out, "%s: %s is forgotten\n", term.Printable(dir), term.Printable(report.Host))
		}
	})
}
