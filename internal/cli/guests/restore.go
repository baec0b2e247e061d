package guests

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

func restoreCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "go back to a snapshot, keeping the others",
		ArgsUsage: "DOMAIN SNAPSHOT", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			term.OutputFlag(),
			&cli.StringSliceFlag{Name: "disk", Usage: "only the disk with this `TARGET`, such as vda, goes back; may be repeated"},
			&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
			&cli.BoolFlag{Name: "discard-newer", Usage: "give up the present state and all snapshots that were taken after that one"},
			&cli.BoolFlag{Name: "with-config", Usage: "the whole configuration goes back, too: memory, devices, boot order"},
			&cli.BoolFlag{Name: "stop", Usage: "shut a running guest down first, if nothing speaks against the rest; with --dry-run: tell what would be done then"},
			&cli.BoolFlag{Name: "no-firmware", Usage: "UEFI variables (NVRAM) and TPM state stay as they are"},
			&cli.BoolFlag{Name: "without-memory", Usage: "do not go on from the memory that the snapshot has: the guest boots, if it is to run"},
			&cli.BoolFlag{Name: "start", Usage: "let the guest run afterwards, also one that was off"},
			&cli.BoolFlag{Name: "no-start", Usage: "leave the guest off, which else runs again if --stop has shut it down, or goes on from the memory of the snapshot"},
			&cli.BoolFlag{Name: "force", Usage: "with --stop: pull the plug of one that does not obey"},
			&cli.DurationFlag{Name: "patience", Usage: "with --stop: how long the guest may take", Value: time.Minute},
		},
		Description: `The guest must be off. With --stop it is shut down, once it is certain that nothing
speaks against the rest: a restore that is refused leaves it running; and it runs again
afterwards, unless --no-start is said. Each disk of the
snapshot gets a new overlay on the layer that holds its state, all disks or none; a disk
that was taken out of the guest since stays out, and is named. With --disk only the
disks that are named go back. A disk that is not named, that the snapshot was taken
without or that came later stays as it is now, which is told: the guest's disks are of
different moments then. The layers above stay as a branch with their snapshots, which
retention goes on to count. The present state is kept as a snapshot of its own, unless
nothing was written since one. Only disks go back, and with --with-config the rest of the
configuration, as libvirt has it on record with the snapshot. UEFI variables (NVRAM) and
the state of an emulated TPM go back with the disks, where the snapshot has a copy of
them; with --disk, or --no-firmware, they stay.

From a snapshot that has the guest's memory (snapshot --memory) the guest goes on where it
was, also one that was off; its clock has the time of then. It has the devices of then
until it is started anew. With --no-start only the disks go back, with --without-memory
the guest boots from them if it is to run, and with --disk the memory is of no use. If
it cannot go on, it is off, on the disks of the snapshot. The memory stays with the
snapshot, for another time.

   virt-rotate restore --dry-run web latest
   virt-rotate restore --stop --dry-run web nightly-20261122T033338Z
   virt-rotate restore --stop web nightly-20261122T033338Z
   virt-rotate restore --disk vdb --disk vdc web nightly-20261122T033338Z

` + snapshotHelp + term.ExitHelp,
		Action: func(c *cli.Context) error {
			switch {
			case c.Args().Len() != 2:
				return term.Usagef("%s wants DOMAIN SNAPSHOT; --help tells more", c.Command.HelpName)
			case c.Bool("force") && !c.Bool("stop"):
				return term.Usagef("--force goes with --stop")
			case c.Bool("start") && c.Bool("no-start"):
				return term.Usagef("--start and --no-start exclude each other")
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.With(e, true, func(s *session.Session) error { return restoreDomain(e, c, s) })
		},
	}
}

func restoreOptions(c *cli.Context) decide.RestoreOptions {
	o := decide.RestoreOptions{Disks: c.StringSlice("disk"), DiscardNewer: c.Bool("discard-newer"), WithConfig: c.Bool("with-config"), Plan: c.Bool("dry-run"),
		Start: c.Bool("start"), NoStart: c.Bool("no-start"), NoFirmware: c.Bool("no-firmware"), WithoutMemory: c.Bool("without-memory")}
	if c.Bool("stop") {
		o.Stop = &decide.StopOptions{Force: c.Bool("force"), Patience: c.Duration("patience")}
	}
	return o
}

func restoreDomain(e *term.Env, c *cli.Context, s *session.Session) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := term.NewProgress(e.Err)
	log := newRecorder("restore", s.Rotator.Observer.StateDir, p.Warn)
	s.Rotator.Report, s.Rotator.Ended = p.Report, log.record
	plan, err := s.Rotator.Restore(c.Context, c.Args().Get(0), c.Args().Get(1), restoreOptions(c))
	p.End()
	if err != nil {
		return asUsage(err)
	}
	plans := []decide.Plan{plan}
	return errors.Join(e.Print(c, PlanReport{Domains: plans, Warnings: log.texts}, plansText(plans)), plansExit(plans))
}

// asUsage makes names that are not there errors of usage.
func asUsage(err error) error {
	if isNoName(err) {
		return term.Usagef("%w", err)
	}
	return fmt.Errorf("restore: %w", err)
}
