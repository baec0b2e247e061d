package image

import (
	"fmt"
	"math"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func resizeCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "resize", Usage: "let a disk become larger or smaller",
		ArgsUsage: "FILE [+|-]SIZE", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), images.TargetCompat()...), images.FormatFlag(),
			&cli.BoolFlag{Name: "shrink", Usage: "the disk may become smaller: what lies beyond the new end is lost"},
			&cli.StringFlag{Name: "preallocation", Usage: images.RoomHelp},
			images.ScanFlag(), images.IgnoreFlag(), images.AllowFlag()),
		Description: `SIZE is in bytes, or has a suffix: K, M, G, T, P, E; with + or - it is by how much
the disk becomes larger or smaller. What is new reads as zeros. The guest has to be
off; its file systems and partitions are to be made smaller before the disk is, and
larger after. A disk of which another image shows what lies beyond the new end is not
made smaller. A fixed VHD, and a device, keep their size.

   virt-rotate image resize web.qcow2 +20G
   virt-rotate image resize -f raw --preallocation=falloc web.img 40G
   virt-rotate image resize --shrink web.qcow2 10G

` + images.ExitHelp,
		Action: images.Action(e, 2, 2, resizeImage),
	}
}

func resizeImage(r *images.Run) error {
	r.Hint = ": the disk has its new size or the old one, and reads as before; the same command goes on"
	size, err := newSize(r.Arg(1))
	if err != nil {
		return err
	}
	plan, err := planResize(r, size)
	if err != nil {
		return err
	}
	if err := checkResize(r, plan); err != nil {
		return err
	}
	if r.Bool("dry-run") {
		return r.Steps(resizeSteps(plan))
	}
	show, end := r.Progress("resize", max(0, plan.Size-plan.Image.Image.VirtualSize))
	err = r.Store.Resize(r.Ctx(), plan, show)
	end()
	if err != nil {
		return err
	}
	if r.String("output") == "human" && !r.Bool("quiet") {
		_, err := fmt.Fprintln(r.Out, "Image resized.")
		return err
	}
	return r.Steps(resizeSteps(plan))
}

// newSize reads a size, or by how much the one that there is changes.
func newSize(text string) (func(now int64) int64, error) {
	number, sign := text, int64(0)
	switch {
	case strings.HasPrefix(text, "+"):
		number, sign = text[1:], 1
	case strings.HasPrefix(text, "-"):
		number, sign = text[1:], -1
	}
	n, err := formats.ParseSize(number)
	if err != nil {
		return nil, term.Usagef("SIZE %s: %w", text, err)
	}
	return func(now int64) int64 {
		switch {
		case sign == 0:
			return n
		case sign > 0 && n > math.MaxInt64-now:
			return math.MaxInt64
		}
		return now + sign*n
	}, nil
}

func planResize(r *images.Run, size func(now int64) int64) (*chain.Resizing, error) {
	n, format, err := r.Image()
	if err != nil {
		return nil, err
	}
	room := chain.RoomNone
	if r.IsSet("preallocation") {
		if room, err = format.Room(r.String("preallocation")); err != nil {
			return nil, term.Usagef("--preallocation=%s: %w", r.String("preallocation"), err)
		}
	}
	if size(n.Image.VirtualSize) <= 0 {
		return nil, term.Usagef("SIZE %s: the disk has %s, and has to keep some", r.Arg(1), term.SizeText(n.Image.VirtualSize))
	}
	return r.Store.PlanResize(chain.ResizeRequest{Path: r.Arg(0), Format: r.Format(), Size: size, Room: room, Scan: r.StringSlice("scan")})
}

// checkResize wants to be told that data may go.
func checkResize(r *images.Run, plan *chain.Resizing) error {
	from, to := plan.Image.Image.VirtualSize, plan.Size
	switch {
	case to < from && !r.Bool("shrink"):
		return &chain.RefusedError{Path: plan.Image.Path, Reason: fmt.Sprintf("from %s to %s it would become smaller, and lose all that lies beyond; say so with --shrink, once nothing of the guest is there", term.SizeText(from), term.SizeText(to))}
	case to <= from && plan.Room != chain.RoomNone:
		return term.Usagef("--preallocation is for disks that become larger")
	}
	return nil
}

func resizeSteps(plan *chain.Resizing) []images.Step {
	from, to := plan.Image.Image.VirtualSize, plan.Size
	note := fmt.Sprintf("from %d to %d bytes", from, to)
	if plan.Room != chain.RoomNone {
		note += ", preallocation " + formats.RoomName(plan.Room)
	}
	return []images.Step{{Op: "resize", Path: plan.Image.Path, Note: note}}
}
