package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// Exit statuses of image compare, as qemu-img's.
const (
	exitDiffers    = 1
	exitNotOpened  = 2
	exitMapFailed  = 3
	exitReadFailed = 4
)

const imageCompareHelp = `Exit status, as qemu-img's:
   0  the images are identical
   1  they differ
   2  wrong usage, or an image could not be opened, or is being written to
   3  what is where in an image could not be told
   4  an image could not be read`

func imageCompareCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "compare", Usage: "tell whether guests read the same from two images",
		ArgsUsage: "FILE1 FILE2", OnUsageError: usageError,
		Flags: []cli.Flag{
			outputFlag(),
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "`FORMAT` of the first image"},
			&cli.StringFlag{Name: "second-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the second image"},
			&cli.BoolFlag{Name: "strict", Aliases: []string{"s"}, Usage: "sizes and allocation must be the same, too"},
			&cli.BoolFlag{Name: "progress", Aliases: []string{"p"}, Usage: "show progress each second, also when it goes to a log"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
			allowFlag(),
		},
		Description: `Images of different sizes are identical if the longer one has only zeros more.

   virt-rotate image compare -f raw web.img web.qcow2

` + imageCompareHelp,
		Action: func(c *cli.Context) error {
			err := imageAction(e, 2, 2, compareImages)(c)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return &exitError{exitNotOpened, err}
		},
	}
}

// compareReport is the JSON of image compare. Offset is that of the first
// difference, bytes.
type compareReport struct {
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

func compareImages(r *imageRun) error {
	r.ended = exitReadFailed
	if f := r.String("second-format"); f != "" {
		if _, err := formats.Named(f); err != nil {
			return err
		}
	}
	a, err := r.readable(r.arg(0), r.format())
	if err != nil {
		return err
	}
	b, err := r.readable(r.arg(1), r.String("second-format"))
	if err != nil {
		return err
	}
	report, err := compareChains(r, a, b)
	if err != nil {
		return err
	}
	if !r.Bool("quiet") {
		err = r.print(r.Context, report, func(w io.Writer) { compareText(w, report, r.Bool("strict")) })
	}
	if err == nil && !report.Identical {
		err = &exitError{code: exitDiffers}
	}
	return err
}

func compareChains(r *imageRun, a, b []chain.Node) (*compareReport, error) {
	strict := r.Bool("strict")
	sizes := top(a).Image.VirtualSize != top(b).Image.VirtualSize
	if strict && sizes {
		return &compareReport{SizeMismatch: true, Reason: differsSize}, nil
	}
	report, err := compareContent(r, a, b)
	if err != nil || !strict {
		return report, err
	}
	off, differs, err := statusDiffers(r, a, b)
	if err != nil {
		return nil, readFailure(err, exitMapFailed)
	}
	if differs && (report.Identical || off <= *report.Offset) {
		return &compareReport{Reason: differsStatus, Offset: &off}, nil
	}
	return report, nil
}

func top(nodes []chain.Node) *chain.Node { return &nodes[len(nodes)-1] }

func compareContent(r *imageRun, a, b []chain.Node) (*compareReport, error) {
	total := max(top(a).Image.VirtualSize, top(b).Image.VirtualSize)
	done, end := r.progress("compare", total)
	c, err := r.store.Compare(r.ctx(), a, b, false, done)
	end()
	if err != nil {
		return nil, readFailure(err, exitReadFailed)
	}
	report := &compareReport{Identical: c.Same, SizeMismatch: c.Sizes, beyond: c.Same || c.Longer}
	if !c.Same {
		report.Reason, report.Offset = differsContent, &c.Offset
	}
	return report, nil
}

// readFailure gives an error its exit status, unless an image was refused.
func readFailure(err error, code int) error {
	if isRefusal(err) {
		return err
	}
	return &exitError{code, err}
}

// statusDiffers tells where one disk first has something that the other has not,
// or has otherwise.
func statusDiffers(r *imageRun, a, b []chain.Node) (off int64, differs bool, err error) {
	next, stop := iter.Pull2(mappings(r, b))
	defer stop()
	var y chain.Mapping
	for x, err := range mappings(r, a) {
		if err != nil {
			return 0, false, err
		}
		for off = x.Start; off < x.Start+x.Length; off = min(x.Start+x.Length, y.Start+y.Length) {
			if off >= y.Start+y.Length {
				if y, err, _ = next(); err != nil {
					return 0, false, err
				}
			}
			if !sameStatus(x, y) {
				return off, true, nil
			}
		}
	}
	return 0, false, nil
}

func sameStatus(x, y chain.Mapping) bool {
	return x.Present == y.Present && x.Zero == y.Zero && x.Data == y.Data && (x.Host == chain.NoHost) == (y.Host == chain.NoHost)
}

var errEnough = errors.New("enough")

// mappings goes over a disk; an error comes last.
func mappings(r *imageRun, nodes []chain.Node) iter.Seq2[chain.Mapping, error] {
	return func(yield func(chain.Mapping, error) bool) {
		err := r.store.Map(r.ctx(), nodes, 0, math.MaxInt64, func(m chain.Mapping) error {
			if !yield(m, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(chain.Mapping{}, err)
		}
	}
}

// compareText writes what qemu-img compare writes.
func compareText(w io.Writer, report *compareReport, strict bool) {
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
