package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// planReport is the JSON of plan and run.
type planReport struct {
	Domains  []decide.Plan   `json:"domains"`
	Summary  *decide.Summary `json:"summary,omitempty"`  // of a run
	Warnings []string        `json:"warnings,omitempty"` // of a run as a whole
}

func rotationFlags() []cli.Flag {
	return []cli.Flag{
		outputFlag(),
		&cli.BoolFlag{Name: "no-snapshot", Usage: "take no snapshot, only shorten chains"},
		&cli.BoolFlag{Name: "detach", Usage: "pull the disks of the named domains off images that they share with others"},
		&cli.BoolFlag{Name: "now", Usage: "take a snapshot whatever the policy's every says"},
	}
}

func options(c *cli.Context) (decide.Options, error) {
	o := decide.Options{NoSnapshot: c.Bool("no-snapshot"), IgnoreEvery: c.Bool("now"), Detach: c.Bool("detach")}
	if o.Detach && c.NArg() == 0 {
		return o, usagef("--detach wants the names of domains: it copies all that they share with others")
	}
	if o.NoSnapshot && o.IgnoreEvery {
		return o, usagef("--now and --no-snapshot exclude each other")
	}
	switch v := c.String("verify"); v {
	case "", "shared":
	case "full":
		o.VerifyFull = true
	default:
		return o, usagef("--verify wants shared or full, not %q", v)
	}
	if c.IsSet("max-parallel") {
		if o.MaxParallel = c.Int("max-parallel"); o.MaxParallel < 1 {
			return o, usagef("--max-parallel wants a number of at least 1")
		}
	}
	return o, checkOutput(c)
}

func planCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "tell what run would do, and why; change nothing",
		ArgsUsage: "[DOMAIN…]", Flags: rotationFlags(), OnUsageError: usageError,
		Description: "The steps are exactly those that run carries out on an unchanged host. Sizes are\n" +
			"what a step may cost: the space that an overlay may need, the data that a merge\n" +
			"copies at most, what deleting a file gives back.\n\n" + exitHelp,
		Action: func(c *cli.Context) error {
			o, err := options(c)
			if err != nil {
				return err
			}
			return withSession(e, false, func(s *session) error {
				s.rotator.Options = o
				plans, _, err := s.rotator.Plan(c.Context, c.Args().Slice())
				if err != nil {
					return err
				}
				if len(plans) == 0 {
					fmt.Fprintln(e.err, "virt-rotate: no policy covers a domain of this host")
				}
				return errors.Join(e.print(c, planReport{Domains: plans}, plansText(plans)), plansExit(plans))
			})
		},
	}
}

func runCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "take due snapshots and shorten chains (the cron line)",
		ArgsUsage: "[DOMAIN…]", OnUsageError: usageError,
		Flags: append(rotationFlags(), &cli.IntFlag{Name: "max-parallel", Value: 8,
			Usage: "work on `N` domains at a time; of one file system, one merge runs at a time in any case"},
			&cli.StringFlag{Name: "verify", Value: "shared",
				Usage: "compare what a graft has built with the old layers: `shared` reads only what they do not share, full reads all"}),
		Description: "One run at a time works on a host. After an interruption, whatever its reason, the\n" +
			"next run finishes what was begun: nothing has to be cleaned up by hand.\n" +
			"SIGINT and SIGTERM end the running merge and leave a valid chain. Hooks of the policy\n" +
			"run before and after the work on a domain that has something to do; what each run did\n" +
			"is told by history.\n\n" + exitHelp,
		Action: func(c *cli.Context) error {
			o, err := options(c)
			if err != nil {
				return err
			}
			return withSession(e, false, func(s *session) error { return rotateDomains(e, c, s, o) })
		},
	}
}

func rotateDomains(e *env, c *cli.Context, s *session, o decide.Options) error {
	lock, err := rotate.Lock(s.rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := newProgress(e.err)
	s.rotator.Options, s.rotator.Report, s.rotator.Hook = o, p.report, runHook
	log := newRecorder("run", s.rotator.Observer.StateDir, p.warn)
	s.rotator.Ended = log.record
	plans, err := s.rotator.Run(c.Context, c.Args().Slice())
	p.end()
	if err == nil && len(plans) == 0 {
		fmt.Fprintln(e.err, "virt-rotate: no policy covers a domain of this host")
	}
	if plans == nil {
		return err
	}
	sum := decide.Summarize(plans)
	printed := e.print(c, planReport{plans, &sum, log.texts}, runText(worthTelling(e, plans), &sum))
	if err != nil {
		return &exitError{exitFailed, errors.Join(err, printed)}
	}
	return errors.Join(printed, plansExit(plans))
}

// worthTelling leaves out domains of which there is nothing to tell when a
// run's output goes to a log or to cron's mail.
func worthTelling(e *env, plans []decide.Plan) []decide.Plan {
	if isTerminal(e.out) {
		return plans
	}
	return slices.DeleteFunc(slices.Clone(plans), func(p decide.Plan) bool {
		return len(p.Steps)+len(p.Warnings) == 0 && (p.Result == decide.ResultNothing || p.Result == decide.ResultSkipped)
	})
}
