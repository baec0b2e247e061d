package guests

import (
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// statusReport is the JSON of status.
type statusReport struct {
	Domains  []domainStatus `json:"domains"`
	Warnings []string       `json:"warnings,omitempty"`
}

func statusCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "tell how the domains stand: snapshots, chains, space, last run, what is due",
		ArgsUsage: "[DOMAIN…]", Flags: []cli.Flag{term.OutputFlag(),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "on a terminal: show the line of each guest, and how far merges are, until ^C"}}, OnUsageError: term.UsageError,
		Description: "Without names, one line for each guest, with the verdict of virt-rotate check; with names, or\n" +
			"globs of names, all of it: '*' is everything.\n\n" +
			"   virt-rotate status --watch\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			if c.Bool("watch") {
				return watch(e, c)
			}
			if c.String("output") == "human" && c.NArg() == 0 {
				return overview(e, c)
			}
			return session.WithLook(e, false, func(l *session.Look) error {
				report, err := newStatusReport(l, c)
				if err != nil {
					return err
				}
				for _, text := range report.Warnings {
					term.Warn(e.Err, text)
				}
				return e.Print(c, report, func(w io.Writer) { statusText(w, report, time.Now()) })
			})
		},
	}
}

func newStatusReport(l *session.Look, c *cli.Context) (*statusReport, error) {
	w, a, err := l.Assigned(c.Context, c.Args().Slice())
	if err != nil {
		return nil, err
	}
	last, err := rotate.LastRuns(l.Observer.StateDir)
	if err != nil {
		return nil, err
	}
	report := &statusReport{Domains: []domainStatus{}}
	names := slices.AppendSeq(slices.Collect(maps.Keys(a.Rules)), maps.Keys(a.Conflicts))
	entries, err := history.In(l.Observer.StateDir).Read(history.Query{Domains: names, Each: pastEntries})
	if err != nil { // it is a report: the rest of the status stands
		report.Warnings = append(report.Warnings, "history: "+err.Error())
	}
	working, err := vfs.RunLockHeld(filepath.Join(l.Observer.StateDir, "run.lock"))
	if err != nil {
		report.Warnings = append(report.Warnings, err.Error())
	}
	for i := range w.Domains {
		if d := &w.Domains[i]; slices.Contains(names, d.Name) {
			st := withTrend(statusOf(w, d, a, last), d.UUID, entries)
			past := pastOf(d.Name, d.UUID, entries, last)
			past.Working = working
			v := judged(w, d, a, past, time.Now())
			st.Verdict = verdictStatus{v.Level, v.Reasons}
			report.Domains = append(report.Domains, st)
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
