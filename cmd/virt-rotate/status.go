package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
)

// statusReport is the JSON of status.
type statusReport struct {
	Domains  []domainStatus `json:"domains"`
	Warnings []string       `json:"warnings,omitempty"`
}

func statusCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "tell how the domains stand: snapshots, chains, space, last run, what is due",
		ArgsUsage: "[DOMAIN…]", Flags: []cli.Flag{outputFlag()}, OnUsageError: usageError,
		Description: exitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			return e.with(false, func(s *session) error {
				report, err := s.status(c)
				if err != nil {
					return err
				}
				for _, text := range report.Warnings {
					fmt.Fprintln(e.err, "virt-rotate: warning:", text)
				}
				return e.print(c, report, func(w io.Writer) { statusText(w, report, time.Now()) })
			})
		},
	}
}

func (s *session) status(c *cli.Context) (*statusReport, error) {
	w, rules, err := s.rules(c.Context, c.Args().Slice())
	if err != nil {
		return nil, err
	}
	last, err := rotate.LastRuns(s.rotator.Observer.StateDir)
	if err != nil {
		return nil, err
	}
	report := &statusReport{Domains: []domainStatus{}}
	entries, err := history.In(s.rotator.Observer.StateDir).Read(history.Query{Domains: slices.Collect(maps.Keys(rules)), Each: trendEntries})
	if err != nil { // it is a report: the rest of the status stands
		report.Warnings = append(report.Warnings, "history: "+err.Error())
	}
	for i := range w.Domains {
		d := &w.Domains[i]
		rule := rules[d.Name]
		if rule == nil {
			continue
		}
		var run *rotate.LastRun
		if r, ok := last[d.UUID]; ok {
			run = &r
		}
		report.Domains = append(report.Domains, withTrend(rotate.Status(w, d, rule, run, time.Now()), d.UUID, entries))
	}
	return report, nil
}

func statusText(w io.Writer, report *statusReport, now time.Time) {
	for i := range report.Domains {
		d := &report.Domains[i]
		fmt.Fprintf(w, "%s (policy %s, %s)\n", d.Name, d.Policy, d.State)
		fmt.Fprintf(w, "  last run  %s\n", lastRunText(d.LastRun, now))
		if text := d.successText(now); text != "" {
			fmt.Fprintf(w, "  success   %s\n", text)
		}
		if text := d.trendText(); text != "" {
			fmt.Fprintf(w, "  trend     %s\n", text)
		}
		fmt.Fprintf(w, "  next      %s\n", dueText(d.Due, now))
		for j := range d.Disks {
			diskText(w, &d.Disks[j])
		}
		snapshotsText(w, &d.DomainStatus, now)
		for _, r := range d.Refused {
			fmt.Fprintf(w, "  refused   %s: %s\n", refusalPlace(r), r.Detail)
		}
	}
}

func diskText(w io.Writer, d *rotate.DiskStatus) {
	if len(d.Chain) == 0 {
		return
	}
	var allocated int64
	for _, l := range d.Chain {
		allocated += l.Allocated
	}
	active := d.Chain[len(d.Chain)-1]
	fmt.Fprintf(w, "  %-8s  %s, %s on disk, %s virtual, writes to %s\n", d.Target, plural(len(d.Chain), "layer"),
		rotate.Bytes(allocated), rotate.Bytes(active.VirtualSize), filepath.Base(active.Path))
}

func snapshotsText(w io.Writer, d *rotate.DomainStatus, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range d.Snapshots {
		keep := "keep"
		switch {
		case s.Lost:
			keep = "lost"
		case !s.Ours:
			keep = "foreign"
		case !s.Keep:
			keep = "drop"
		}
		fmt.Fprintf(tw, "  snapshot\t%s\t%s\t%s\t%s\n", s.Name, agoText(s.Time, now), keep, s.Reason)
	}
	_ = tw.Flush() // errors of w are not told by the other lines either
}

func lastRunText(r *rotate.LastRun, now time.Time) string {
	if r == nil {
		return "never"
	}
	text := agoText(r.Time, now) + ": " + r.Result
	if r.Error != "" {
		text += ": " + r.Error
	}
	return text
}

func dueText(due *time.Time, now time.Time) string {
	switch {
	case due == nil:
		return "no snapshots: keep is 0"
	case !due.After(now):
		return "snapshot due now"
	}
	return fmt.Sprintf("snapshot due in %s (%s)", duration(due.Sub(now)), due.Local().Format("2006-01-02 15:04"))
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
