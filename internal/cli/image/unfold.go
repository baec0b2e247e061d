package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func unfoldCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "unfold", Usage: "make each internal snapshot of an image a layer of a chain",
		ArgsUsage: "IMAGE", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(), images.FormatFlag(),
			&cli.StringFlag{Name: "to", Usage: "a new or an empty `DIR` for the layers"},
			&cli.BoolFlag{Name: "memory", Usage: "write the saved memory of running guests to files, too"},
			images.AllowFlag()),
		Description: `IMAGE stays as it is. In DIR each internal snapshot becomes an image with its state, and
so does what the guest sees now, under the name of IMAGE. Internal snapshots do not tell
what they were made from: in the order of their dates, each becomes a layer on that
earlier one with which it shares the most, so that branches are branches and nothing is
stored twice. Each is compared with its state before it gets its name.

   virt-rotate image unfold --dry-run --to layers web.qcow2
   virt-rotate image unfold --to layers web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, unfoldImage),
	}
}

// UnfoldReport is the JSON of image unfold.
type UnfoldReport struct {
	Command string        `json:"command"`
	DryRun  bool          `json:"dry-run"`
	Path    string        `json:"path"`
	Layers  []UnfoldLayer `json:"layers"` // in the order of time, what the guest sees now at the end
}

// An UnfoldLayer is one layer that was made of an internal snapshot.
type UnfoldLayer struct {
	Path       string     `json:"path"`
	Parent     string     `json:"parent,omitempty"` // the layer or the file that it builds on
	ID         string     `json:"id,omitempty"`     // of the internal snapshot; none for what the guest sees now
	Name       string     `json:"name,omitempty"`
	Time       *time.Time `json:"time,omitempty"`
	ClockNsec  int64      `json:"vm-clock-nsec,omitempty"`
	Size       int64      `json:"virtual-size"`
	Bytes      int64      `json:"bytes"`                 // of data: at most, before; copied, after
	MemorySize int64      `json:"memory-size,omitempty"` // bytes of the saved memory
	Memory     string     `json:"memory,omitempty"`      // the file that it is in; without --memory it is left behind
}

func unfoldImage(r *images.Run) error {
	r.Hint = ": what was begun is removed, and the image is as it was"
	if !r.IsSet("to") {
		return term.Usagef("--to DIR tells where the layers go")
	}
	dir, err := filepath.Abs(r.String("to"))
	if err != nil {
		return err
	}
	fresh, err := checkEmptyDir(dir)
	if err != nil {
		return err
	}
	nodes, err := r.Readable(r.Arg(0), r.Format())
	if err != nil {
		return err
	}
	u, err := convert.PlanUnfold(r.Ctx(), r.Store, nodes, dir)
	if err != nil {
		return err
	}
	u.Progress = r.Progress
	if !r.Bool("dry-run") {
		err = makeLayers(r, u, dir, fresh)
	}
	if err = errors.Join(err, u.Close()); err != nil {
		r.Moved = 0 // what was made is gone again
		return err
	}
	return printUnfold(r, u)
}

// makeLayers makes all in a directory of a temporary name, which gets its own name in the
// end: it is there with all layers, or not at all. In a directory that is there already the
// layers get their names one after the other, the active one at the end.
func makeLayers(r *images.Run, u *convert.Unfolding, dir string, fresh bool) error {
	if !fresh {
		return u.Make(r.Ctx(), r.Bool("memory"))
	}
	temp := convert.TempName(filepath.Dir(dir))
	if err := makeDir(temp); err != nil {
		return err
	}
	u.Move(temp)
	err := u.Make(r.Ctx(), r.Bool("memory"))
	if err == nil {
		err = vfs.RenameNew(temp, dir)
	}
	u.Move(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return nil
}

func printUnfold(r *images.Run, u *convert.Unfolding) error {
	report := UnfoldReport{Command: r.Command.Name, DryRun: r.Bool("dry-run"), Path: u.Image().Path}
	for _, l := range u.Layers {
		report.Layers = append(report.Layers, unfoldLayer(l, u, r.Bool("memory")))
	}
	if r.Bool("quiet") && r.String("output") == "human" {
		return nil
	}
	return r.Print(r.Context, report, func(w io.Writer) { unfoldText(w, &report) })
}

func unfoldLayer(l *convert.Layer, u *convert.Unfolding, memory bool) UnfoldLayer {
	out := UnfoldLayer{Path: l.Path, ID: l.ID, Name: l.Name, ClockNsec: int64(l.Clock), Size: l.Source.Image().VirtualSize, Bytes: l.Bytes, MemorySize: l.MemorySize}
	if memory {
		out.Memory = l.Memory
	}
	if l.Parent != nil {
		out.Parent = l.Parent.Path
	} else if n := len(u.Nodes); n > 1 {
		out.Parent = u.Nodes[n-2].Path
	}
	if !l.Active {
		at := l.Time.UTC()
		out.Time = &at
	}
	return out
}

func unfoldText(w io.Writer, r *UnfoldReport) {
	verb, bytes := "unfolded", "copied"
	if r.DryRun {
		verb, bytes = "unfold", "to copy"
	}
	for _, l := range r.Layers {
		what := "what the guest sees now"
		if l.Time != nil {
			what = fmt.Sprintf("%q of %s", l.Name, l.Time.Local().Format("2006-01-02 15:04:05"))
		}
		on := ""
		if l.Parent != "" {
			on = ", on " + term.Printable(filepath.Base(l.Parent))
		}
		fmt.Fprintf(w, "%-9s  %s  (%s%s; %s %s%s)\n", verb, term.Printable(l.Path), term.Printable(what), on, term.SizeText(l.Bytes), bytes, memoryNote(&l))
	}
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
	}
}

// memoryNote tells what becomes of the saved memory of a guest.
func memoryNote(l *UnfoldLayer) string {
	switch {
	case l.MemorySize == 0:
		return ""
	case l.Memory != "":
		return "; its memory is in " + term.Printable(filepath.Base(l.Memory))
	}
	return "; its saved memory, " + term.SizeText(l.MemorySize) + ", is left behind (--memory writes it to a file)"
}
