package guests

import (
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
)

// since reads a time of the host's zone, or how long ago it was; "" is no bound.
func since(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, ok := timeOf(text); ok {
		return t, nil
	}
	d, err := policy.ParseDuration(text)
	if err != nil {
		return time.Time{}, term.Usagef(`--since %q: want a time such as 2026-11-22 or "2026-11-22 03:00", or a duration such as 7d or 12h`, text)
	}
	return now.Add(-d), nil
}

// timeOf reads a time of the host's zone.
func timeOf(text string) (time.Time, bool) {
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", time.DateTime, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func agoText(t, now time.Time) string {
	if t.After(now.Add(time.Minute)) {
		return "in the future"
	}
	return duration(now.Sub(t)) + " ago"
}

// duration is short: the two largest units at most.
func duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
