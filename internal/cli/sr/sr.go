package sr

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
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
(VHD-UUID, LV-UUID, QCOW2-UUID). Scan, report, check and convert also take the physical volumes of
a repository on LVM (PV), devices or copies of such in files, raw or qcow2: they need no LVM,
and only read. A node that is damaged, an orphan or in use spoils its
own tree only.

   virt-rotate sr scan /srv/sr
   virt-rotate sr coalesce --dry-run --leaf /srv/sr
   virt-rotate sr convert /srv/sr --to /var/lib/libvirt/images

` + exitHelp

// Command is sr, with its subcommands.
func Command(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "sr", Usage: "look at, show, check, coalesce, convert, repair and pull XenServer storage repositories", OnUsageError: term.UsageError,
		Description: description, HideHelpCommand: true,
		Subcommands: []*cli.Command{scanCommand(e), reportCommand(e), checkCommand(e), coalesceCommand(e), convertCommand(e), repairCommand(e), pullCommand(e)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("sr %q: want scan, report, check, coalesce, convert, repair or pull", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}
