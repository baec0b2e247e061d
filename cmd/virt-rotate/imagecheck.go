package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Exit statuses of image check, as qemu-img's.
const (
	exitCheckFailed  = 1
	exitCorruptions  = 2
	exitLeaks        = 3
	exitNotCheckable = 63
)

const imageCheckHelp = `Exit status, as qemu-img's:
   0  no errors (any more)
   1  the check could not be done
   2  the image is corrupt
   3  clusters have leaked: space is lost, no data
  63  images of this format cannot be checked`

func imageCheckCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "look for inconsistencies in an image, and repair them",
		ArgsUsage: "FILE", OnUsageError: checkUsageError,
		Flags: []cli.Flag{
			outputFlag(), formatFlag(),
			&cli.StringFlag{Name: "repair", Aliases: []string{"r"}, Usage: "repair `WHAT`: leaks, or all"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
		},
		Description: `The backing files are not looked at. JSON keys are those of qemu-img.

   virt-rotate image check web.qcow2
   virt-rotate image check -r leaks web.qcow2

` + imageCheckHelp,
		Action: func(c *cli.Context) error {
			err := imageAction(e, 1, 1, checkImage)(c)
			var exit *exitError
			if err == nil || errors.As(err, &exit) && exit.err == nil {
				return err
			}
			return &exitError{exitCheckFailed, err} // 2 and 4 mean something else here
		},
	}
}

func checkUsageError(c *cli.Context, err error, sub bool) error {
	return &exitError{exitCheckFailed, usageError(c, err, sub)}
}

// checkReport is the JSON of image check; keys are qemu-img's.
type imageCheckReport struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	formats.CheckResult
}

func checkImage(r *imageRun) error {
	repair, err := repairOf(r)
	if err != nil {
		return err
	}
	n, err := r.store.Node(r.arg(0), r.format())
	if err != nil {
		return err
	}
	format, err := formats.Named(n.Image.Format)
	if err != nil {
		return err
	}
	if format.Check == nil {
		fmt.Fprintf(r.err, "virt-rotate: %s: images of format %s cannot be checked\n", printable(r.arg(0)), format.Name)
		return &exitError{code: exitNotCheckable}
	}
	res, err := checkFile(r.store.FS, n.Path, repair, format.Check)
	if err != nil {
		return err
	}
	report := imageCheckReport{r.arg(0), format.Name, res}
	if !r.Bool("quiet") || r.String("output") == "json" {
		err = r.print(r.Context, report, func(w io.Writer) { checkText(w, &res) })
	}
	return errors.Join(err, checkExit(&res))
}

func repairOf(r *imageRun) (formats.Repair, error) {
	switch what := r.String("repair"); what {
	case "":
		return formats.RepairNone, nil
	case "leaks":
		return formats.RepairLeaks, nil
	case "all":
		return formats.RepairAll, nil
	default:
		return formats.RepairNone, usagef("-r %s: want leaks or all", what)
	}
}

func checkFile(fs vfs.FS, path string, repair formats.Repair, check func(vfs.File, formats.Repair) (formats.CheckResult, error)) (res formats.CheckResult, err error) {
	mode := vfs.LockRead
	if repair != formats.RepairNone {
		mode = vfs.LockWrite
	}
	f, err := fs.Open(path, repair != formats.RepairNone)
	if err != nil {
		return res, err
	}
	if err = f.Lock(mode); err == nil {
		if res, err = check(f, repair); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return res, errors.Join(err, f.Close())
}

// checkExit is the exit status that qemu-img gives.
func checkExit(res *formats.CheckResult) error {
	switch {
	case res.CheckErrors > 0:
		return &exitError{code: exitCheckFailed}
	case res.Corruptions > 0:
		return &exitError{code: exitCorruptions}
	case res.Leaks > 0:
		return &exitError{code: exitLeaks}
	}
	return nil
}

// checkText writes each problem, and then what qemu-img check writes.
func checkText(w io.Writer, res *formats.CheckResult) {
	for _, p := range res.Problems {
		fmt.Fprintln(w, p)
	}
	if more := res.ProblemCount - int64(len(res.Problems)); more > 0 {
		fmt.Fprintf(w, "… and %d more\n", more)
	}
	if res.CorruptionsFixed > 0 || res.LeaksFixed > 0 {
		fmt.Fprintf(w, "The following inconsistencies were found and repaired:\n\n    %d leaked clusters\n    %d corruptions\n\nDouble checking the fixed image now...\n",
			res.LeaksFixed, res.CorruptionsFixed)
	}
	for _, what := range res.Repaired {
		fmt.Fprintf(w, "repaired: %s\n", printable(what))
	}
	checkSummary(w, res)
	if n := res.TotalClusters; n > 0 && res.AllocatedClusters > 0 {
		fmt.Fprintf(w, "%d/%d = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
			res.AllocatedClusters, n, percent(res.AllocatedClusters, n),
			percent(res.FragmentedClusters, res.AllocatedClusters), percent(res.CompressedClusters, res.AllocatedClusters))
	}
	if res.ImageEndOffset > 0 {
		fmt.Fprintf(w, "Image end offset: %d\n", res.ImageEndOffset)
	}
}

func checkSummary(w io.Writer, res *formats.CheckResult) {
	if res.Corruptions > 0 {
		fmt.Fprintf(w, "\n%d errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n", res.Corruptions)
	}
	if res.Leaks > 0 {
		fmt.Fprintf(w, "\n%d leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", res.Leaks)
	}
	if res.CheckErrors > 0 {
		fmt.Fprintf(w, "\n%d internal errors have occurred during the check.\n", res.CheckErrors)
	}
	if res.Corruptions+res.Leaks+res.CheckErrors == 0 {
		fmt.Fprintln(w, "No errors were found on the image.")
	}
}

func percent(n, of int64) float64 { return float64(n) * 100 / float64(of) }
