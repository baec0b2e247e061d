package sr

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func repairCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "repair", Usage: "take back what a crashed host has left on the nodes",
		ArgsUsage: "--not-in-use DIR", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(),
			&cli.BoolFlag{Name: "not-in-use", Usage: "no host uses the repository: take the marks of use off all nodes"}),
		Description: `A tapdisk of a XenServer host overwrites the end of a VHD that it writes to with a mark,
or with blocks; a host that crashed leaves it so, and such disks are neither converted nor
coalesced. With --not-in-use each gets its footer back, which is at its beginning, too;
nothing else is changed. At a crash a node has the one or the other.

It is refused while the repository can be seen to be in use: by what the processes of this
host have open, by locks, and, where other hosts can have it, by what was written within
two minutes. A node that is cut off or damaged besides is left as it is, and told.

   virt-rotate sr repair --not-in-use --dry-run /srv/sr

` + exitHelp,
		Action: func(c *cli.Context) error {
			if !c.Bool("not-in-use") && c.Args().Present() {
				return term.Usagef("sr repair wants --not-in-use, your word that no host uses the repository")
			}
			return action(e, repairRepository)(c)
		},
	}
}

// repairReport is the JSON of sr repair.
type repairReport struct {
	Path     string              `json:"path"`
	DryRun   bool                `json:"dry-run"`
	Released []string            `json:"released"` // nodes that have their footer again
	Failed   []vhdbridge.Spoiled `json:"failed"`
}

func repairRepository(r *images.Run, repo *vhdbridge.Repository) (err error) {
	here := vhdbridge.ThisHost()
	if err := errors.Join(here.Refuse(repo), here.Elsewhere(repo, r.Clock(), true)); err != nil {
		return err
	}
	dry := r.Bool("dry-run")
	if !dry {
		lock, err := vfs.AcquireRunLock(filepath.Join(repo.Dir, vhdbridge.LockName))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	done := vhdbridge.Release(r.Store, repo, dry)
	report := repairReport{repo.Dir, dry, append([]string{}, done.Nodes...), append([]vhdbridge.Spoiled{}, done.Failed...)}
	if !r.Bool("quiet") || r.String("output") == "json" {
		err = r.Print(r.Context, report, func(w io.Writer) { repairText(w, &report) })
	}
	if err == nil && len(report.Failed) > 0 {
		err = &term.ExitError{Code: term.ExitSome}
	}
	return err
}

func repairText(w io.Writer, p *repairReport) {
	verb := "took the mark of use off"
	if p.DryRun {
		verb = "would take the mark of use off"
	}
	for _, name := range p.Released {
		fmt.Fprintf(w, "%s %s\n", verb, term.Printable(name))
	}
	for _, f := range p.Failed {
		fmt.Fprintf(w, "left as it is: %s: %s\n", term.Printable(f.Node), term.Printable(f.Reason))
	}
	if len(p.Released)+len(p.Failed) == 0 {
		fmt.Fprintln(w, "nothing to do")
	}
}
