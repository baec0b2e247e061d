package guests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// PolicyCheckReport is the JSON of policy check.
type PolicyCheckReport struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Policies []string         `json:"policies"`
	Problems []policy.Problem `json:"problems"`
	Warnings []policy.Problem `json:"warnings"`
	Host     *hostReport      `json:"host,omitempty"` // null with --no-host, or where the file itself is wrong
}

// A hostReport says what the policies mean on the host. What is wrong with them there
// is among the problems and warnings.
type hostReport struct {
	Compared  bool     `json:"compared"`
	Reason    string   `json:"reason,omitempty"` // why they were not compared
	Domains   int      `json:"domains"`
	Uncovered []string `json:"uncovered"` // domains without a policy
}

func policyCheck(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "validate the policy file; all errors are told at once",
		ArgsUsage: "[FILE]", OnUsageError: term.UsageError,
		Flags: []cli.Flag{term.OutputFlag(), &cli.BoolFlag{Name: "no-host", Usage: "look at the file only, do not ask libvirt"}},
		Description: `A file without an error is then held against the domains of the host, if libvirt can be
asked: a domain that several policies match is an error (exit status 2), a glob that matches
nothing a warning, domains without a policy are named. That there is no connection is
told, and is no error.

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			if c.Args().Len() > 1 {
				return term.Usagef("policy check takes one file")
			}
			if c.Args().Present() {
				e.PolicyPath = c.Args().First()
			}
			return checkPolicy(e, c)
		},
	}
}

func checkPolicy(e *term.Env, c *cli.Context) error {
	f, err := session.LoadPolicy(e)
	r := &PolicyCheckReport{File: e.PolicyPath, Policies: []string{}, Problems: []policy.Problem{}, Warnings: []policy.Problem{}}
	var problems policy.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if err == nil {
		r.fill(f)
		if !c.Bool("no-host") {
			guests, failed := guestsOf(c.Context, e, f)
			problems = r.compare(f, guests, failed)
		}
	}
	r.Problems = append(r.Problems, problems...)
	r.OK = len(r.Problems) == 0
	human := c.String("output") == "human"
	switch {
	case err != nil && human:
		return err // the caller prints it
	case !r.OK && human:
		err = problems
	case !r.OK:
		err = &term.ExitError{Code: term.ExitUsage}
	}
	return errors.Join(e.Print(c, r, r.text), err)
}

// fill tells what the file says by itself.
func (r *PolicyCheckReport) fill(f *policy.File) {
	r.Warnings = append(r.Warnings, f.Warnings()...)
	for i := range f.Rules {
		r.Policies = append(r.Policies, f.Rules[i].Name)
	}
}

// compare tells what it means on the host, and returns what is an error there.
// That the host could not be asked is none.
func (r *PolicyCheckReport) compare(f *policy.File, guests []policy.Guest, failed error) policy.Problems {
	r.Host = &hostReport{Compared: failed == nil, Domains: len(guests), Uncovered: []string{}}
	if !r.Host.Compared {
		r.Host.Reason = strings.Join(strings.Fields(failed.Error()), " ")
		return nil
	}
	c := f.Compare(guests)
	r.Host.Uncovered = append(r.Host.Uncovered, c.Uncovered...)
	r.Warnings = append(r.Warnings, c.Warnings...)
	return c.Overlaps
}

func (r *PolicyCheckReport) text(w io.Writer) {
	for _, p := range r.Warnings {
		fmt.Fprintln(w, "warning:", p.Error())
	}
	switch h := r.Host; {
	case h == nil:
	case !h.Compared:
		fmt.Fprintln(w, "note: not compared with the host:", h.Reason)
	case len(h.Uncovered) > 0:
		fmt.Fprintf(w, "note: %d of %s of this host without a policy: %s\n", len(h.Uncovered), term.Plural(h.Domains, "domain"), strings.Join(h.Uncovered, ", "))
	}
	if r.OK {
		fmt.Fprintf(w, "%s: %s, no error\n", r.File, policies(len(r.Policies)))
	}
}

func policies(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}

// hostPatience is how long libvirt may take to tell of its domains.
const hostPatience = 15 * time.Second

// guestsOf asks the host for its domains. A call that takes too long is left behind.
func guestsOf(ctx context.Context, e *term.Env, f *policy.File) ([]policy.Guest, error) {
	type result struct {
		guests []policy.Guest
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, hostPatience)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		guests, err := askGuests(ctx, session.URI(e, f))
		done <- result{guests, err}
	}()
	select {
	case r := <-done:
		return r.guests, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("libvirt does not answer: %w", ctx.Err())
	}
}

func askGuests(ctx context.Context, uri string) ([]policy.Guest, error) {
	host, err := libvirthost.Open(uri)
	if err != nil {
		return nil, err
	}
	domains, err := host.Outline(ctx)
	guests := make([]policy.Guest, len(domains))
	for i := range domains {
		guests[i] = decide.Guest(&domains[i])
		for j := range domains[i].Disks {
			if d := &domains[i].Disks[j]; !d.ReadOnly && (d.Device == "disk" || d.Device == "lun") {
				guests[i].Disks = append(guests[i].Disks, d.Target)
			}
		}
	}
	return guests, errors.Join(err, host.Close())
}
