package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/rotate"
)

// doctorReport is the JSON of doctor.
type doctorReport struct {
	Findings []rotate.Finding `json:"findings"`
}

func doctorCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for leftovers and inconsistencies, and tell the remedy",
		ArgsUsage: "[DOMAIN…]", OnUsageError: usageError,
		Flags:       []cli.Flag{outputFlag(), &cli.BoolFlag{Name: "fix", Usage: "mend what is safe to mend"}},
		Description: exitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			return e.with(true, func(s *session) error { return e.doctor(c, s) })
		},
	}
}

func (e *env) doctor(c *cli.Context, s *session) error {
	if c.Bool("fix") {
		lock, err := rotate.Lock(s.rotator.Observer.StateDir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	w, err := s.rotator.Observer.Observe(c.Context)
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		if w.Domain(name) == nil {
			return fmt.Errorf("%s: %w", name, rotate.ErrNoSuchDomain)
		}
	}
	report := doctorReport{rotate.Diagnose(w, c.Args().Slice(), time.Now())}
	if report.Findings == nil {
		report.Findings = []rotate.Finding{}
	}
	var fixed error
	if c.Bool("fix") {
		fixed = rotate.Fix(c.Context, s.host, w, report.Findings)
	}
	err = e.print(c, report, func(w io.Writer) { doctorText(w, report.Findings) })
	return errors.Join(fixed, err, doctorExit(report.Findings))
}

// doctorExit is an error while something is left that is not as it should be.
func doctorExit(found []rotate.Finding) error {
	for _, f := range found {
		if !f.Fixed && !f.Note {
			return &exitError{code: exitFailed}
		}
	}
	return nil
}

func doctorText(w io.Writer, found []rotate.Finding) {
	if len(found) == 0 {
		fmt.Fprintln(w, "nothing found: all is in order")
	}
	for _, f := range found {
		state := "problem"
		switch {
		case f.Fixed:
			state = "fixed"
		case f.Note:
			state = "note"
		}
		place := strings.Trim(f.Domain+" "+f.Path, " ")
		fmt.Fprintf(w, "%-8s %s: %s: %s\n", state, f.Code, place, f.Detail)
		if !f.Fixed {
			fmt.Fprintf(w, "         remedy: %s\n", strings.ReplaceAll(f.Remedy, "\n", "\n         "))
		}
	}
}
