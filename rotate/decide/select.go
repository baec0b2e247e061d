package decide

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// ErrNoPolicy says that a domain was named that no policy covers.
var ErrNoPolicy = errors.New("no policy covers the domain")

// Select returns what is assigned to each named domain, or to every domain that a policy
// selects.
func Select(w *observe.World, match func([]string) policy.Assignment, names []string) (policy.Assignment, error) {
	known := w.Names()
	all := match(known)
	if len(names) == 0 {
		return all, nil
	}
	chosen := policy.Assignment{Rules: map[string]*policy.Rule{}, Conflicts: map[string]*policy.Conflict{}}
	var errs []error
	for _, name := range names {
		switch {
		case !slices.Contains(known, name):
			errs = append(errs, fmt.Errorf("%s: %w", name, observe.ErrNoSuchDomain))
		case all.Conflicts[name] != nil:
			chosen.Conflicts[name] = all.Conflicts[name]
		case all.Rules[name] != nil:
			chosen.Rules[name] = all.Rules[name]
		default:
			errs = append(errs, fmt.Errorf("%s: %w", name, ErrNoPolicy))
		}
	}
	return chosen, errors.Join(errs...)
}

// ConflictPlan refuses a domain that several policies match: which of them is meant is not
// known, and what one keeps the other may drop. The other domains are rotated.
func ConflictPlan(d *host.Domain, c *policy.Conflict) Plan {
	p := Plan{Domain: d.Name, Policy: conflictName(c), State: d.State, Steps: []Step{}, Refused: []Refusal{}}
	p.Refuse(host.CodeTwoPolicies, c.Problem.File, c.Problem.Text)
	p.Settle()
	return p
}

// conflictName stands for the policy's name; no policy has one with spaces.
func conflictName(c *policy.Conflict) string { return strings.Join(c.Names(), " and ") }

// RuleFor is the rule of a domain that is chosen. For one with a conflict nothing is to
// be done by any rule, and no hook is to be run.
func RuleFor(a policy.Assignment, domain string) *policy.Rule {
	if rule := a.Rules[domain]; rule != nil {
		return rule
	}
	return &policy.Rule{}
}
