package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

func policyCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "check, show or write the policy", OnUsageError: term.UsageError,
		Description: term.ExitHelp,
		Subcommands: []*cli.Command{policyCheck(e), policyShow(e), policyInit(e)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("policy %q: want check, show or init", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// showReport is the JSON of policy show.
type showReport struct {
	Storage      policy.Storage      `json:"storage"`
	Coordination policy.Coordination `json:"coordination"`
	Check        policy.HostCheck    `json:"check"`
	MetricsFile  string              `json:"metrics_file"`
	Domains      []shownRule         `json:"domains"`
}

type shownRule struct {
	Name     string          `json:"name"`
	Policy   *policy.Rule    `json:"policy" jsonschema:"nullable"`
	Conflict *policy.Problem `json:"conflict,omitempty"` // several policies match it
}

func policyShow(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print the effective policy of each domain",
		ArgsUsage: "[DOMAIN…]", Flags: []cli.Flag{term.OutputFlag()}, OnUsageError: term.UsageError,
		Description: "A domain that several policies match has none; the exit status is 2 then.\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.WithLook(e, false, func(l *session.Look) error {
				w, a, err := l.Assigned(c.Context, c.Args().Slice())
				if err != nil {
					return err
				}
				report, conflicts := newShowReport(w, a, c.Args().Len() == 0)
				report.Storage, report.Coordination, report.Check, report.MetricsFile = l.Policy.Storage, l.Policy.Coordination, l.Policy.Check, l.Policy.MetricsFile
				if conflicts > 0 {
					err = &term.ExitError{Code: term.ExitUsage}
				}
				return errors.Join(err, e.Print(c, report, func(w io.Writer) { showText(w, report) }))
			})
		},
	}
}

// newShowReport is about the domains of a, or about all.
func newShowReport(w *observe.World, a policy.Assignment, all bool) (r *showReport, conflicts int) {
	r = &showReport{Domains: []shownRule{}}
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

// topLevel is what the file says outside of policies.
func (r *showReport) topLevel() string {
	var tables []string
	if r.MetricsFile != "" {
		tables = append(tables, fmt.Sprintf("%-13s = %q\n", "metrics_file", r.MetricsFile))
	}
	for _, table := range []string{r.Storage.TOML(), r.Coordination.TOML(), r.Check.TOML()} {
		if table != "" {
			tables = append(tables, table)
		}
	}
	return strings.Join(tables, "\n")
}

func showText(w io.Writer, report *showReport) {
	top := report.topLevel()
	fmt.Fprint(w, top)
	for i, d := range report.Domains {
		if i > 0 || top != "" {
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

func policyInit(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "write a commented first policy; an existing file is left alone",
		ArgsUsage: "[FILE]", OnUsageError: term.UsageError, Description: term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 1 {
				return term.Usagef("policy init takes one file")
			}
			path := e.PolicyPath
			if c.Args().Present() {
				path = c.Args().First()
			}
			if err := writeNew(path, policy.First()); err != nil {
				return err
			}
			fmt.Fprintf(e.Out, "%s written: edit the domains in it, then run\n  virt-rotate --policy %s plan\n", path, path)
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
		return &term.ExitError{Code: term.ExitRefused, Err: fmt.Errorf("%s is there already: it is left as it is", path)}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
