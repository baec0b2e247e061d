package guests

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// byHandFlags are those of all commands by which a person asks for snapshots, or for their end.
func byHandFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{term.OutputFlag(), &cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"}}, more...)
}

func snapshotCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "snapshot", Usage: "take a snapshot by hand, and keep it as long as you want",
		ArgsUsage: "DOMAIN…", OnUsageError: term.UsageError,
		Flags: byHandFlags(
			&cli.StringFlag{Name: "name", Usage: "the snapshot's `NAME` (default: the policy's name and the time)"},
			&cli.StringFlag{Name: "note", Usage: "a `TEXT` that is kept with it, such as why it was taken"},
			&cli.BoolFlag{Name: "pin", Usage: "it stays until unpin, whatever retention says"},
			&cli.StringFlag{Name: "expire", Usage: "it stays for that `TIME`, such as 30d, or until a date, and goes with a run afterwards, whatever retention says"},
			&cli.BoolFlag{Name: "memory", Usage: "keep the memory of the guest, too, which must run: restore goes on from there"},
			&cli.StringFlag{Name: "quiesce", Usage: "`yes`, no or auto: whether the guest freezes its file systems (default: as the policy says; auto without one)"}),
		Description: `Takes one snapshot of each domain, which may be running or off, and does nothing else.
It is taken as the policy of the domain says (disks, overlay_dir, hooks, quiesce); domains
without a policy are fine. Retention goes on to count a snapshot that is neither pinned
nor expires, and drops it in its turn; no rule counts those that are. What expires
goes with the next run, also from domains without a policy.

With --memory libvirt saves the guest's memory to a file beside the overlays, of the same
moment as the disks. The guest runs while it is written, and stands still for the last
moment, which is told; where there is no room for twice its memory, for all of the time.
Its file systems are not frozen then: what they have in memory is in the file. A guest
that QEMU cannot save, such as one with a host's PCI device, is refused by libvirt, and
goes on. The file goes with the snapshot.

   virt-rotate snapshot --name before-upgrade --note 'kernel 6.12' --pin web-1
   virt-rotate snapshot --expire 30d 'web-*'
   virt-rotate snapshot --memory --name before-migration --pin db-1

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			take, err := takingOf(e, c)
			if err != nil {
				return err
			}
			return byHand(e, c, c.Args().Slice(), decide.ByHand{Take: take})
		},
	}
}

// takingOf reads what is wanted of a snapshot.
func takingOf(e *term.Env, c *cli.Context) (*decide.Taking, error) {
	t := &decide.Taking{Name: c.String("name"), Note: c.String("note"), Pinned: c.Bool("pin"), Memory: c.Bool("memory")}
	switch fault := host.NoteFault(t.Note); {
	case c.NArg() == 0:
		return nil, term.Usagef("%s wants DOMAIN…; --help tells more", c.Command.HelpName)
	case c.IsSet("name") && !decide.IsSnapshotName(t.Name):
		return nil, term.Usagef("--name %q: want letters, digits, '_', '-' and '.', at most %d, and nothing that means a snapshot already, such as latest or a date", t.Name, decide.LongestName)
	case fault != "":
		return nil, term.Usagef("--note: %s", fault)
	case t.Pinned && c.IsSet("expire"):
		return nil, term.Usagef("--pin and --expire exclude each other")
	}
	var err error
	if t.Expires, err = until("--expire", c.String("expire"), e.Clock()); err != nil {
		return nil, err
	}
	if c.IsSet("quiesce") {
		if err := t.Quiesce.UnmarshalText([]byte(c.String("quiesce"))); err != nil {
			return nil, term.Usagef("--quiesce %w", err)
		}
		if t.Memory && t.Quiesce == policy.QuiesceYes {
			return nil, term.Usagef("--memory and --quiesce yes exclude each other: libvirt freezes no guest whose memory it saves, and what the file systems have in memory is saved with it")
		}
	}
	return t, nil
}

func deleteCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "drop snapshots now, as retention would",
		ArgsUsage: "DOMAIN SNAPSHOT…", OnUsageError: term.UsageError,
		Flags: byHandFlags(&cli.BoolFlag{Name: "foreign", Usage: "also those that virt-rotate did not take"}),
		Description: `The layers that nobody needs then are merged while the guest runs, or by the engine
when it is off, as a run does it: whatever the time of day, and whatever the policy says of
guests that are off. The other snapshots stay as they are. What is pinned is refused,
and what virt-rotate did not take, unless --foreign says that nobody needs it.

   virt-rotate delete --dry-run web-1 before-upgrade
   virt-rotate delete web-1 before-upgrade nightly-20261122T033338Z

