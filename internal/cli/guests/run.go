package guests

import (
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

func runCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "take due snapshots and shorten chains (the cron line)",
		ArgsUsage: "[DOMAIN…]", OnUsageError: term.UsageError,
		Flags: append(rotationFlags(), &cli.IntFlag{Name: "max-parallel", Value: 8,
			Usage: "work on `N` domains at a time; of one file system, one merge runs at a time in any case"},
			&cli.StringFlag{Name: "verify", Value: "shared",
				Usage: "compare what a graft has built with the old layers: `shared` reads only what they do not share, full reads all"}),
		Description: "One run at a time works on a host. After an interruption, whatever its reason, the\n" +
			"next run finishes what was begun: nothing has to be cleaned up by hand.\n" +
			"SIGINT and SIGTERM end the running merge and leave a valid chain. Hooks of the policy\n" +
			"run before and after the work on a domain that has something to do; what each run did\n" +
			"is told by history.\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			o, err := options(c)
			if err != nil {
				return err
			}
			s, err := session.Open(e, false)
			if err != nil {
				warn := func(text string) { fmt.Fprintln(e.Err, "virt-rotate: warning:", text) }
				newReporter(e, c, warn).didNotRun(c.Context, err)
				return err
			}
			return errors.Join(rotateDomains(e, c, s, o), s.Host.Close())
		},
	}
}

func rotateDomains(e *term.Env, c *cli.Context, s *session.Session, o decide.Options) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := term.NewProgress(e.Err)
	s.Rotator.Options, s.Rotator.Report, s.Rotator.Hook = o, p.Report, runHook
	log := newRecorder("run", s.Rotator.Observer.StateDir, p.Warn)
	s.Rotator.Ended = log.record
	after := newReporter(e, c, log.tell)
	plans, err := s.Rotator.Run(c.Context, c.Args().Slice())
	p.End()
	after.over(c.Context, s, plans, err)
	if err == nil && len(plans) == 0 {
		fmt.Fprintln(e.Err, "virt-rotate: no policy covers a domain of this host")
	}
	if plans == nil {
		return err
	}
	sum := decide.Summarize(plans)
	printed := e.Print(c, PlanReport{plans, &sum, log.texts}, runText(worthTelling(e, plans), &sum))
	if err != nil {
		return &term.ExitError{Code: term.ExitFailed, Err: errors.Join(err, printed)}
	}
	return errors.Join(printed, plansExit(plans))
}

// worthTelling leaves out domains of which there is nothing to tell when a
// run's output goes to a log or to cron's mail.
func worthTelling(e *term.Env, plans []decide.Plan) []decide.Plan {
	if term.IsTerminal(e.Out) {
		return plans
	}
	return slices.DeleteFunc(slices.Clone(plans), func(p decide.Plan) bool {
		return len(p.Steps)+len(p.Warnings) == 0 && (p.Result == decide.ResultNothing || p.Result == decide.ResultSkipped)
	})
}
