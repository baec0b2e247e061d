package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func imageConvertCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "convert", Usage: "copy a disk into a new image, of whatever format",
		ArgsUsage: "FILE NEWFILE", OnUsageError: usageError,
		Flags: append(writeFlags(), formatFlag(),
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: "`FORMAT` of the new image: raw, qcow2 or vhd (default: raw, with --chain qcow2)"},
			&cli.BoolFlag{Name: "compress", Aliases: []string{"c"}, Usage: "compress the data"},
			&cli.StringFlag{Name: "sparse", Aliases: []string{"S"}, Usage: "0: copy zeros that are data, too; any other `SIZE`: leave them out, in raw and qcow2 sources (default: in raw ones)", Value: "4k", DefaultText: " "},
			&cli.BoolFlag{Name: "chain", Usage: "convert all layers, each into a file of its own in the directory NEWFILE"},
			optionsFlag(), allowFlag()),
		Description: `The new image is written under a temporary name, made durable and then renamed: it
is there whole or not at all. Options are those of image create.

   virt-rotate image convert -f raw -O qcow2 web.img web.qcow2
   virt-rotate image convert -c -O qcow2 -o compression_type=zstd web.qcow2 backup.qcow2
   virt-rotate image convert --chain web.snap3.qcow2 newdir

` + imageExitHelp,
		Action: imageAction(e, 2, 2, convertImage),
	}
}

// A conversion is one image that is to be made out of others.
type conversion struct {
	nodes  []chain.Node // base first
	own    bool         // only what the last one has itself
	layers int          // and those below it, so many in all; 0: one
	path   string       // of the new image
	format *formats.Format
	create createOptions
	verify bool  // compare it with the source before it gets its name
	bytes  int64 // of data, at most
	made   *newImage
}

func convertImage(r *imageRun) error {
	r.hint = ": what was begun is removed, and the source is as it was"
	format, o, err := convertOptions(r)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(r.arg(1))
	if err != nil {
		return err
	}
	nodes, err := r.readable(r.arg(0), r.format())
	if err != nil {
		return err
	}
	if r.Bool("chain") {
		return convertChain(r, nodes, path, format, o)
	}
	if err := checkFree(r.store.FS, path); err != nil {
		return err
	}
	c := &conversion{nodes: nodes, path: path, format: format, create: *o}
	c.create.Size = top(nodes).Image.VirtualSize
	return r.convertAll([]*conversion{c})
}

// convertOptions are format and options of what is made.
func convertOptions(r *imageRun) (*formats.Format, *createOptions, error) {
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
		return nil, nil, usagef("-S %s: %w", r.String("sparse"), err)
	}
	if r.Bool("compress") && !format.Packs {
		return nil, nil, usagef("-c: images of format %s cannot be compressed", name)
	}
	o, err := optionsOf(r, format)
	if err == nil && (o.sized || o.Backing != "" || o.BackingFormat != "") {
		err = usagef("-o: size, backing_file and backing_fmt are those of the source")
	}
	return format, o, err
}

// convertAll measures, and does it unless that is all that was wanted.
func (r *imageRun) convertAll(all []*conversion) error {
	for _, c := range all {
		if err := r.measure(c); err != nil {
			return err
		}
	}
	if r.Bool("dry-run") {
		return r.steps(convertSteps(all))
	}
	if err := r.makeAll(all); err != nil {
		return err
	}
	return r.steps(convertSteps(all))
}

func convertSteps(all []*conversion) []imageStep {
	var steps []imageStep
	for _, c := range all {
		steps = append(steps, imageStep{Op: "convert", Path: top(c.nodes).Path, Target: c.path, Bytes: &c.bytes, Note: c.format.Name})
	}
	return steps
}

// measure counts the data that there is to copy.
func (r *imageRun) measure(c *conversion) error {
	return r.store.Map(r.ctx(), c.nodes, 0, math.MaxInt64, func(m chain.Mapping) error {
		if m.Data && !m.Zero && (!c.own || m.Depth < max(1, c.layers)) {
			c.bytes += m.Length
		}
		return nil
	})
}

// makeAll makes all images under temporary names and names them in the end, the
// lowest first. When something fails none is left.
func (r *imageRun) makeAll(all []*conversion) (err error) {
	var total int64
	for _, c := range all {
		total += c.bytes
	}
	done, end := r.progress("convert", total)
	for _, c := range all {
		before := r.moved
		if err = r.makeOne(c, done); err != nil {
			break
		}
		c.bytes = r.moved - before
		if c.verify {
			if err = r.verifyMade(c); err != nil {
				break
			}
		}
	}
	end()
	return r.nameAll(all, err)
}

// nameAll gives the new images their names, unless err says that something failed:
// then, or when that fails, none is left.
func (r *imageRun) nameAll(all []*conversion, err error) error {
	for _, c := range all {
		if err == nil {
			err = c.made.rename(c.path)
		}
	}
	if err == nil {
		return nil
	}
	r.moved = 0 // what was changed is gone again
	for _, c := range all {
		if c.made != nil {
			err = errors.Join(err, c.made.discard())
		}
	}
	return err
}

// makeOne makes one image beside its place.
func (r *imageRun) makeOne(c *conversion, done func(int64)) error {
	to, err := r.begin(c)
	if err != nil {
		return err
	}
	options := chain.ConvertOptions{Sparse: r.String("sparse") != "0", RawOnly: !r.IsSet("sparse"), Own: c.own, Layers: c.layers}
	if packer, ok := to.(chain.Packer); ok && r.Bool("compress") {
		err = r.store.Compress(r.ctx(), c.nodes, packer, options, done)
	} else {
		err = r.store.Convert(r.ctx(), c.nodes, to, options, done)
	}
	return errors.Join(err, to.Close())
}

// begin makes an empty image beside its place, and opens it.
func (r *imageRun) begin(c *conversion) (to chain.Target, err error) {
	c.made, err = makeImage(r.store.FS, tempName(filepath.Dir(c.path)), c.format, &c.create)
	if err != nil {
		return nil, err
	}
	src, err := c.format.Open(c.made.file, nil)
	if err != nil {
		return nil, err
	}
	c.made.file = nil
	to, ok := src.(chain.Target)
	if !ok {
		return nil, errors.Join(fmt.Errorf("images of format %s cannot be written", c.format.Name), src.Close())
	}
	return to, nil
}
