package main

import (
	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

func imagePullCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "copy into an image what it builds on, so that it builds on less",
		ArgsUsage: "IMAGE", OnUsageError: usageError,
		Flags: append(writeFlags(), formatFlag(),
			&cli.StringFlag{Name: "base", Usage: "go on building on `BASE`; default: on nothing"}, allowFlag()),
		Description: `The layers below stay as they are, for others that build on them, and what images on
IMAGE read stays the same, wherever they are: nobody has to be looked for.

   virt-rotate image pull --base golden.qcow2 web.qcow2

` + imageExitHelp,
		Action: imageAction(e, 1, 1, pullImage),
	}
}

func pullImage(r *imageRun) error {
	r.hint = goOn
	p, err := r.store.PlanPull(r.ctx(), r.arg(0), r.format(), r.String("base"))
	if err == nil {
		err = changeable(p.Image)
	}
	if err != nil {
		return err
	}
	if !r.Bool("dry-run") && len(p.Between) > 0 {
		done, end := r.progress("pull", p.Bytes)
		err := r.store.Pull(r.ctx(), p, done)
		end()
		if err != nil {
			return err
		}
	}
	return r.steps(pullSteps(p))
}

func pullSteps(p *chain.Pull) []imageStep {
	step := imageStep{Op: "pull", Path: p.Image.Path, Bytes: &p.Bytes}
	if n := len(p.Below); n > 0 {
		step.Target = p.Below[n-1].Path
	} else {
		step.Note = "it builds on nothing"
	}
	if len(p.Between) == 0 {
		step.Note = "nothing to do"
	}
	return []imageStep{step}
}
