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

// A Matcher assigns domains to policies: see policy.File.MatchGuests.
type Matcher func([]policy.Guest) policy.Assignment

// Guests are the domains of the host as policies see them.
func Guests(w *observe.World) []policy.Guest {
	guests := make([]policy.Guest, len(w.Domains))
	for i := range w.Domains {
		guests[i] = Guest(&w.Domains[i])
	}
	return guests
}

// Guest is the domain as policies see it, without its disks.
func Guest(d *host.Domain) policy.Guest {
	g := policy.Guest{Name: d.Name}
	if d.Own != nil {
		own := policy.Own(*d.Own)
		g.Own = &own
	}
	return g
}

// Select returns what is assigned to each domain that a name or a glob of names is of, or
// to every domain that a policy selects. Of the domains that a glob fits, those count that a
// policy covers.
func Select(w *observe.World, match Matcher, names []string) (policy.Assignment, error) {
	all := Assign(w, match)
	if len(names) == 0 {
		return all, nil
	}
	chosen := policy.Assignment{Rules: map[string]*policy.Rule{}, Conflicts: map[string]*policy.Conflict{}}
	var errs []error
	for _, name := range names {
		domains, err := Domains(w, []string{name})
		found := false
		for _, domain := range domains {
			found = choose(&chosen, &all, domain) || found
		}
		switch {
		case err != nil:
			errs = append(errs, err)
		case !found:
			errs = append(errs, fmt.Errorf("%s: %w", name, ErrNoPolicy))
		}
	}
	return chosen, errors.Join(errs...)
}

// choose takes over what is assigned to the domain; it tells whether anything is.
func choose(chosen, all *policy.Assignment, domain string) bool {
	if c := all.Conflicts[domain]; c != nil {
		chosen.Conflicts[domain] = c
		return true
	}
	if rule := all.Rules[domain]; rule != nil {
		chosen.Rules[domain] = rule
		return true
	}
	return false
}

// Domains lists the domains that the names are of, each once, in the order of the names.
// A name that no domain has is taken for a glob, as the policy's are. The error is
// observe.ErrNoSuchDomain for each that fits none.
func Domains(w *observe.World, names []string) ([]string, error) {
	var found []string
	var errs []error
	for _, name := range names {
		fit := []string{name}
		if w.Domain(name) == nil {
			fit = policy.Matching(name, w.Names())
		}
		if len(fit) == 0 {
			errs = append(errs, w.NoSuchDomain(name))
		}
		for _, domain := range fit {
			if !slices.Contains(found, domain) {
				found = append(found, domain)
			}
		}
	}
	return found, errors.Join(errs...)
}

// ConflictPlan refuses a domain that several policies match, or whose metadata is at fault:
// which policy is meant is not known, and what one keeps the other may drop. The other domains are rotated.
func ConflictPlan(d *host.Domain, c *policy.Conflict) Plan {
	p := Plan{Domain: d.Name, Policy: conflictName(c), State: d.State, Steps: []Step{}, Refused: []Refusal{}}
	code := host.CodeTwoPolicies
	if c.Own {
		code = host.CodeOwnPolicy
	}
	p.Refuse(code, c.Problem.File, c.Problem.Text)
	p.Settle()
	return p
}

// conflictName stands for the policy's name; no policy has one with spaces.
func conflictName(c *policy.Conflict) string {
	if c.Own {
		return "of its metadata"
	}
	return strings.Join(c.Names(), " and ")
}

// RuleFor is the rule of a domain that is chosen. For one with a conflict nothing is to
// be done by any rule, and no hook is to be run.
func RuleFor(a policy.Assignment, domain string) *policy.Rule {
	if rule := a.Rules[domain]; rule != nil {
		return rule
	}
	return &policy.Rule{}
}