` + snapshotHelp + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.NArg() < 2 {
				return term.Usagef("%s wants DOMAIN SNAPSHOT…; --help tells more", c.Command.HelpName)
			}
			return byHand(e, c, c.Args().Slice()[:1], decide.ByHand{Drop: c.Args().Slice()[1:], Foreign: c.Bool("foreign")})
		},
	}
}

func pruneCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "apply other retention rules once",
		ArgsUsage: "DOMAIN…", OnUsageError: term.UsageError,
		Flags: byHandFlags(&cli.StringSliceFlag{Name: "keep", Usage: "`RULE=N`, one or several, such as last=3,daily=7: the rules are last, hourly, daily, weekly, monthly and yearly"}),
		Description: `Drops the snapshots that none of the rules keeps, as a run does by the rules of the
policy, which stay as they are. What is pinned, what has yet to expire, and what
virt-rotate did not take stays. Domains without a policy are fine. last=0 keeps none.

   virt-rotate prune --keep last=3,daily=7 --dry-run web-1
   virt-rotate prune --keep last=1 'test-*'

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 || !c.IsSet("keep") {
				return term.Usagef("%s wants --keep RULE=N DOMAIN…; --help tells more", c.Command.HelpName)
			}
			keep, err := policy.ParseKeep(strings.Join(c.StringSlice("keep"), ","))
			if err != nil {
				return term.Usagef("--keep: %w", err)
			}
			return byHand(e, c, c.Args().Slice(), decide.ByHand{Prune: &keep})
		},
	}
}

// byHand does what is asked for to the domains, and tells it as a run does.
func byHand(e *term.Env, c *cli.Context, domains []string, hand decide.ByHand) error {
	if err := term.CheckOutput(c); err != nil {
		return err
	}
	return session.With(e, true, func(s *session.Session) error {
		if err := fullNames(e, c, s, domains[0], hand.Drop); err != nil {
			return err
		}
		s.Rotator.Match = decide.CoverAll(s.Rotator.Match, domains)
		s.Rotator.Options.ByHand = &hand
		if c.Bool("dry-run") {
			return planByHand(e, c, s, domains)
		}
		return runByHand(e, c, s, domains)
	})
}

func planByHand(e *term.Env, c *cli.Context, s *session.Session, domains []string) error {
	plans, _, err := s.Rotator.Plan(c.Context, domains)
	if err != nil {
		return byHandError(err)
	}
	return errors.Join(e.Print(c, PlanReport{Domains: plans}, plansText(plans)), plansExit(plans))
}

func runByHand(e *term.Env, c *cli.Context, s *session.Session, domains []string) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := term.NewProgress(e.Err)
	log := newRecorder(c.Command.Name, s.Rotator.Observer.StateDir, p.Warn)
	s.Rotator.Report, s.Rotator.Hook = p.Report, runHook
	s.Rotator.Ended = func(plan decide.Plan) { p.Over(plan.Domain); log.record(plan) }
	plans, err := s.Rotator.Run(c.Context, domains)
	p.End()
	if plans == nil {
		return byHandError(err)
	}
	sum := decide.Summarize(plans)
	printed := e.Print(c, PlanReport{plans, &sum, log.texts}, runText(plans, &sum))
	if err != nil {
		return &term.ExitError{Code: term.ExitFailed, Err: errors.Join(err, printed)}
	}
	return errors.Join(printed, plansExit(plans))
}

// byHandError makes names that are not there errors of usage.
func byHandError(err error) error {
	if isNoName(err) {
		return term.Usagef("%w", err)
	}
	return err
}

// isNoName tells whether there is no domain or snapshot of a name.
func isNoName(err error) bool {
	return errors.Is(err, observe.ErrNoSuchDomain) || errors.Is(err, observe.ErrNoSuchSnapshot)
}

// fullNames replaces what was typed for snapshots by their names, and tells which they are.
func fullNames(e *term.Env, c *cli.Context, s *session.Session, domain string, snapshots []string) error {
	if len(snapshots) == 0 {
		return nil
	}
	w, err := s.Rotator.Observer.Observe(c.Context)
	if err != nil {
		return err
	}
	for i, text := range snapshots {
		_, found, err := w.Named(domain, text, e.Clock())
		if err != nil {
			return byHandError(err)
		}
		tellMeant(e, text, found.Name)
		snapshots[i] = found.Name
	}
	return nil
}

// until reads a time of the host's zone, or how long it is until then; "" is the zero Time.
func until(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, known := timeOf(text)
	if d, err := policy.ParseDuration(text); !known && err == nil {
		at, known = now.Add(d), true
	}
	switch {
	case !known:
		return time.Time{}, term.Usagef(`%s %q: want a duration such as 30d or 12h, or a time such as 2027-01-31 or "2027-01-31 03:00"`, flag, text)
	case !at.After(now):
		return time.Time{}, term.Usagef("%s %q: that is not in the future", flag, text)
	}
	return at.Truncate(time.Second), nil
}

// describedText tells of one snapshot what a person said about it.
func describedText(m host.Mark) string {
	text := "retention decides"
	switch {
	case m.Pinned:
		text = "pinned"
	case !m.Expires.IsZero():
		text = "expires " + m.Expires.Local().Format("2006-01-02 15:04")
	}
	if m.Note != "" {
		text += fmt.Sprintf(", %q", m.Note)
	}
	return text
}
