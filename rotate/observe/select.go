package observe

import (
	"errors"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/policy"
)

// ErrNoSuchDomain says that a domain was named that the host does not have.
var ErrNoSuchDomain = errors.New("no such domain")

// ErrNoPolicy says that a domain was named that no policy covers.
var ErrNoPolicy = errors.New("no policy covers the domain")

// Select returns what is assigned to each named domain, or to every domain that a policy
// selects.
func Select(w *World, match func([]string) policy.Assignment, names []string) (policy.Assignment, error) {
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
			errs = append(errs, fmt.Errorf("%s: %w", name, ErrNoSuchDomain))
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

// Names lists the domains of the host.
func (w *World) Names() []string {
	names := make([]string, len(w.Domains))
	for i := range w.Domains {
		names[i] = w.Domains[i].Name
	}
	return names
}
