package guests

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func adoptCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "adopt", Usage: "make a guest of another host this host's; or external snapshots of its internal ones",
		ArgsUsage: "DOMAIN", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			term.OutputFlag(),
			&cli.BoolFlag{Name: "internal", Usage: "of internal snapshots, which are inside the images"},
			&cli.StringFlag{Name: "down", Usage: "the `HOST` that had the guest is down, and does not start it again by itself"},
			&cli.BoolFlag{Name: "drop-memory", Usage: "do not write the saved memory of a guest that ran to a file"},
			&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
		},
		Description: `Of a guest on storage that other hosts have, too, one host is the owner: it takes snapshots
and merges, and the others leave it alone. A guest that comes with all that its host has of
it is followed without a word. This command is for one whose host died, or still has it
defined. It refuses where another host has told that it runs the guest, unless --down names
that host, and from a definition that is older than what the guest wrote to last, or on whose
layer another one builds. Of a guest that is this host's already it tells the others whether
it runs, and on what layers. A host that comes back with an older claim leaves the guest
alone, and says so. docs/fleet.md tells more.

   virt-rotate adopt web
   virt-rotate adopt --down kvm1 web

With --internal, the guest must be off. In all its images at once, each internal snapshot becomes a
layer of a chain, beside the image or in the policy's overlay_dir, and so does what the
guest sees now. Each is compared with its state before the guest is put on the layers.
libvirt then lists the same snapshots, with their times, descriptions and parents, as
external ones of disks alone; snapshots that only an image knew are listed, too. The
images stay as they were, with all that is in them, until you remove them. Saved memory
is kept in a file beside the layers, from which libvirt does not resume.

The snapshots are not virt-rotate's own: they stay until somebody deletes them. restore,
export, ls and the like know them as all others. An adoption that was cut off is finished
by the same command; until then the guest is not rotated.

   virt-rotate adopt --internal --dry-run web
   virt-rotate adopt --internal web

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			switch {
			case c.Args().Len() != 1:
				return term.Usagef("%s wants one DOMAIN; --help tells more", c.Command.HelpName)
			case c.Bool("drop-memory") && !c.Bool("internal"):
				return term.Usagef("--drop-memory is for --internal")
			case c.IsSet("down") && c.Bool("internal"):
				return term.Usagef("--down and --internal exclude each other")
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.With(e, true, func(s *session.Session) error { return adoptDomain(e, c, s) })
		},
	}
}

func adoptDomain(e *term.Env, c *cli.Context, s *session.Session) error {
	lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := term.NewProgress(e.Err)
	log := newRecorder("adopt", s.Rotator.Observer.StateDir, p.Warn)
	s.Rotator.Report, s.Rotator.Ended = p.Report, log.record
	plan, err := adoption(c, s.Rotator)
	p.End()
	if isNoName(err) {
		return term.Usagef("%w", err)
	}
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	plans := []decide.Plan{plan}
	return errors.Join(e.Print(c, PlanReport{Domains: plans, Warnings: log.texts}, adoptText(plans)), plansExit(plans))
}

// adoption is what is asked for: of the guest, or of its internal snapshots.
func adoption(c *cli.Context, r *rotate.Rotator) (decide.Plan, error) {
	domain, dry := c.Args().First(), c.Bool("dry-run")
	if c.Bool("internal") {
		return r.Adopt(c.Context, domain, decide.AdoptOptions{DropMemory: c.Bool("drop-memory"), Plan: dry})
	}
	return r.TakeOver(c.Context, domain, c.String("down"), dry)
}

// adoptText is plansText with what becomes of the images.
func adoptText(plans []decide.Plan) func(io.Writer) {
	return func(w io.Writer) {
		plansText(plans)(w)
		for _, k := range plans[0].Kept {
			fmt.Fprintf(w, "  %-13s  %s\n", "kept", keptText(&k, plans[0].Result == decide.ResultDone))
		}
	}
}

// keptText tells of an image that stays, and once all is done how to be rid of it.
func keptText(k *decide.Kept, done bool) string {
	text := fmt.Sprintf("%s (%s) stays as it is", term.Printable(k.Path), host.Bytes(k.Bytes))
	switch {
	case k.UsedBy != "":
		return text + ", and " + term.Printable(k.UsedBy) + " needs it"
	case done:
		return text + "; when you are sure that all is well: rm " + term.Printable(host.Quoted(k.Path))
	}
	return text
}
