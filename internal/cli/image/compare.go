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
)

// Exit statuses of image compare, as qemu-img's.
const (
	ExitDiffers    = 1
	ExitNotOpened  = 2
	exitMapFailed  = 3
	ExitReadFailed = 4
)

const compareHelp = `Exit status, as qemu-img's:
   0  the images are identical
   1  they differ
   2  wrong usage, or an image could not be opened, or is being written to
   3  what is where in an image could not be told
   4  an image could not be read`

func compareCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "compare", Usage: "tell whether guests read the same from two images",
		ArgsUsage: "FILE1 FILE2", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(),
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "`FORMAT` of the first image"},
			&cli.StringFlag{Name: "second-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the second image"},
			&cli.BoolFlag{Name: "strict", Aliases: []string{"s"}, Usage: "sizes and allocation must be the same, too"},
			&cli.BoolFlag{Name: "progress", Aliases: []string{"p"}, Usage: "show progress each second, also when it goes to a log"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
			images.AllowFlag(), images.ShareFlag(),
		}, images.SourceCompat()...),
		Description: `Images of different sizes are identical if the longer one has only zeros more.

   virt-rotate image compare -f raw web.img web.qcow2

` + compareHelp,
		Action: func(c *cli.Context) error {
			err := images.Action(e, 2, 2, compareImages)(c)
			var exit *term.ExitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return &term.ExitError{Code: ExitNotOpened, Err: err}
		},
	}
}

// CompareReport is the JSON of image compare. Offset is that of the first
// difference, bytes.
type CompareReport struct {
	Identical    bool   `json:"identical"`
	SizeMismatch bool   `json:"size-mismatch"`
	Reason       string `json:"reason,omitempty"` // content, status or size
	Offset       *int64 `json:"offset,omitempty"`
	beyond       bool   // both are the same as far as the shorter one goes
}

// The reasons for a difference.
const (
	differsContent = "content"
	differsStatus  = "status" // of the allocation
	differsSize    = "size"
)

func compareImages(r *images.Run) error {
	r.Ended = ExitReadFailed
	if f := r.String("second-format"); f != "" {
		if _, err := formats.Named(f); err != nil {
			return err
		}
	}
	a, err := r.Readable(r.Arg(0), r.Format())
	if err != nil {
		return err
	}
	b, err := r.Readable(r.Arg(1), r.String("second-format"))
	if err != nil {
		return err
	}
	report, err := compareChains(r, a, b)
	if err != nil {
		return err
	}
	if !r.Bool("quiet") {
		err = r.Print(r.Context, report, func(w io.Writer) { compareText(w, report, r.Bool("strict")) })
	}
	if err == nil && !report.Identical {
		err = &term.ExitError{Code: ExitDiffers}
	}
	return err
}

func compareChains(r *images.Run, a, b []chain.Node) (*CompareReport, error) {
	strict := r.Bool("strict")
	sizes := images.Top(a).Image.VirtualSize != images.Top(b).Image.VirtualSize
	if strict && sizes {
		return &CompareReport{SizeMismatch: true, Reason: differsSize}, nil
	}
	report, err := compareContent(r, a, b)
	if err != nil || !strict {
		return report, err
	}
	off, differs, err := r.Store.AllocationDiffers(r.Ctx(), a, b)
	if err != nil {
		return nil, readFailure(err, exitMapFailed)
	}
	if differs && (report.Identical || off <= *report.Offset) {
		return &CompareReport{Reason: differsStatus, Offset: &off}, nil
	}
	return report, nil
}

func compareContent(r *images.Run, a, b []chain.Node) (*CompareReport, error) {
	total := max(images.Top(a).Image.VirtualSize, images.Top(b).Image.VirtualSize)
	done, end := r.Progress("compare", total)
	c, err := r.Store.Compare(r.Ctx(), a, b, false, done)
	end()
	if err != nil {
		return nil, readFailure(err, ExitReadFailed)
	}
	report := &CompareReport{Identical: c.Same, SizeMismatch: c.Sizes, beyond: c.Same || c.Longer}
	if !c.Same {
		report.Reason, report.Offset = differsContent, &c.Offset
	}
	return report, nil
}

// readFailure gives an error its exit status, unless an image was refused.
func readFailure(err error, code int) error {
	if term.IsRefusal(err) {
		return err
	}
	return &term.ExitError{Code: code, Err: err}
}

// compareText writes what qemu-img compare writes.
func compareText(w io.Writer, report *CompareReport, strict bool) {
	mode := ""
	if strict {
		mode = "Strict mode: "
	}
	if report.Reason == differsSize {
		fmt.Fprintln(w, mode+"Image size mismatch!")
		return
	}
	if report.SizeMismatch && report.beyond {
		fmt.Fprintln(w, "Warning: Image size mismatch!")
	}
	switch report.Reason {
	case differsStatus:
		fmt.Fprintf(w, "%sOffset %d block status mismatch!\n", mode, *report.Offset)
	case differsContent:
		fmt.Fprintf(w, "Content mismatch at offset %d!\n", *report.Offset)
	default:
		fmt.Fprintln(w, "Images are identical.")
	}
}
