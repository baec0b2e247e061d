package main

import (
	"math"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func imageRebaseCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "rebase", Usage: "let an image build on another one; the guest sees the same",
		ArgsUsage: "IMAGE", OnUsageError: usageError,
		Flags: append(writeFlags(), formatFlag(),
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "the new backing `FILE`, as the header will name it; \"\" for none"},
			&cli.StringFlag{Name: "backing-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the new backing file; it must be told"},
			&cli.BoolFlag{Name: "unsafe", Aliases: []string{"u"}, Usage: "only write the name into the header: for a backing file that was moved"},
			allowFlag()),
		Description: `What differs between the old and the new backing chain is copied into IMAGE. With
-u nothing is compared: unless both hold the same, the guest's data is damaged, and that
of images on IMAGE, wherever they are; without -u what they read stays the same.

   virt-rotate image rebase -b new.qcow2 -F qcow2 web.qcow2
   virt-rotate image rebase -u -b ../moved/base.qcow2 -F qcow2 web.qcow2
   virt-rotate image rebase -b "" web.qcow2

` + imageExitHelp,
		Action: imageAction(e, 1, 1, rebaseImage),
	}
}

func rebaseImage(r *imageRun) error {
	r.hint = goOn
	name, format := r.String("backing"), r.String("backing-format")
	switch {
	case !r.IsSet("backing"):
		return usagef("-b tells the new backing file; -b \"\" for none")
	case name != "" && format == "":
		return usagef("-b wants the format of the new backing file: -F qcow2, -F vhd or -F raw")
	}
	if format != "" {
		if _, err := formats.Named(format); err != nil {
			return err
		}
	}
	if r.Bool("unsafe") {
		return relinkImage(r, name, format)
	}
	plan, err := r.store.PlanRebase(r.ctx(), r.arg(0), r.format(), name, format)
	if err == nil {
		err = changeable(plan.Image)
	}
	if err == nil && len(plan.New) > 0 {
		err = formats.CheckBuildsOn(plan.Image.Path, plan.Image.Image.Format, *top(plan.New))
	}
	if err != nil {
		return err
	}
	bytes, err := rebaseBytes(r, plan)
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		done, end := r.progress("rebase", bytes)
		err := r.store.Rebase(r.ctx(), plan, done)
		end()
		if err != nil {
			return err
		}
		bytes = r.moved
	}
	step := imageStep{Op: "rebase", Path: plan.Image.Path, Target: name, Bytes: &bytes}
	if name == "" {
		step.Note = "it builds on nothing"
	}
	return r.steps([]imageStep{step})
}

// relinkImage only writes the name.
func relinkImage(r *imageRun, name, format string) error {
	n, err := r.store.Node(r.arg(0), r.format())
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		if err := r.store.Relink(n.Path, n.Image.Format, name, format); err != nil {
			return err
		}
	}
	return r.steps([]imageStep{{Op: "relink", Path: n.Path, Target: name, Note: "nothing was compared (-u)"}})
}

// rebaseBytes is what a rebase can have to copy at most: what shows through the
// image now, or would, and is not of a layer that both chains have.
func rebaseBytes(r *imageRun, p *chain.Rebase) (int64, error) {
	was, err := shownBytes(r, append(slices.Clone(p.Old), p.Image), len(p.Old), p.New)
	if err != nil || len(p.New) == 0 {
		return was, err
	}
	next, err := shownBytes(r, p.New, len(p.New), p.Old)
	return min(was+next, p.Image.Image.VirtualSize), err
}

// shownBytes counts the data that is in the lowest n of nodes, without those in except.
func shownBytes(r *imageRun, nodes []chain.Node, n int, except []chain.Node) (bytes int64, err error) {
	err = r.store.Map(r.ctx(), nodes, 0, math.MaxInt64, func(m chain.Mapping) error {
		layer := len(nodes) - 1 - m.Depth
		if m.Data && layer < n && !hasID(except, nodes[layer].Info.ID) {
			bytes += m.Length
		}
		return nil
	})
	return bytes, err
}

func hasID(nodes []chain.Node, id vfs.ID) bool {
	return slices.ContainsFunc(nodes, func(n chain.Node) bool { return n.Info.ID == id })
}
