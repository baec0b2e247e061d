package guests

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// PlanReport is the JSON of plan and run.
type PlanReport struct {
	Domains  []decide.Plan   `json:"domains"`
	Summary  *decide.Summary `json:"summary,omitempty"`  // of a run
	Warnings []string        `json:"warnings,omitempty"` // of a run as a whole
}

func rotationFlags() []cli.Flag {
	return []cli.Flag{
		term.OutputFlag(),
		&cli.BoolFlag{Name: "no-snapshot", Usage: "take no snapshot, only shorten chains"},
		&cli.BoolFlag{Name: "detach", Usage: "pull the disks of the named domains off images that they share with others"},
		&cli.BoolFlag{Name: "now", Usage: "take a snapshot whatever the policy's every says"},
	}
}

func options(c *cli.Context) (decide.Options, error) {
	o := decide.Options{NoSnapshot: c.Bool("no-snapshot"), IgnoreEvery: c.Bool("now"), Detach: c.Bool("detach")}
	if o.Detach && c.NArg() == 0 {
		return o, term.Usagef("--detach wants the names of domains: it copies all that they share with others")
	}
	if o.NoSnapshot && o.IgnoreEvery {
		return o, term.Usagef("--now and --no-snapshot exclude each other")
	}
	switch v := c.String("verify"); v {
	case "", "shared":
	case "full":
		o.VerifyFull = true
	default:
		return o, term.Usagef("--verify wants shared or full, not %q", v)
	}
	if c.IsSet("max-parallel") {
		if o.MaxParallel = c.Int("max-parallel"); o.MaxParallel < 1 {
			return o, term.Usagef("--max-parallel wants a number of at least 1")
		}
	}
	return o, term.CheckOutput(c)
}

func planCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "tell what run would do, and why; change nothing",
		ArgsUsage: "[DOMAIN…]", OnUsageError: term.UsageError,
		Flags: append(rotationFlags(), &cli.StringFlag{Name: "simulate", Usage: "tell which snapshots there would be over that `TIME`, such as 90d, if the guests ran throughout"}),
		Description: "The steps are exactly those that run carries out on an unchanged host. Sizes are\n" +
			"what a step may cost: the space that an overlay may need, the data that a merge\n" +
			"copies at most, what deleting a file gives back.\n\n" +
			"With --simulate, time goes by: what each day would take and drop, and what would be there\n" +
			"at the end, from the snapshots of today on.\n\n" +
			"   virt-rotate plan --simulate 90d web-1\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			o, err := options(c)
			if err != nil {
				return err
			}
			if c.IsSet("simulate") {
				return simulate(e, c)
			}
			return session.WithLook(e, false, func(l *session.Look) error {
				plans, err := l.Plan(c.Context, o, c.Args().Slice())
				if err != nil {
					return err
				}
				if len(plans) == 0 {
					fmt.Fprintln(e.Err, "virt-rotate: no policy covers a domain of this host")
				}
				return errors.Join(e.Print(c, PlanReport{Domains: plans}, plansText(plans)), plansExit(plans))
			})
		},
	}
}
