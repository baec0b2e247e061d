package image

import (
	"errors"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func convertCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "convert", Usage: "copy a disk into a new image, of whatever format",
		ArgsUsage: "FILE NEWFILE", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), convertCompat()...), images.FormatFlag(), images.RateFlag(),
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: images.ConvertFormatHelp},
			&cli.BoolFlag{Name: "compress", Aliases: []string{"c"}, Usage: "compress the data"},
			&cli.StringFlag{Name: "sparse", Aliases: []string{"S"}, Usage: "0: copy zeros that are data, too; any other `SIZE`, and by default: leave them out", Value: "4k", DefaultText: " "},
			&cli.StringFlag{Name: "backing", Aliases: []string{"B"}, Usage: "the new image builds on `BACKING`, which FILE builds on, and has only what FILE has itself"},
			&cli.StringFlag{Name: "backing-format", Aliases: []string{"F"}, Usage: "`FORMAT` of BACKING"},
			&cli.StringFlag{Name: "snapshot", Aliases: []string{"l"}, Usage: "convert the internal snapshot `SNAPSHOT`, a name or an ID, or snapshot.id=ID,snapshot.name=NAME"},
			&cli.BoolFlag{Name: "bitmaps", Usage: "copy the persistent bitmaps of FILE, too, as they are"},
			&cli.BoolFlag{Name: "skip-broken-bitmaps", Usage: "with --bitmaps: leave out those that were not saved by the program that used them last"},
			&cli.BoolFlag{Name: "chain", Usage: "convert all layers, each into a file of its own in the directory NEWFILE"},
			&cli.BoolFlag{Name: "no-create", Aliases: []string{"n"}, Usage: "write into NEWFILE, an image or device that is there and large enough"},
			&cli.BoolFlag{Name: "target-is-zero", Usage: "with -n: NEWFILE reads as zeros already"},
			optionsFlag(), images.ScanFlag(), images.IgnoreFlag(), images.AllowFlag(), images.ShareFlag()),
		Description: `The new image is written under a temporary name, made durable and then renamed: it
is there whole or not at all. A file that is there stays whole until then, and gives
the new one its owner and mode; it is left alone if anybody uses it, or another image
builds on it. With -n, and on a device, what is there is written over in place: what
is zeros is discarded, where zeros are read then, and what lies behind the end of the
disk stays. Options are those of image create.

   virt-rotate image convert -f raw -O qcow2 web.img web.qcow2
   virt-rotate image convert -c -O qcow2 -o compression_type=zstd web.qcow2 backup.qcow2
   virt-rotate image convert -n -O raw web.qcow2 /dev/vg0/web
   virt-rotate image convert --chain web.snap3.qcow2 newdir

` + images.ExitHelp,
		Action: images.Action(e, 2, 2, convertImage),
	}
}

func convertImage(r *images.Run) error {
	if r.Bool("salvage") {
		return term.Usagef("--salvage: an image that cannot be read in full is not copied as if it could; ddrescue copies what there is of a raw disk")
	}
	r.Hint = ": what was begun is removed, and what was there is as it was"
	format, o, err := convertOptions(r)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(r.Arg(1))
	if err != nil {
		return err
	}
	nodes, err := r.Readable(r.Arg(0), r.Format())
	if err != nil {
		return err
	}
	if err := checkBitmaps(r, nodes, format, o); err != nil {
		return err
	}
	if r.Bool("chain") {
		if r.IsSet("snapshot") {
			return term.Usagef("--chain keeps layers, and an internal snapshot is none: image unfold makes layers of all")
		}
		return convertChain(r, nodes, path, format, o)
	}
	c := &convert.Conversion{Nodes: nodes, Path: path, Format: format, New: o.New, Maker: o.Maker, Room: o.Room}
	c.New.Size = images.Top(nodes).Image.VirtualSize
	if o.Backing != "" {
		if err := onBacking(r, c); err != nil {
			return err
		}
	}
	if r.IsSet("snapshot") {
		if err := pickState(r, c); err != nil {
			return err
		}
	}
	if overwrites(r, path, format) {
		return convertInto(r, c)
	}
	return convertNew(r, c)
}

// convertNew makes a new image, in the place of an old file if there is one.
func convertNew(r *images.Run, c *convert.Conversion) (err error) {
	if c.Old, err = convert.HoldOld(r.Store, c.Path, c.Nodes, r.StringSlice("scan")); err != nil {
		return err
	}
	return errors.Join(r.Convert([]*convert.Conversion{c}), c.Old.Release())
}

// convertOptions are format and options of what is made.
func convertOptions(r *images.Run) (*formats.Format, *images.Options, error) {
	name := r.String("output-format")
	switch {
	case name == "" && r.Bool("chain"):
		name = "qcow2"
	case name == "":
		name = "raw"
	}
	format, err := formats.Named(name)
	if err != nil {
		return nil, nil, err
	}
	if _, err := formats.ParseSize(r.String("sparse")); err != nil {
		return nil, nil, term.Usagef("-S %s: %w", r.String("sparse"), err)
	}
	if r.Bool("compress") && !format.Packs {
		return nil, nil, term.Usagef("-c: images of format %s cannot be compressed", name)
	}
	if err := checkInPlace(r); err != nil {
		return nil, nil, err
	}
	o, err := optionsOf(r, format)
	if err == nil && o.Room != chain.RoomNone && (r.Bool("compress") || r.Bool("chain")) {
		err = term.Usagef("-o preallocation: an image that is compressed, or a layer of a chain, has room for what it is to have itself only")
	}
	if err == nil && o.Sized {
		err = term.Usagef("-o size: the new disk has the size of the source; image resize changes it")
	}
	if err == nil {
		err = backingOptions(r, o, format)
	}
	return format, o, err
}

// convertCompat are hidden options of qemu-img convert: copies are made by the kernel, several
// at once and in any order, whatever is said.
func convertCompat() []cli.Flag {
	return append(append(images.TargetCompat(), images.SourceCompat()[0]),
		&cli.BoolFlag{Name: "copy-offload", Aliases: []string{"C"}, Hidden: true},
		&cli.BoolFlag{Name: "out-of-order", Aliases: []string{"W"}, Hidden: true},
		&cli.StringFlag{Name: "coroutines", Aliases: []string{"m"}, Hidden: true},
		&cli.BoolFlag{Name: "target-image-opts", Hidden: true},
		&cli.BoolFlag{Name: "salvage", Hidden: true})
}
