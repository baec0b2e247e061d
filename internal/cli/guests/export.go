package guests

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func exportCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write a disk of a snapshot, or the whole guest, to files of their own, guest running or not",
		ArgsUsage: "DOMAIN SNAPSHOT", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(),
			&cli.StringFlag{Name: "disk", Usage: "`TARGET` of the disk, such as vda; needed where the snapshot has several"},
			&cli.BoolFlag{Name: "all", Usage: "all disks and the configuration, into a new directory that import and verify read"},
			&cli.StringFlag{Name: "base", Usage: "with --all: only what changed since the export in `DIR`, which is beside the new one"},
			&cli.StringFlag{Name: "o", Usage: "the new `FILE`, or directory, which must not be there; - writes the raw disk to standard output"},
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: images.ExportFormatHelp, Value: "qcow2"},
			&cli.BoolFlag{Name: "compress", Usage: "compress the data"}),
		Description: `The layers of the snapshot are read as the guest saw them then, and become one image
without a backing file, which is compared with them at the end. The guest may run
and go on writing; a merge of the same layers is put off meanwhile and is done by a
later run. Blocks that the file system can share are not copied.

   virt-rotate export web nightly-20261122T033338Z -o web.qcow2
   virt-rotate export web nightly-20261122T033338Z --disk vdb -o - | ssh host 'cat > vdb.raw'

With --all DIR gets an image of each disk, domain.xml as libvirt has it on record with
the snapshot, manifest.json and SHA256SUMS; it has its name when all is there. No merge
of these layers can begin meanwhile. With --base the images are overlays on those of an
earlier export, which has to stay beside them:

   virt-rotate export web latest --all -o /srv/backup/web-1
   virt-rotate export web latest --all --base /srv/backup/web-1 -o /srv/backup/web-2
   virt-rotate verify /srv/backup/web-2

` + snapshotHelp + images.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			if c.Args().Len() != 2 || c.String("o") == "" {
				return term.Usagef("%s wants DOMAIN SNAPSHOT -o FILE; --help tells more", c.Command.HelpName)
			}
			r := images.NewRun(e, c, nil)
			if c.Bool("all") {
				return term.OneLine(r.Outcome(exportAll(r)))
			}
			if c.IsSet("base") {
				return term.Usagef("--base goes with --all")
			}
			return term.OneLine(r.Outcome(exportDisk(r)))
		},
	}
}

// exportDisk writes one disk of a snapshot.
func exportDisk(r *images.Run) (err error) {
	r.Hint = ": what was begun is removed, and the guest's images are as they were"
	l, nodes, err := oneDisk(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	if r.String("o") == "-" {
		if err := exportStream(r, nodes); err != nil {
			return err
		}
		return l.stillThere(r)
	}
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return err
	}
	if r.Bool("compress") && !format.Packs {
		return term.Usagef("--compress: images of format %s cannot be compressed", format.Name)
	}
	path, err := filepath.Abs(r.String("o"))
	if err != nil {
		return err
	}
	if err := convert.CheckFree(r.Store.FS, path); err != nil {
		return err
	}
	o := images.DefaultOptions(format)
	o.Size = images.Top(nodes).Image.VirtualSize
	c := &convert.Conversion{Nodes: nodes, Path: path, Format: format, New: o.New, Maker: o.Maker}
	c.Verify = true
	if err := r.Convert([]*convert.Conversion{c}); err != nil || r.Bool("dry-run") {
		return err
	}
	if err := l.stillThere(r); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// exportStream writes the raw disk to standard output.
func exportStream(r *images.Run, nodes []chain.Node) error {
	switch {
	case r.IsSet("output-format") && r.String("output-format") != "raw" || r.Bool("compress"):
		return term.Usagef("-o - writes a raw disk: nothing else can be written in a row")
	case r.Bool("dry-run"):
		return term.Usagef("-o - and --dry-run exclude each other")
	case term.IsTerminal(r.Out):
		return term.Usagef("-o -: standard output is a terminal")
	}
	r.Hint = ": what was written so far is not the whole disk"
	done, end := r.Progress("export", images.Top(nodes).Image.VirtualSize)
	err := r.Store.Stream(r.Ctx(), nodes, r.Out, done)
	end()
	return err
}
