package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
)

func policyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "check, show or write the policy", OnUsageError: usageError,
		Description: exitHelp,
		Subcommands: []*cli.Command{policyCheck(e), policyShow(e), policyInit(e)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("policy %q: want check, show or init", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// checkReport is the JSON of policy check.
type checkReport struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Policies []string         `json:"policies"`
	Problems []policy.Problem `json:"problems"`
	Warnings []policy.Problem `json:"warnings"`
}

func policyCheck(e *env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "validate the policy file; all errors are told at once",
		ArgsUsage: "[FILE]", Flags: []cli.Flag{outputFlag()}, OnUsageError: usageError,
		Description: "Whether two policies match one domain is seen by policy show, which asks the host.\n\n" + exitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			if c.Args().Len() > 1 {
				return usagef("policy check takes one file")
			}
			if c.Args().Present() {
				e.policyPath = c.Args().First()
			}
			return e.checkPolicy(c)
		},
	}
}

func (e *env) checkPolicy(c *cli.Context) error {
	f, err := e.loadPolicy()
	r := checkReport{File: e.policyPath, OK: err == nil, Policies: []string{}, Problems: []policy.Problem{}, Warnings: []policy.Problem{}}
	var problems policy.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	r.Problems = append(r.Problems, problems...)
	if f != nil {
		r.Warnings = append(r.Warnings, f.Warnings()...)
		for i := range f.Rules {
			r.Policies = append(r.Policies, f.Rules[i].Name)
		}
	}
	if c.String("output") == "human" && err != nil {
		return err // the caller prints it
	}
	if err != nil {
		err = &exitError{code: exitUsage}
	}
	return errors.Join(err, e.print(c, r, func(w io.Writer) {
		for _, p := range r.Warnings {
			fmt.Fprintln(w, "warning:", p.Error())
		}
		fmt.Fprintf(w, "%s: %s, no error\n", e.policyPath, policies(len(r.Policies)))
	}))
}

func policies(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}

// showReport is the JSON of policy show.
type showReport struct {
	Domains []shownRule `json:"domains"`
}

type shownRule struct {
	Name     string          `json:"name"`
	Policy   *policy.Rule    `json:"policy"`
	Conflict *policy.Problem `json:"conflict,omitempty"` // several policies match it
}

func policyShow(e *env) *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print the effective policy of each domain",
		ArgsUsage: "[DOMAIN…]", Flags: []cli.Flag{outputFlag()}, OnUsageError: usageError,
		Description: "A domain that several policies match has none; the exit status is 2 then.\n\n" + exitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			return e.with(false, func(s *session) error {
				w, a, err := s.assigned(c.Context, c.Args().Slice())
				if err != nil {
					return err
				}
				report, conflicts := newShowReport(w, a, c.Args().Len() == 0)
				if conflicts > 0 {
					err = &exitError{code: exitUsage}
				}
				return errors.Join(err, e.print(c, report, func(w io.Writer) { showText(w, report) }))
			})
		},
	}
}

// newShowReport is about the domains of a, or about all.
func newShowReport(w *rotate.World, a policy.Assignment, all bool) (r *showReport, conflicts int) {
	r = &showReport{[]shownRule{}}
	for i := range w.Domains {
		name := w.Domains[i].Name
		shown := shownRule{Name: name, Policy: a.Rules[name]}
		if c := a.Conflicts[name]; c != nil {
			shown.Conflict = &c.Problem
			conflicts++
		}
		if all || shown.Policy != nil || shown.Conflict != nil {
			r.Domains = append(r.Domains, shown)
		}
	}
	return r, conflicts
}

func showText(w io.Writer, report *showReport) {
	for i, d := range report.Domains {
		if i > 0 {
			fmt.Fprintln(w)
		}
		switch {
		case d.Conflict != nil:
			fmt.Fprintf(w, "# %s: refused: %s\n", d.Name, d.Conflict)
		case d.Policy == nil:
			fmt.Fprintf(w, "# %s: no policy\n", d.Name)
		default:
			fmt.Fprintf(w, "# %s\n%s", d.Name, d.Policy.TOML())
		}
	}
}

func policyInit(e *env) *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "write a commented first policy; an existing file is left alone",
		ArgsUsage: "[FILE]", OnUsageError: usageError, Description: exitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 1 {
				return usagef("policy init takes one file")
			}
			path := e.policyPath
			if c.Args().Present() {
				path = c.Args().First()
			}
			if err := writeNew(path, policy.First()); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "%s written: edit the domains in it, then run\n  virt-rotate --policy %s plan\n", path, path)
			return nil
		},
	}
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return &exitError{exitRefused, fmt.Errorf("%s is there already: it is left as it is", path)}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
