package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
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
			return withSession(e, false, func(s *session) error {
				report, err := newStatusReport(s, c)
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

func newStatusReport(s *session, c *cli.Context) (*statusReport, error) {
	w, a, err := s.assigned(c.Context, c.Args().Slice())
	if err != nil {
		return nil, err
	}
	last, err := rotate.LastRuns(s.rotator.Observer.StateDir)
	if err != nil {
		return nil, err
	}
	report := &statusReport{Domains: []domainStatus{}}
	names := slices.AppendSeq(slices.Collect(maps.Keys(a.Rules)), maps.Keys(a.Conflicts))
	entries, err := history.In(s.rotator.Observer.StateDir).Read(history.Query{Domains: names, Each: trendEntries})
	if err != nil { // it is a report: the rest of the status stands
		report.Warnings = append(report.Warnings, "history: "+err.Error())
	}
	for i := range w.Domains {
		if d := &w.Domains[i]; slices.Contains(names, d.Name) {
			report.Domains = append(report.Domains, withTrend(statusOf(w, d, a, last), d.UUID, entries))
		}
	}
	return report, nil
}

// statusOf tells how a domain stands that a is about.
func statusOf(w *observe.World, d *host.Domain, a policy.Assignment, last map[string]rotate.LastRun) rotate.DomainStatus {
	var run *rotate.LastRun
	if r, ok := last[d.UUID]; ok {
		run = &r
	}
	if c := a.Conflicts[d.Name]; c != nil {
		return rotate.ConflictStatus(w, d, c, run)
	}
	return rotate.Status(w, d, a.Rules[d.Name], run, time.Now())
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
		fmt.Fprintf(w, "  next      %s\n", nextText(&d.DomainStatus, now))
		if d.Waiting != "" {
			fmt.Fprintf(w, "  waiting   %s\n", d.Waiting)
		}
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
		host.Bytes(allocated), host.Bytes(active.VirtualSize), filepath.Base(active.Path))
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
	var why []string
	if r.Error != "" {
		why = append(why, r.Error)
	}
	for _, f := range r.Refused {
		why = append(why, refusalPlace(f)+": "+f.Detail)
	}
	if len(why) > 0 {
		text += ": " + strings.Join(why, "; ")
	}
	return text
}

// nextText tells when the next snapshot is due.
func nextText(d *rotate.DomainStatus, now time.Time) string {
	if slices.ContainsFunc(d.Refused, func(r decide.Refusal) bool { return r.Code == host.CodeTwoPolicies }) {
		return "nothing while several policies match the domain"
	}
	return dueText(d.Due, now)
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
