package guests

import "github.com/virt-rotate/virt-rotate/rotate/observe"

// Reports are what the commands print as JSON, each by the words of its command.
func Reports() map[string]any {
	return map[string]any{
		"plan": PlanReport{}, "run": PlanReport{}, "restore": PlanReport{},
		"status": statusReport{}, "history": HistoryReport{}, "tree": treeReport{}, "tree-who": observe.Users{},
		"doctor": doctorReport{}, "check": checkReport{}, "policy-check": PolicyCheckReport{}, "policy-show": showReport{},
		"ls": listReport{}, "diff": diffReport{},
	}
}
