package image

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func createCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make an empty image; an existing file is left alone",
		ArgsUsage: "FILE [SIZE]", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), images.TargetCompat()[1]),
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: images.CreateFormatHelp, Value: "raw"},
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "build on `FILE`; a relative name counts from the directory of the new image"},
			&cli.StringFlag{Name: "backing-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the backing file; it must be told with -b"},
			&cli.BoolFlag{Name: "unsafe", Aliases: []string{"u"}, Usage: "the backing file need not be there; SIZE must be told"},
			optionsFlag(), images.AllowFlag()),
		Description: `Unlike qemu-img, create never overwrites a file, and a new image is for its owner
alone (mode 0600). SIZE is in bytes, or has a suffix: K, M, G, T, P, E; without it
the new image is as large as its backing file. ` + images.CreateOptionsHelp + `

   virt-rotate image create -f qcow2 -o cluster_size=128k web.qcow2 20G
   virt-rotate image create -f qcow2 -b web.qcow2 -F qcow2 clone.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 2, createImage),
	}
}

func optionsFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "`NAME=VALUE`, of the new image; several are joined by commas"}
}

// optionsOf takes -o apart.
func optionsOf(r *images.Run, format *formats.Format) (*images.Options, error) {
	list, err := parseOptions(r.StringSlice("options"), format.Options, format.Name)
	if err != nil {
		return nil, err
	}
	o := images.DefaultOptions(format)
	for _, opt := range list {
		if err := o.Set(opt.key, opt.value); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func createImage(r *images.Run) error {
	path, err := filepath.Abs(r.Arg(0))
	if err != nil {
		return err
	}
	format, err := formats.Named(r.Format())
	if err != nil {
		return err
	}
	o, err := newImageOptions(r, path, format)
	if err != nil {
		return err
	}
	if err := convert.CheckFree(r.Store.FS, path); err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		n, err := convert.Make(r.Store.FS, path, o.Maker, o.New)
		if err != nil {
			return err
		}
		if err := n.Finish(r.Ctx(), format, o.Room); err != nil {
			return errors.Join(err, n.Discard())
		}
	}
	note := o.Maker.Text(o.New, o.Told)
	if r.String("output") == "human" && !r.Bool("dry-run") && !r.Bool("quiet") {
		_, err := fmt.Fprintf(r.Out, "Formatting '%s', %s\n", term.Printable(r.Arg(0)), term.Printable(note))
		return err
	}
	return r.Steps([]images.Step{{Op: "create", Path: path, Note: note}})
}

// newImageOptions puts together what -o, -b, -F and SIZE say.
func newImageOptions(r *images.Run, path string, format *formats.Format) (*images.Options, error) {
	o, err := optionsOf(r, format)
	if err != nil {
		return nil, err
	}
	if r.IsSet("backing") {
		o.Backing = r.String("backing")
	}
	if r.IsSet("backing-format") {
		o.BackingFormat = r.String("backing-format")
	}
	if text := r.Arg(1); text != "" {
		if o.Size, err = formats.ParseSize(text); err != nil {
			return nil, term.Usagef("SIZE %s: %w", text, err)
		}
		o.Sized = true
	}
	if err := checkBacking(o, format); err != nil {
		return nil, err
	}
	if o.Backing != "" {
		err = lookBelow(r, path, o)
	}
	const sector = 512
	o.Told, o.Size = o.Size, (o.Size+sector-1)/sector*sector
	if err == nil && !o.Sized {
		err = term.Usagef("how large? %s wants FILE SIZE, or a backing file with -b", r.Command.HelpName)
	}
	return o, err
}

// checkBacking wants -F with -b, and both known.
func checkBacking(o *images.Options, format *formats.Format) error {
	switch {
	case o.Backing == "" && o.BackingFormat == "":
		return nil
	case o.Backing == "":
		return term.Usagef("-F goes with -b")
	case o.Room != chain.RoomNone:
		return term.Usagef("-o preallocation: an image that builds on another one has room for what it is to have itself only")
	case !format.Overlays:
		return term.Usagef("images of format %s cannot have a backing file", format.Name)
	case o.BackingFormat == "":
		return term.Usagef("-b wants the format of the backing file: %s", images.BackingFormatHelp)
	}
	_, err := formats.Named(o.BackingFormat)
	return err
}

// lookBelow looks at what the new image will build on, and takes its size.
func lookBelow(r *images.Run, path string, o *images.Options) error {
	file, plain := chain.PlainPath(path, o.Backing)
	if !plain {
		return &chain.RefusedError{Path: path, Reason: fmt.Sprintf("the backing file %q is not a plain path", o.Backing)}
	}
	if r.Bool("unsafe") {
		return nil
	}
	nodes, err := r.Chain(file, o.BackingFormat)
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	below := images.Top(nodes)
	if !o.Sized {
		o.Size, o.Sized = below.Image.VirtualSize, true
	}
	o.ParentID = below.Image.ID
	return formats.CheckBuildsOn(path, r.Format(), *below)
}
