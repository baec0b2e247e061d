package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func imageCreateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make an empty image; an existing file is left alone",
		ArgsUsage: "FILE [SIZE]", OnUsageError: usageError,
		Flags: append(writeFlags(),
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "`FORMAT` of the new image: raw, qcow2 or vhd", Value: "raw"},
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "build on `FILE`; a relative name counts from the directory of the new image"},
			&cli.StringFlag{Name: "backing-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the backing file; it must be told with -b"},
			&cli.BoolFlag{Name: "unsafe", Aliases: []string{"u"}, Usage: "the backing file need not be there; SIZE must be told"},
			optionsFlag(), allowFlag()),
		Description: `Unlike qemu-img, create never overwrites a file, and a new image is for its owner
alone (mode 0600). SIZE is in bytes, or has a suffix: K, M, G, T, P, E; without it
the new image is as large as its backing file. Options of qcow2 images: size,
cluster_size, compat (0.10 or 1.1), refcount_bits, extended_l2, lazy_refcounts,
compression_type (zlib or zstd), backing_file, backing_fmt; of VHDs: size, subformat
(dynamic or fixed), backing_file, backing_fmt. A VHD with a backing file is a
differencing disk, on a VHD or a raw disk.

   virt-rotate image create -f qcow2 -o cluster_size=128k web.qcow2 20G
   virt-rotate image create -f qcow2 -b web.qcow2 -F qcow2 clone.qcow2

` + imageExitHelp,
		Action: imageAction(e, 1, 2, createImage),
	}
}

func optionsFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "`NAME=VALUE`, of the new image; several are joined by commas"}
}

// createOptions say what a new image is to be.
type createOptions struct {
	formats.New
	maker formats.Maker
	sized bool  // Size was told
	told  int64 // the size that was told, not yet in sectors
}

// defaultOptions are those of an image of whose options nothing was said.
func defaultOptions(format *formats.Format) *createOptions {
	return &createOptions{maker: format.New()}
}

// set takes over one of -o.
func (o *createOptions) set(opt option) (err error) {
	switch v := opt.value; opt.key {
	case "size":
		o.Size, err = formats.ParseSize(v)
		o.sized = true
	case "backing_file":
		o.Backing = v
	case "backing_fmt":
		o.BackingFormat = v
	default:
		err = o.maker.Set(opt.key, v)
	}
	if err != nil {
		return usagef("-o %s=%s: %w", opt.key, opt.value, err)
	}
	return nil
}

// optionsOf takes -o apart.
func optionsOf(r *imageRun, format *formats.Format) (*createOptions, error) {
	list, err := parseOptions(r.StringSlice("options"), format.Options, format.Name)
	if err != nil {
		return nil, err
	}
	o := defaultOptions(format)
	for _, opt := range list {
		if err := o.set(opt); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func createImage(r *imageRun) error {
	path, err := filepath.Abs(r.arg(0))
	if err != nil {
		return err
	}
	format, err := formats.Named(r.format())
	if err != nil {
		return err
	}
	o, err := newImageOptions(r, path, format)
	if err != nil {
		return err
	}
	if err := checkFree(r.store.FS, path); err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		n, err := makeImage(r.store.FS, path, format, o)
		if err != nil {
			return err
		}
		if err := n.close(); err != nil {
			return errors.Join(err, n.discard())
		}
	}
	note := o.maker.Text(o.New, o.told)
	if r.String("output") == "human" && !r.Bool("dry-run") && !r.Bool("quiet") {
		_, err := fmt.Fprintf(r.out, "Formatting '%s', %s\n", printable(r.arg(0)), printable(note))
		return err
	}
	return r.steps([]imageStep{{Op: "create", Path: path, Note: note}})
}

// newImageOptions puts together what -o, -b, -F and SIZE say.
func newImageOptions(r *imageRun, path string, format *formats.Format) (*createOptions, error) {
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
	if text := r.arg(1); text != "" {
		if o.Size, err = formats.ParseSize(text); err != nil {
			return nil, usagef("SIZE %s: %w", text, err)
		}
		o.sized = true
	}
	if err := checkBacking(o, format); err != nil {
		return nil, err
	}
	if o.Backing != "" {
		err = lookBelow(r, path, o)
	}
	const sector = 512
	o.told, o.Size = o.Size, (o.Size+sector-1)/sector*sector
	if err == nil && !o.sized {
		err = usagef("how large? %s wants FILE SIZE, or a backing file with -b", r.Command.HelpName)
	}
	return o, err
}

// checkBacking wants -F with -b, and both known.
func checkBacking(o *createOptions, format *formats.Format) error {
	switch {
	case o.Backing == "" && o.BackingFormat == "":
		return nil
	case o.Backing == "":
		return usagef("-F goes with -b")
	case !format.Overlays:
		return usagef("images of format %s cannot have a backing file", format.Name)
	case o.BackingFormat == "":
		return usagef("-b wants the format of the backing file: -F qcow2, -F vhd or -F raw")
	}
	_, err := formats.Named(o.BackingFormat)
	return err
}

// lookBelow looks at what the new image will build on, and takes its size.
func lookBelow(r *imageRun, path string, o *createOptions) error {
	file, plain := chain.PlainPath(path, o.Backing)
	if !plain {
		return &chain.RefusedError{Path: path, Reason: fmt.Sprintf("the backing file %q is not a plain path", o.Backing)}
	}
	if r.Bool("unsafe") {
		return nil
	}
	nodes, err := r.chain(file, o.BackingFormat)
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	below := top(nodes)
	if !o.sized {
		o.Size, o.sized = below.Image.VirtualSize, true
	}
	o.ParentID = below.Image.ID
	return formats.CheckBuildsOn(path, r.format(), *below)
}
