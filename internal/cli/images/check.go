package images

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Exit statuses of image check, as qemu-img's.
const (
	ExitCheckFailed  = 1
	ExitCorruptions  = 2
	exitLeaks        = 3
	ExitNotCheckable = 63
)

// CheckHelp tells of the exit statuses in help texts.
const CheckHelp = `Exit status, as qemu-img's:
   0  no errors (any more)
   1  the check could not be done
   2  the image is corrupt
   3  clusters have leaked: space is lost, no data
  63  images of this format cannot be checked`

// CheckUsageError is term.UsageError with the status that is qemu-img's.
func CheckUsageError(c *cli.Context, err error, sub bool) error {
	return &term.ExitError{Code: ExitCheckFailed, Err: term.UsageError(c, err, sub)}
}

// CheckOutcome gives what is left to say of a check qemu-img's status: 2 and 4 mean
// something else there.
func CheckOutcome(err error) error {
	var exit *term.ExitError
	if err == nil || errors.As(err, &exit) && exit.Err == nil {
		return err
	}
	return &term.ExitError{Code: ExitCheckFailed, Err: err}
}

// CheckFile checks an image, locked for as long as that takes.
func CheckFile(s *chain.Store, path string, repair formats.Repair, check func(vfs.File, formats.Repair) (formats.CheckResult, error)) (res formats.CheckResult, err error) {
	mode := vfs.LockRead
	if repair != formats.RepairNone {
		mode = vfs.LockWrite
	}
	f, err := s.FS.Open(path, repair != formats.RepairNone)
	if err != nil {
		return res, err
	}
	if err = s.Lock(f, mode); err == nil {
		if res, err = check(f, repair); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return res, errors.Join(err, f.Close())
}

// CheckExit is the exit status that qemu-img gives.
func CheckExit(res *formats.CheckResult) error {
	switch {
	case res.CheckErrors > 0:
		return &term.ExitError{Code: ExitCheckFailed}
	case res.Corruptions > 0:
		return &term.ExitError{Code: ExitCorruptions}
	case res.Leaks > 0:
		return &term.ExitError{Code: exitLeaks}
	}
	return nil
}

// CheckText writes each problem, and then what qemu-img check writes.
func CheckText(w io.Writer, res *formats.CheckResult) {
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
		fmt.Fprintf(w, "repaired: %s\n", term.Printable(what))
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
