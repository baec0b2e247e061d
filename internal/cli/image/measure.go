package image

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func measureCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "measure", Usage: "tell how large the file of a new image would be",
		ArgsUsage: "[FILE]", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(),
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: "`FORMAT` of the new image: raw or qcow2", Value: "raw", DefaultText: "raw"},
			&cli.StringFlag{Name: "size", Usage: "measure an empty disk of `SIZE`, and no FILE"},
			&cli.StringFlag{Name: "snapshot", Aliases: []string{"l"}, Usage: "measure the internal snapshot `SNAPSHOT` of FILE"},
			optionsFlag(), images.AllowFlag(), images.ShareFlag(),
		}, images.SourceCompat()...),
		Description: `Of FILE with all that it builds on, as image convert would copy it: the size that is
required, and the one once the guest has written to all of its disk. Clusters that
take part of a disk, and tables for all of it, are counted as qemu-img counts them: it
is seldom more, and never less, than what is written.

   virt-rotate image measure -O qcow2 web.qcow2
   virt-rotate image measure -O qcow2 --size 100G

` + images.ExitHelp,
		Action: images.Action(e, 0, 1, measureImage),
	}
}

func measureImage(r *images.Run) error {
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return err
	}
	o, err := optionsOf(r, format)
	if err != nil {
		return err
	}
	maker, ok := o.Maker.(formats.Measurer)
	if !ok {
		return term.Usagef("-O %s: images of this format cannot be measured", format.Name)
	}
	var m formats.Measured
	switch {
	case r.IsSet("size") == (r.Arg(0) != ""):
		return term.Usagef("%s wants --size SIZE, or a FILE", r.Command.HelpName)
	case r.IsSet("size"):
		if o.Size, err = formats.ParseSize(r.String("size")); err != nil {
			return term.Usagef("--size %s: %w", r.String("size"), err)
		}
		m, err = maker.Measure(o.New, 0)
	default:
		m, err = measureFile(r, maker, o)
	}
	if err != nil {
		return err
	}
	return r.PrintAsQemuImg(r.Context, m, func(w io.Writer) { measureText(w, &m) })
}

func measureFile(r *images.Run, maker formats.Measurer, o *images.Options) (m formats.Measured, err error) {
	nodes, err := r.Readable(r.Arg(0), r.Format())
	if err != nil {
		return m, err
	}
	c := &convert.Conversion{Nodes: nodes, New: o.New}
	c.New.Size = images.Top(nodes).Image.VirtualSize
	if r.IsSet("snapshot") {
		if err := pickState(r, c); err != nil {
			return m, err
		}
	}
	data, err := r.Store.Occupied(r.Ctx(), nodes, chain.ConvertOptions{State: c.State}, maker.Unit())
	if err != nil {
		return m, err
	}
	if m, err = maker.Measure(c.New, data); err != nil {
		return m, err
	}
	m.Bitmaps, err = measureBitmaps(r, *images.Top(nodes), maker)
	return m, err
}

// measureBitmaps is what the bitmaps of the image take in the new one.
func measureBitmaps(r *images.Run, n chain.Node, maker formats.Measurer) (bytes *int64, err error) {
	format, err := formats.Named(n.Image.Format)
	if err != nil || format.BitmapsSize == nil || !maker.Bitmaps() {
		return nil, err
	}
	f, err := r.Store.FS.Open(n.Path, false)
	if err != nil {
		return nil, err
	}
	err = formats.ReadSteady(f, func(size int64) error {
		bytes, err = format.BitmapsSize(f, size, maker.Unit())
		return err
	})
	if err = errors.Join(err, f.Close()); err != nil {
		err = fmt.Errorf("%s: %w", n.Path, err)
	}
	return bytes, err
}

func measureText(w io.Writer, m *formats.Measured) {
	fmt.Fprintf(w, "required size: %d\nfully allocated size: %d\n", m.Required, m.Full)
	if m.Bitmaps != nil {
		fmt.Fprintf(w, "bitmaps size: %d\n", *m.Bitmaps)
	}
}
