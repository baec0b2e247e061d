package image

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func pullCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "copy into an image what it builds on, so that it builds on less",
		ArgsUsage: "IMAGE", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(), images.FormatFlag(),
			&cli.StringFlag{Name: "base", Usage: "go on building on `BASE`; default: on nothing"}, images.AllowFlag()),
		Description: `The layers below stay as they are, for others that build on them, and what images on
IMAGE read stays the same, wherever they are: nobody has to be looked for.

   virt-rotate image pull --base golden.qcow2 web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, pullImage),
	}
}

func pullImage(r *images.Run) error {
	r.Hint = goOn
	p, err := r.Store.PlanPull(r.Ctx(), r.Arg(0), r.Format(), r.String("base"))
	if err == nil {
		err = chain.Changeable(p.Image)
	}
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") && len(p.Between) > 0 {
		done, end := r.Progress("pull", p.Bytes)
		err := r.Store.Pull(r.Ctx(), p, done)
		end()
		if err != nil {
			return err
		}
	}
	return r.Steps(pullSteps(p))
}

func pullSteps(p *chain.Pull) []images.Step {
	step := images.Step{Op: "pull", Path: p.Image.Path, Bytes: &p.Bytes}
	if n := len(p.Below); n > 0 {
		step.Target = p.Below[n-1].Path
	} else {
		step.Note = "it builds on nothing"
	}
	if len(p.Between) == 0 {
		step.Note = "nothing to do"
	}
	return []images.Step{step}
}
