package image

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func checkCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "look for inconsistencies in an image, and repair them",
		ArgsUsage: "FILE", OnUsageError: images.CheckUsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(), images.ShareFlag(),
			&cli.StringFlag{Name: "repair", Aliases: []string{"r"}, Usage: "repair `WHAT`: leaks, or all"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
		}, images.SourceCompat()...),
		Description: `The backing files are not looked at. JSON keys are those of qemu-img.

   virt-rotate image check web.qcow2
   virt-rotate image check -r leaks web.qcow2

` + images.CheckHelp,
		Action: func(c *cli.Context) error {
			return images.CheckOutcome(images.Action(e, 1, 1, checkImage)(c))
		},
	}
}

// checkReport is the JSON of image check; keys are qemu-img's.
type checkReport struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	formats.CheckResult
}

func checkImage(r *images.Run) error {
	repair, err := repairOf(r)
	if err != nil {
		return err
	}
	if repair != formats.RepairNone && r.Bool("force-share") {
		return term.Usagef("-U is for reading only: an image that is repaired is nobody else's")
	}
	n, format, err := r.Image()
	if err != nil && (repair != formats.RepairAll || !formats.Restorable(err)) {
		return hinted(err)
	}
	if format.Check == nil {
		fmt.Fprintf(r.Err, "virt-rotate: %s: images of format %s cannot be checked\n", term.Printable(r.Arg(0)), format.Name)
		return &term.ExitError{Code: images.ExitNotCheckable}
	}
	res, err := images.CheckFile(r.Store, n.Path, repair, format.Check)
	if err != nil {
		return err
	}
	report := checkReport{r.Arg(0), format.Name, res}
	if !r.Bool("quiet") || r.String("output") == "json" {
		err = r.PrintAsQemuImg(r.Context, report, func(w io.Writer) { images.CheckText(w, &res) })
	}
	return errors.Join(err, images.CheckExit(&res))
}

// hinted tells of the repair.
func hinted(err error) error {
	if formats.Restorable(err) {
		return fmt.Errorf("%w; image check -r all looks for it, and makes it anew", err)
	}
	return err
}

func repairOf(r *images.Run) (formats.Repair, error) {
	switch what := r.String("repair"); what {
	case "":
		return formats.RepairNone, nil
	case "leaks":
		return formats.RepairLeaks, nil
	case "all":
		return formats.RepairAll, nil
	default:
		return formats.RepairNone, term.Usagef("-r %s: want leaks or all", what)
	}
}
