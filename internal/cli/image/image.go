package image

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

const description = `The image engine, for images that no guest uses. Arguments, output and exit
statuses are those of qemu-img where it has the command; docs/image.md tells the
differences. ` + images.GuessHelp + ` Backing files are looked for
in the directory of the image and in those of --allow.

   virt-rotate image info --backing-chain web.qcow2
   virt-rotate image commit --dry-run web.snap1.qcow2

` + images.ExitHelp

// Command is image, with its subcommands.
func Command(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "image", Usage: "look at, check, convert and merge images that no guest uses", OnUsageError: term.UsageError,
		Description: description, HideHelpCommand: true,
		Subcommands: []*cli.Command{
			infoCommand(e), mapCommand(e), checkCommand(e), compareCommand(e), measureCommand(e),
			createCommand(e), convertCommand(e), amendCommand(e), resizeCommand(e), snapshotCommand(e), compactCommand(e), unfoldCommand(e),
			commitCommand(e), pullCommand(e), rebaseCommand(e), bitmapCommand(e),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("image %q: want info, map, check, compare, measure, create, convert, amend, resize, snapshot, compact, unfold, commit, pull, rebase or bitmap", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}
