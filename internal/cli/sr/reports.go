package sr

import "github.com/virt-rotate/virt-rotate/internal/page"

// Reports are what the commands print as JSON, each by the words of its command.
func Reports() map[string]any {
	return map[string]any{
		"sr-scan": ScanReport{}, "sr-report": page.Model{}, "sr-check": checkReport{}, "sr-coalesce": CoalesceReport{}, "sr-convert": convertReport{}, "sr-repair": repairReport{}, "sr-pull": pullReport{},
	}
}
