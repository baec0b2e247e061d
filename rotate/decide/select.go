package decide

import (
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

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
