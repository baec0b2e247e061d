package image

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func rebaseCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "rebase", Usage: "let an image build on another one; the guest sees the same",
		ArgsUsage: "IMAGE", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), append(images.TargetCompat(), images.SourceCompat()[0])...), images.FormatFlag(),
			&cli.StringFlag{Name: "backing", Aliases: []string{"b"}, Usage: "the new backing `FILE`, as the header will name it; \"\" for none"},
			&cli.StringFlag{Name: "backing-format", Aliases: []string{"F"}, Usage: "`FORMAT` of the new backing file; it must be told"},
			&cli.BoolFlag{Name: "unsafe", Aliases: []string{"u"}, Usage: "only write the name into the header: for a backing file that was moved"},
			images.AllowFlag()),
		Description: `What differs between the old and the new backing chain is copied into IMAGE. With
-u nothing is compared: unless both hold the same, the guest's data is damaged, and that
of images on IMAGE, wherever they are; without -u what they read stays the same.

   virt-rotate image rebase -b new.qcow2 -F qcow2 web.qcow2
   virt-rotate image rebase -u -b ../moved/base.qcow2 -F qcow2 web.qcow2
   virt-rotate image rebase -b "" web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, rebaseImage),
	}
}

func rebaseImage(r *images.Run) error {
	r.Hint = goOn
	name, format := r.String("backing"), r.String("backing-format")
	switch {
	case !r.IsSet("backing"):
		return term.Usagef("-b tells the new backing file; -b \"\" for none")
	case name != "" && format == "":
		return term.Usagef("-b wants the format of the new backing file: %s", images.BackingFormatHelp)
	}
	if format != "" {
		if _, err := formats.Named(format); err != nil {
			return err
		}
	}
	if r.Bool("unsafe") {
		return relinkImage(r, name, format)
	}
	plan, err := r.Store.PlanRebase(r.Ctx(), r.Arg(0), r.Format(), name, format)
	if err == nil {
		err = chain.Changeable(plan.Image)
	}
	if err == nil && len(plan.New) > 0 {
		err = formats.CheckBuildsOn(plan.Image.Path, plan.Image.Image.Format, *images.Top(plan.New))
	}
	if err != nil {
		return err
	}
	bytes, err := r.Store.RebaseBytes(r.Ctx(), plan)
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		done, end := r.Progress("rebase", bytes)
		err := r.Store.Rebase(r.Ctx(), plan, done)
		end()
		if err != nil {
			return err
		}
		bytes = r.Moved
	}
	step := images.Step{Op: "rebase", Path: plan.Image.Path, Target: name, Bytes: &bytes}
	if name == "" {
		step.Note = "it builds on nothing"
	}
	return r.Steps([]images.Step{step})
}

// relinkImage only writes the name.
func relinkImage(r *images.Run, name, format string) error {
	n, err := r.Store.Node(r.Arg(0), r.Format())
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		if err := r.Store.Relink(n.Path, n.Image.Format, name, format); err != nil {
			return err
		}
	}
	return r.Steps([]images.Step{{Op: "relink", Path: n.Path, Target: name, Note: "nothing was compared (-u)"}})
}
