package decide

import (
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// FailedPlan is what becomes of a domain whose plan could not be made.
func FailedPlan(d *host.Domain, rule *policy.Rule, err error) Plan {
	return Plan{Domain: d.Name, Policy: rule.Name, State: d.State, Steps: []Step{}, Refused: []Refusal{},
		Result: ResultFailed, Error: err.Error()}
}
