package image

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func commitCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "commit", Usage: "merge an overlay into what it builds on, and delete it",
		ArgsUsage: "OVERLAY", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), images.TargetCompat()...), images.FormatFlag(), images.RateFlag(),
			&cli.StringFlag{Name: "base", Aliases: []string{"b"}, Usage: "merge into `BASE`, further down the chain, with all between"},
			&cli.BoolFlag{Name: "keep", Aliases: []string{"d"}, Usage: "do not delete what was merged"},
			images.ScanFlag(), images.IgnoreFlag(), images.AllowFlag()),
		Description: `The base gets all that the overlay has, images on the overlay build on the base
from then on, and the overlay is deleted (--keep leaves it). Refused if any other
image builds on a layer that changes, or may do so: in the directories of the layers,
those of --scan and --allow, and below them on the same file system. Images elsewhere
are not seen: clones on other file systems of this host, or on disks of other hosts.
Commits that were interrupted in these directories are finished first: after an
interruption the same command goes on.

   virt-rotate image commit --dry-run web.snap1.qcow2
   virt-rotate image commit --base web.qcow2 web.snap3.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, commitImage),
	}
}

const goOn = ": every image is as its guest saw it; the same command goes on"

func commitImage(r *images.Run) error {
	r.Hint = goOn
	overlay, err := filepath.Abs(r.Arg(0))
	if err != nil {
		return err
	}
	dirs := append([]string{filepath.Dir(overlay)}, r.StringSlice("scan")...)
	tops, err := recoverCommits(r, dirs)
	if err != nil {
		return err
	}
	var steps []images.Step
	for _, top := range tops {
		steps = append(steps, images.Step{Op: "finish", Path: top, Note: "its commit was interrupted"})
	}
	if slices.Contains(tops, overlay) {
		return r.Steps(steps)
	}
	m, err := planCommit(r, overlay)
	if err != nil && r.Bool("dry-run") && len(tops) > 0 { // what follows can only be told once that is finished
		steps[len(steps)-1].Note += "; until that is finished: " + err.Error()
		return r.Steps(steps)
	}
	if err != nil {
		return err
	}
	steps = append(steps, commitSteps(m)...)
	if r.Bool("dry-run") {
		return r.Steps(steps)
	}
	done, end := r.Progress("merge", m.Bytes)
	err = r.Store.Commit(r.Ctx(), m, done)
	end()
	if err != nil {
		return err
	}
	return r.Steps(steps)
}

// recoverCommits finishes what was interrupted, or lists it with --dry-run.
func recoverCommits(r *images.Run, dirs []string) ([]string, error) {
	if r.Bool("dry-run") {
		return r.Store.Interrupted(dirs)
	}
	done, end := r.Progress("finish an interrupted commit", 0)
	defer end()
	tops, err := r.Store.Recover(r.Ctx(), dirs, done)
	if err != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w; %s beside it tells what was being done", err, ".virt-rotate-commit-*.json")
	}
	return tops, err
}

// planCommit plans, and refuses what could not be deleted in the end.
func planCommit(r *images.Run, overlay string) (*chain.Merge, error) {
	m, err := r.Store.PlanCommit(r.Ctx(), chain.CommitRequest{
		Top: overlay, Format: r.Format(), Base: r.String("base"), Keep: r.Bool("keep"), Scan: r.StringSlice("scan"),
	})
	if err == nil {
		err = chain.Changeable(m.Base)
	}
	if err != nil || m.Keep {
		return m, err
	}
	for _, n := range m.Gone {
		var kind *vfs.KindError
		if _, err := r.Store.FS.Lstat(n.Path); errors.As(err, &kind) {
			return nil, &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("it is a %s, and would have to be deleted: name the file itself, or keep it with --keep", kind.Kind)}
		}
	}
	return m, nil
}

// shrinks tells of a base that becomes as small as what is merged into it; "" of any other.
func shrinks(m *chain.Merge) string {
	from, to := m.Base.Image.VirtualSize, m.Top().Image.VirtualSize
	if to >= from {
		return ""
	}
	return fmt.Sprintf("the disk has %s then, as the overlay, and not %s: what lies beyond goes", term.SizeText(to), term.SizeText(from))
}

func commitSteps(m *chain.Merge) []images.Step {
	var steps []images.Step
	for _, n := range m.Gone[:len(m.Gone)-1] {
		steps = append(steps, images.Step{Op: "merge", Path: n.Path, Target: m.Base.Path})
	}
	steps = append(steps, images.Step{Op: "merge", Path: m.Top().Path, Target: m.Base.Path, Bytes: &m.Bytes, Note: shrinks(m)})
	for _, c := range m.Children {
		steps = append(steps, images.Step{Op: "relink", Path: c.Path, Target: m.Base.Path})
	}
	for _, n := range slices.Backward(m.Gone) {
		if !m.Keep && !n.Info.IsBlock {
			steps = append(steps, images.Step{Op: "delete", Path: n.Path})
		}
	}
	return steps
}
