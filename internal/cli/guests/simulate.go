package guests

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// simulationReport is the JSON of plan --simulate.
type simulationReport struct {
	Until   time.Time         `json:"until"`
	Domains []simulatedDomain `json:"domains"`
}

type simulatedDomain struct {
	Name   string              `json:"name"`
	Policy string              `json:"policy"`
	Most   int                 `json:"most"` // snapshots at a time
	Days   []simulatedDay      `json:"days"` // those on which something happens
	Left   []simulatedSnapshot `json:"left"` // at the end, oldest first
}

// A simulatedDay is one of the host's zone.
type simulatedDay struct {
	Day     string `json:"day"`
	Taken   int    `json:"taken"`
	Dropped int    `json:"dropped"`
	Left    int    `json:"left"`
}

type simulatedSnapshot struct {
	Name    string    `json:"name"`
	Time    time.Time `json:"time"`
	Reasons []string  `json:"reasons"`
}

// simulate tells which snapshots there would be over time.
func simulate(e *term.Env, c *cli.Context) error {
	span, err := policy.ParseDuration(c.String("simulate"))
	if err != nil {
		return term.Usagef("--simulate: %w", err)
	}
	if err := term.CheckOutput(c); err != nil {
		return err
	}
	return session.WithLook(e, false, func(l *session.Look) error {
		w, a, err := l.Assigned(c.Context, c.Args().Slice())
		if err != nil {
			return err
		}
		now := e.Clock()
		report := &simulationReport{Until: now.Add(span).UTC().Truncate(time.Second), Domains: []simulatedDomain{}}
		for i := range w.Domains {
			d := &w.Domains[i]
			rule := a.Rules[d.Name]
			if rule == nil {
				continue
			}
			sim, err := rule.Simulate(decide.Taken(d), now, span)
			if err != nil {
				return term.Usagef("--simulate %s: %s: %w", c.String("simulate"), d.Name, err)
			}
			report.Domains = append(report.Domains, newSimulatedDomain(d.Name, rule.Name, &sim, now.Location()))
		}
		return e.Print(c, report, func(w io.Writer) { simulationText(w, report, a) })
	})
}

func newSimulatedDomain(name, rule string, s *policy.Simulation, zone *time.Location) simulatedDomain {
	d := simulatedDomain{Name: name, Policy: rule, Most: s.Most, Days: []simulatedDay{}, Left: []simulatedSnapshot{}}
	for _, m := range s.Moments {
		day := m.Time.In(zone).Format(time.DateOnly)
		if n := len(d.Days); n == 0 || d.Days[n-1].Day != day {
			d.Days = append(d.Days, simulatedDay{Day: day})
		}
		last := &d.Days[len(d.Days)-1]
		if m.Taken {
			last.Taken++
		}
		last.Dropped += len(m.Dropped)
		last.Left = m.Left
	}
	for i, left := range s.Left {
		d.Left = append(d.Left, simulatedSnapshot{left.Name, left.Time.UTC(), s.Why[i].Reasons})
	}
	return d
}

func simulationText(w io.Writer, report *simulationReport, a policy.Assignment) {
	for i := range report.Domains {
		d := &report.Domains[i]
		rule := a.Rules[d.Name]
		fmt.Fprintf(w, "%s (policy %s: %s)\n", term.Printable(d.Name), d.Policy, ruleText(rule))
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(tw, "  DAY\tTAKEN\tDROPPED\tLEFT")
		for k, day := range d.Days {
			if k > 0 && k < len(d.Days)-1 && alike(d.Days[k-1], day) {
				if k == 1 || !alike(d.Days[k-2], d.Days[k-1]) {
					fmt.Fprintln(tw, "  …")
				}
				continue
			}
			fmt.Fprintf(tw, "  %s\t%d\t%d\t%d\n", day.Day, day.Taken, day.Dropped, day.Left)
		}
		_ = tw.Flush() // as with all that is printed: errors of w are not told
		leftText(w, report, d)
		fmt.Fprintf(w, "  at most %s at a time\n", term.Plural(d.Most, "snapshot"))
	}
}

// leftText lists what there is at the end.
func leftText(w io.Writer, report *simulationReport, d *simulatedDomain) {
	fmt.Fprintf(w, "  %s at the end, %s:\n", term.Plural(len(d.Left), "snapshot"), report.Until.Local().Format("2006-01-02 15:04"))
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range d.Left {
		fmt.Fprintf(tw, "    %s\t%s\n", term.Printable(s.Name), strings.Join(s.Reasons, ", "))
	}
	_ = tw.Flush()
}

func ruleText(r *policy.Rule) string {
	if r.Manual {
		return "takes none, drops what expires"
	}
	return fmt.Sprintf("every %s, keep %s", r.Every, r.Keep.Text())
}

// alike tells whether two days differ in their date alone.
func alike(a, b simulatedDay) bool {
	a.Day = b.Day
	return a == b
}
