package image

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func bitmapCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "bitmap", Usage: "change a persistent bitmap of an image",
		ArgsUsage: "IMAGE BITMAP", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(),
			&cli.BoolFlag{Name: "remove", Usage: "drop it; also one that a program has left behind unsaved"},
			&cli.BoolFlag{Name: "add", Usage: "make it, enabled, without a bit set"},
			&cli.StringFlag{Name: "granularity", Aliases: []string{"g"}, Usage: "with --add: a bit for each `BYTES`, a power of two from 512 to 2G; the cluster size, or 4 KiB if that is more"},
			&cli.BoolFlag{Name: "clear", Usage: "set no bit: nothing has changed since"},
			&cli.BoolFlag{Name: "enable", Usage: "writers keep it up to date"},
			&cli.BoolFlag{Name: "disable", Usage: "writers leave it as it is"},
			&cli.StringSliceFlag{Name: "merge", Usage: "set all that is set in bitmap `SOURCE`; may be repeated"},
			&cli.StringFlag{Name: "source-file", Aliases: []string{"b"}, Usage: "SOURCE is in this `IMAGE`"},
			&cli.StringFlag{Name: "source-format", Aliases: []string{"F"}, Usage: "its `FORMAT`: qcow2, which is the one that has bitmaps"},
		}, images.SourceCompat()...),
		Description: `Bitmaps tell backup programs what has changed. Several changes at once are done in the
order of the options above, all or none: a crash leaves the bitmaps as they were, or as
they are to be. image info lists them.

   virt-rotate image bitmap --add --disable web.qcow2 keep
   virt-rotate image bitmap --merge since -b web.snap1.qcow2 -F qcow2 web.qcow2 since

` + images.ExitHelp,
		Action: images.Action(e, 2, 2, changeBitmap),
	}
}

// BitmapReport is the JSON of image bitmap.
type BitmapReport struct {
	Command string           `json:"command"`
	Path    string           `json:"path"`
	Bitmaps []formats.Bitmap `json:"bitmaps"` // all that there are then
}

func changeBitmap(r *images.Run) error {
	c, err := bitmapChange(r)
	if err != nil {
		return err
	}
	f, err := holdQcow2(r, r.Arg(0), r.Format(), true)
	if err != nil {
		return err
	}
	report := BitmapReport{Command: "bitmap", Path: f.Path()}
	report.Bitmaps, err = withSource(r, f, c)
	if err = errors.Join(err, f.Close()); err != nil || r.String("output") == "human" {
		return err // qemu-img says nothing, either
	}
	return r.Print(r.Context, report, func(io.Writer) {})
}

// bitmapChange is what the options say.
func bitmapChange(r *images.Run) (c formats.BitmapChange, err error) {
	c = formats.BitmapChange{
		Name: r.Arg(1), Remove: r.Bool("remove"), Add: r.Bool("add"), Clear: r.Bool("clear"),
		Enable: r.Bool("enable"), Idle: r.Bool("disable"), Merge: r.StringSlice("merge"),
	}
	others := c.Add || c.Clear || c.Enable || c.Idle || len(c.Merge) > 0
	switch {
	case !others && !c.Remove:
		err = term.Usagef("want --add, --remove, --clear, --enable, --disable or --merge")
	case others && c.Remove:
		err = term.Usagef("--remove goes with nothing else")
	case c.Enable && c.Idle:
		err = term.Usagef("--enable and --disable contradict each other")
	case r.IsSet("granularity") && !c.Add:
		err = term.Usagef("-g goes with --add")
	case r.IsSet("source-file") && len(c.Merge) == 0 || r.IsSet("source-format") && !r.IsSet("source-file"):
		err = term.Usagef("-b goes with --merge, and -F with -b")
	case r.IsSet("granularity"):
		if c.Granularity, err = formats.ParseSize(r.String("granularity")); err != nil {
			err = term.Usagef("-g %s: %v", r.String("granularity"), err)
		}
	}
	return c, err
}

// withSource carries the change out while the image that is merged from is locked, too.
func withSource(r *images.Run, f vfs.File, c formats.BitmapChange) (list []formats.Bitmap, err error) {
	var from vfs.File
	if name := r.String("source-file"); name != "" {
		if from, err = holdQcow2(r, name, r.String("source-format"), false); err != nil {
			return nil, err
		}
	}
	if list, err = formats.ChangeBitmap(f, from, c); err != nil {
		err = fmt.Errorf("%s: %w", f.Path(), err)
	}
	if from != nil {
		err = errors.Join(err, from.Close())
	}
	return list, err
}

// holdQcow2 opens and locks an image that can have bitmaps.
func holdQcow2(r *images.Run, path, format string, change bool) (vfs.File, error) {
	n, err := r.Store.Node(path, format)
	if err != nil {
		return nil, err
	}
	if n.Image.Format != "qcow2" {
		return nil, &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("images of format %s have no bitmaps", n.Image.Format)}
	}
	return r.Store.Hold(n, change)
}
