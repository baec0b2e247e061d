package sr

// Reports are what the commands print as JSON, each by the words of its command.
func Reports() map[string]any {
	return map[string]any{
		"sr-scan": ScanReport{}, "sr-check": checkReport{}, "sr-coalesce": CoalesceReport{}, "sr-convert": convertReport{}, "sr-repair": repairReport{}, "sr-pull": pullReport{},
	}
}
