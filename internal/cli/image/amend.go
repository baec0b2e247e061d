package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func amendCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "amend", Usage: "change what a qcow2 image is, and not what the guest reads",
		ArgsUsage: "FILE", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), images.FormatFlag(), optionsFlag()), images.TargetCompat()...),
		Description: `Of the options of image create, compat=1.1 and lazy_refcounts=on|off can be changed in
an image that is there. For all others a copy is made, by image convert; the size is
changed by image resize, the backing file by image rebase.

   virt-rotate image amend -o compat=1.1,lazy_refcounts=on web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, amendImage),
	}
}

func amendImage(r *images.Run) error {
	r.Hint = ": the image is as it was, or as it is to be"
	n, format, err := r.Image()
	if err != nil {
		return err
	}
	if format.Amend == nil {
		return &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("images of format %s have nothing that could be amended", format.Name)}
	}
	amendment, note, err := amendmentOf(r, format)
	if err != nil {
		return err
	}
	amendment.DryRun = r.Bool("dry-run")
	f, err := r.Store.Hold(n, true)
	if err != nil {
		return err
	}
	if err = format.Amend(f, amendment); err != nil {
		err = fmt.Errorf("%s: %w", n.Path, err)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.Steps([]images.Step{{Op: "amend", Path: n.Path, Note: note}})
}

// amendmentOf is what -o says.
func amendmentOf(r *images.Run, format *formats.Format) (a formats.Amendment, note string, err error) {
	list, err := parseOptions(r.StringSlice("options"), format.Options, format.Name)
	if err != nil {
		return a, "", err
	}
	if len(list) == 0 {
		return a, "", term.Usagef("%s wants -o, compat or lazy_refcounts", r.Command.HelpName)
	}
	var notes []string
	for _, opt := range list {
		if err := a.Set(opt.key, opt.value); err != nil {
			return a, "", term.Usagef("-o %s=%s: %w", opt.key, opt.value, err)
		}
		notes = append(notes, opt.key+"="+opt.value)
	}
	return a, strings.Join(notes, ", "), nil
}
