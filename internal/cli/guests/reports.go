package guests

import (
	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Reports are what the commands print as JSON, each by the words of its command.
func Reports() map[string]any {
	return map[string]any{
		"plan": PlanReport{}, "plan-simulate": simulationReport{}, "run": PlanReport{}, "restore": PlanReport{},
		"snapshot": PlanReport{}, "delete": PlanReport{}, "prune": PlanReport{}, "adopt": PlanReport{}, "migrate": PlanReport{}, "pin": pinReport{}, "unpin": pinReport{},
		"status": statusReport{}, "history": HistoryReport{}, "tree": treeReport{}, "tree-who": observe.Users{},
		"import": importReport{}, "verify": verifyReport{},
		"doctor": doctorReport{}, "check": checkReport{}, "policy-check": PolicyCheckReport{}, "policy-show": showReport{},
		"report": page.Model{}, "ls": listReport{}, "diff": diffReport{},
	}
}
