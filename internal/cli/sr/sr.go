package sr

import (
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

const exitHelp = `Exit status:
   0  done, or nothing to do
   1  failed, or interrupted; the same command goes on
   2  wrong usage
   3  some trees are damaged, in use or failed; the others are done
   4  refused because it would not be safe; nothing was changed
   5  another run works on the repository`

const description = `Storage repositories of XenServer and XCP-ng, detached from their hosts: directories
of VHDs (UUID.vhd, UUID.raw, UUID.qcow2), or of logical volumes or copies of such
(VHD-UUID, LV-UUID, QCOW2-UUID). A node that is damaged, an orphan or in use spoils its
own tree only.

   virt-rotate sr scan /srv/sr
   virt-rotate sr coalesce --dry-run --leaf /srv/sr
   virt-rotate sr convert /srv/sr --to /var/lib/libvirt/images

` + exitHelp

// Command is sr, with its subcommands.
func Command(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "sr", Usage: "look at, check, coalesce and convert XenServer storage repositories", OnUsageError: term.UsageError,
		Description: description, HideHelpCommand: true,
		Subcommands: []*cli.Command{scanCommand(e), checkCommand(e), coalesceCommand(e), convertCommand(e)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("sr %q: want scan, check, coalesce or convert", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// action wraps what an sr command does with the repository that is its argument.
func action(e *term.Env, do func(r *images.Run, repo *vhdbridge.Repository) error) cli.ActionFunc {
	return images.Action(e, 1, 1, func(r *images.Run) error {
		dir, err := filepath.Abs(r.Arg(0))
		if err != nil {
			return err
		}
		r.Store.Locate = vhdbridge.Locate
		repo, err := vhdbridge.Scan(r.Store.FS, dir, vhdbridge.Readers())
		if err != nil {
			return err
		}
		if len(repo.Nodes) == 0 {
			return &chain.RefusedError{Path: dir, Reason: "no node of a storage repository is there"}
		}
		return do(r, repo)
	})
}
