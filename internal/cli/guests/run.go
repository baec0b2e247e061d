package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
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
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing unless something was refused or failed"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "print each step also to a log or to cron's mail, which else get one line for each domain that changed"},
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
			if c.Bool("quiet") && c.Bool("verbose") {
				return term.Usagef("--quiet and --verbose exclude each other")
			}
			return pingedRun(e, c, o)
		},
	}
}

// pingedRun is a run of which the services of the policy hear.
func pingedRun(e *term.Env, c *cli.Context, o decide.Options) error {
	host, err := os.Hostname()
	if err != nil {
		host = "this host"
	}
	show := runProgress(e, c)
	p := newPinger(e, host, show.Warn)
	s, err := session.Open(e, false)
	if err == nil {
		err = errors.Join(rotateDomains(e, c, s, o, show, p), s.Close())
	} else {
		newReporter(e, c, show.Warn).didNotRun(c.Context, err)
	}
	p.ended(c.Context, err)
	return err
}

func rotateDomains(e *term.Env, c *cli.Context, s *session.Session, o decide.Options, show *term.Progress, p *pinger) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p.start(c.Context)
	s.Rotator.Options, s.Rotator.Report, s.Rotator.Hook = o, show.Report, runHook
	log := newRecorder("run", s.Rotator.Observer.StateDir, show.Warn)
	s.Rotator.Ended = func(plan decide.Plan) { show.Over(plan.Domain); log.record(plan) }
	after := newReporter(e, c, log.tell)
	plans, err := s.Rotator.Run(c.Context, c.Args().Slice())
	show.End()
	after.over(c.Context, s, plans, err)
	p.told = plans
	if err == nil && len(plans) == 0 && !c.Bool("quiet") {
		fmt.Fprintln(e.Err, "virt-rotate: no policy covers a domain of this host")
	}
	if plans == nil {
		return err
	}
	sum := decide.Summarize(plans)
	printed := e.Print(c, PlanReport{plans, &sum, log.texts}, toldOf(e, c, plans, &sum))
	if err != nil {
		return &term.ExitError{Code: term.ExitFailed, Err: errors.Join(err, printed)}
	}
	return errors.Join(printed, plansExit(plans))
}

// runProgress tells as much as the output does.
func runProgress(e *term.Env, c *cli.Context) *term.Progress {
	p := term.NewProgress(e.Err)
	p.Quiet, p.Brief = c.Bool("quiet"), !c.Bool("verbose")
	return p
}

// toldOf writes what a run did: on a terminal all of it; to a log or to cron's mail one line
// for each domain of which there is something to tell, or its steps when asked.
func toldOf(e *term.Env, c *cli.Context, plans []decide.Plan, sum *decide.Summary) func(io.Writer) {
	switch {
	case c.Bool("quiet"):
		return briefText(slices.DeleteFunc(slices.Clone(plans), func(p decide.Plan) bool { return !troubled(&p) }))
	case term.IsTerminal(e.Out):
		return runText(plans, sum)
	case c.Bool("verbose"):
		return runText(worthTelling(plans), sum)
	}
	return briefText(worthTelling(plans))
}

// worthTelling leaves out domains of which there is nothing to tell.
func worthTelling(plans []decide.Plan) []decide.Plan {
	return slices.DeleteFunc(slices.Clone(plans), func(p decide.Plan) bool {
		return len(p.Steps)+len(p.Warnings) == 0 && (p.Result == decide.ResultNothing || p.Result == decide.ResultSkipped)
	})
}

// troubled tells whether something was refused or failed.
func troubled(p *decide.Plan) bool { return levelOf(p) == term.LevelErr }
