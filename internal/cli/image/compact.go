package image

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func compactCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "compact", Usage: "give unused space of an image back, and keep its internal snapshots",
		ArgsUsage: "IMAGE", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(), images.FormatFlag(),
			&cli.StringFlag{Name: "zeros", Usage: "yes: data that is zeros goes, too; no: only what nothing refers to (`YES|NO`)", Value: "yes", DefaultText: "yes"},
			&cli.StringFlag{Name: "to", Aliases: []string{"o"}, Usage: "write the image anew to `NEWFILE`, and leave IMAGE as it is"}),
		Description: `Clusters that nothing refers to, that are zeros, or that were kept for zeros are given
back to the file system, in place, as holes; the end of the file is cut. The guest reads
the same, in the image and in each of its internal snapshots; so do images on it. Their
names, dates and saved memory stay, and so do bitmaps.

With --to all that is in use is written to a new file, in a row: for a file system
without holes, or for a file that is to be small, not only to take little.

   virt-rotate image compact --dry-run web.qcow2
   virt-rotate image compact web.qcow2
   virt-rotate image compact --to /mnt/usb/web.qcow2 web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, compactImage),
	}
}

// CompactReport is the JSON of image compact.
type CompactReport struct {
	Command string `json:"command"`
	DryRun  bool   `json:"dry-run"`
	Path    string `json:"path"`
	Target  string `json:"target,omitempty"` // the new file of --to
	formats.CompactResult
}

func compactImage(r *images.Run) error {
	r.Hint = ": every state of the image reads as before; the same command goes on"
	zeros := r.String("zeros")
	if zeros != "yes" && zeros != "no" {
		return term.Usagef("--zeros %s: want yes or no", zeros)
	}
	n, format, err := r.Image()
	if err != nil {
		return err
	}
	if format.Compact == nil {
		return &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("images of format %s cannot be made compact; image convert copies one without zeros", format.Name)}
	}
	c := &compact{Run: r, node: n, format: format}
	c.options = formats.CompactOptions{Zeros: zeros == "yes", DryRun: r.Bool("dry-run")}
	return c.run()
}

// A compact is one image that is made compact.
type compact struct {
	*images.Run
	node    chain.Node
	format  *formats.Format
	options formats.CompactOptions
}

func (c *compact) run() error {
	report := CompactReport{Command: c.Command.Name, DryRun: c.options.DryRun, Path: c.node.Path}
	var err error
	if c.IsSet("to") {
		if report.Target, err = filepath.Abs(c.String("to")); err == nil {
			report.CompactResult, err = c.toNew(report.Target)
		}
	} else {
		report.CompactResult, err = c.inPlace()
	}
	if err != nil {
		return err
	}
	if c.Bool("quiet") && c.String("output") == "human" {
		return nil
	}
	return c.Print(c.Context, report, func(w io.Writer) { compactText(w, &report) })
}

// held does something with the image while it is locked.
func (c *compact) held(change bool, do func(f vfs.File) error) error {
	f, err := c.Store.Hold(c.node, change)
	if err != nil {
		return err
	}
	show, end := c.Progress("compact", c.node.Info.Allocated)
	c.options.Progress = show
	err = do(f)
	end()
	c.Moved = 0 // looking at data changes nothing; what is refused later is so, too
	return errors.Join(err, f.Close())
}

func (c *compact) inPlace() (res formats.CompactResult, err error) {
	err = c.held(!c.options.DryRun, func(f vfs.File) error {
		back, err := true, error(nil)
		if !c.options.DryRun {
			back, err = vfs.GivesBack(f)
		}
		if !back && err == nil {
			err = &chain.RefusedError{Path: c.node.Path, Reason: "no space can be given back within it, on this file system or device: write it anew, with --to NEWFILE"}
		}
		if err == nil {
			res, err = c.format.Compact(c.Ctx(), f, c.options)
		}
		return c.named(err)
	})
	return res, err
}

// named tells which image an error is about.
func (c *compact) named(err error) error {
	var refused *chain.RefusedError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%s: %w", c.node.Path, err)
}

func (c *compact) toNew(path string) (res formats.CompactResult, err error) {
	if err := convert.CheckFree(c.Store.FS, path); err != nil {
		return res, err
	}
	c.Hint = ": what was begun is removed, and the image is as it was"
	err = c.held(false, func(f vfs.File) error {
		if c.options.DryRun {
			res, err = c.format.CompactTo(c.Ctx(), nil, f, c.options)
			return c.named(err)
		}
		return convert.Write(c.Store.FS, path, func(to vfs.File) error {
			if res, err = c.format.CompactTo(c.Ctx(), to, f, c.options); err != nil {
				return err
			}
			return c.relink(to, path)
		})
	})
	return res, err
}

// relink lets an image in another directory name its backing file as it is found from there.
func (c *compact) relink(to vfs.File, path string) error {
	name := c.node.Image.Backing
	if name == "" || filepath.IsAbs(name) || filepath.Dir(path) == filepath.Dir(c.node.Path) {
		return nil
	}
	below, plain := chain.PlainPath(c.node.Path, name)
	if !plain {
		return nil // not a file beside the image
	}
	src, err := c.format.Open(to, nil)
	if err != nil {
		return err
	}
	target, ok := src.(chain.Target)
	if !ok {
		return errors.New("its backing file cannot be named anew")
	}
	return target.SetBacking(below, c.node.Image.BackingFormat)
}

func compactText(w io.Writer, r *CompactReport) {
	verb, target := "compacted", ""
	if r.DryRun {
		verb = "compact"
	}
	if r.Target != "" {
		target = " → " + term.Printable(r.Target)
	}
	fmt.Fprintf(w, "%-9s  %s%s  (%s)\n", verb, term.Printable(r.Path), target, strings.Join(compactNotes(r), "; "))
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
	}
}

func compactNotes(r *CompactReport) []string {
	notes := []string{"nothing to give back"}
	switch {
	case r.Target != "" && !r.DryRun:
		notes = []string{fmt.Sprintf("%s on the disk, %s before", term.SizeText(r.AllocatedAfter), term.SizeText(r.AllocatedBefore))}
	case r.DryRun && r.Back > 0:
		notes = []string{term.SizeText(r.Back) + " to give back"}
	case r.AllocatedBefore > r.AllocatedAfter:
		notes = []string{term.SizeText(r.AllocatedBefore-r.AllocatedAfter) + " given back"}
	}
	for _, part := range []struct {
		bytes int64
		what  string
	}{{r.Zeros, "of zeros"}, {r.Reserved, "kept for zeros"}, {r.Leaked, "leaked"}, {r.Tail, "at the end of the file"}} {
		if part.bytes > 0 {
			notes = append(notes, term.SizeText(part.bytes)+" "+part.what)
		}
	}
	if r.Snapshots > 0 {
		notes = append(notes, term.Plural(int(r.Snapshots), "internal snapshot")+" kept")
	}
	return notes
}
