package guests

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

func migrateCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "migrate", Usage: "move a guest with its snapshots to another host",
		ArgsUsage: "DOMAIN DESTURI [-- OPTION...]", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			term.OutputFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
		},
		Description: `libvirt moves no guest that has snapshots, whose metadata stays on its host. This command puts
that on record, lets libvirt forget it, moves the guest with virsh migrate (--live --persistent
--undefinesource --p2p; of a guest that is off --offline in place of --live), and has the
metadata written on the other host, which owns the guest from then on. All images have to be
on storage that both hosts have by the same paths. DESTURI is the other host's libvirt, as this
host's libvirtd reaches it. What stands after -- goes to virsh migrate: a MIGRATEURI, or options
such as --tunnelled, --auto-converge, --bandwidth 100. Those that copy storage, or give the
guest another name or configuration, are refused.

If the migration fails, the snapshots are put back at once. If it is cut off anywhere, the
record stays, on the storage and in the state directory; the next run of virt-rotate, on the
host that has the guest then, puts the snapshots there, and nothing of the guest is changed
until that is done. Other runs on this host wait meanwhile.

   virt-rotate migrate --dry-run web qemu+ssh://kvm2/system
   virt-rotate migrate web qemu+ssh://kvm2/system
   virt-rotate migrate web qemu+tls://kvm2/system -- tcp://10.0.0.2 --auto-converge

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() < 2 {
				return term.Usagef("%s wants a DOMAIN and a DESTURI; --help tells more", c.Command.HelpName)
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			if err := libvirthost.CanMigrate(); err != nil {
				return fmt.Errorf("migrate: nothing was changed: %w", err)
			}
			return session.With(e, true, func(s *session.Session) error { return migrateDomain(e, c, s) })
		},
	}
}

func migrateDomain(e *term.Env, c *cli.Context, s *session.Session) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := term.NewProgress(e.Err)
	log := newRecorder("migrate", s.Rotator.Observer.StateDir, p.Warn)
	s.Rotator.Report, s.Rotator.Ended = p.Report, log.record
	options := c.Args().Slice()[2:]
	if len(options) > 0 && options[0] == "--" {
		options = options[1:]
	}
	plan, err := s.Rotator.Migrate(c.Context, c.Args().First(), rotate.MoveOptions{To: c.Args().Get(1), Options: options, Plan: c.Bool("dry-run")})
	p.End()
	if isNoName(err) {
		return term.Usagef("%w", err)
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	plans := []decide.Plan{plan}
	return errors.Join(e.Print(c, PlanReport{Domains: plans, Warnings: log.texts}, plansText(plans)), plansExit(plans))
}
