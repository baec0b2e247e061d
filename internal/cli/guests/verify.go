package guests

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/bundle"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func verifyCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "prove that an export of a guest is whole, with all that it builds on",
		ArgsUsage: "DIR", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			term.OutputFlag(),
			&cli.BoolFlag{Name: "full", Usage: "also read every disk as the guest would, and compare that with the manifest"},
			&cli.BoolFlag{Name: "progress", Aliases: []string{"p"}, Usage: "show progress each second, also when it goes to a log"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
		},
		Description: `DIR is what export --all has written. The sums of all files are compared, and what each
image builds on, down to the first export of the chain. Nothing is asked of libvirt:
it works wherever the directories are.

   virt-rotate verify /srv/backup/web-3
   virt-rotate verify --full /srv/backup/web-3

Exit status:
   0  all is as it was written
   1  something is damaged or missing, or the check failed
   2  wrong usage`,
		Action: images.Action(e, 1, 1, verifyExport),
	}
}

// A verifyReport is the JSON of verify.
type verifyReport struct {
	Dir      string          `json:"dir"`
	Domain   string          `json:"domain,omitempty"`
	Snapshot string          `json:"snapshot,omitempty"`
	Chain    []string        `json:"chain"` // directories, the whole export first
	Full     bool            `json:"full"`  // disks were read as the guest would
	Problems []verifyProblem `json:"problems"`
	Unknown  []string        `json:"unknown,omitempty"` // files of which no manifest knows
}

type verifyProblem struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

func verifyExport(r *images.Run) error {
	report := verifyReport{Dir: r.Arg(0), Full: r.Bool("full"), Chain: []string{}, Problems: []verifyProblem{}}
	err := report.verify(r)
	var bad *bundle.DamagedError
	if errors.As(err, &bad) {
		report.Problems, err = append(report.Problems, verifyProblem{bad.Path, bad.Reason}), nil
	}
	if err != nil {
		return err
	}
	if !r.Bool("quiet") || r.String("output") == "json" || len(report.Problems) > 0 {
		err = r.Print(r.Context, report, report.text)
	}
	if err == nil && len(report.Problems) > 0 {
		err = &term.ExitError{Code: term.ExitFailed}
	}
	return err
}

func (v *verifyReport) verify(r *images.Run) error {
	b, err := bundle.Open(r.Arg(0))
	if err != nil {
		return err
	}
	v.Dir, v.Domain, v.Snapshot = b.Dir, b.Domain, b.Snapshot.Name
	for _, one := range b.Chain() {
		v.Chain = append(v.Chain, one.Dir)
	}
	c := bundle.Check{Store: r.Store, Full: v.Full, Progress: r.Progress}
	wrong, err := c.Verify(r.Ctx(), b)
	if err != nil {
		return err
	}
	for _, w := range wrong {
		v.Problems = append(v.Problems, verifyProblem{w.Path, w.Reason})
	}
	v.Unknown, err = b.Strangers()
	return err
}

func (v *verifyReport) text(w io.Writer) {
	for _, p := range v.Problems {
		fmt.Fprintf(w, "wrong      %s: %s\n", term.Printable(p.Path), term.Printable(p.Problem))
	}
	for _, path := range v.Unknown {
		fmt.Fprintf(w, "unknown    %s: in no manifest\n", term.Printable(path))
	}
	if len(v.Problems) > 0 {
		fmt.Fprintf(w, "%s: %s: it must not be relied on\n", term.Printable(v.Dir), term.Plural(len(v.Problems), "problem"))
		return
	}
	what := "all files are as they were written"
	if v.Full {
		what += ", and the guest would read what the snapshot had"
	}
	fmt.Fprintf(w, "%s: %s of %s, %s: %s\n", term.Printable(v.Dir), term.Printable(v.Snapshot), term.Printable(v.Domain), term.Plural(len(v.Chain), "export"), what)
}
