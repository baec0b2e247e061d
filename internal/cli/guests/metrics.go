package guests

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/internal/metrics"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

func metricsCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "metrics", Usage: "print how the guests stand, for Prometheus",
		OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Usage: "replace `FILE` by the metrics, whole or not at all, instead of printing them"},
			&cli.StringFlag{Name: "timeout", Aliases: []string{"t"}, Value: "30s", Usage: "libvirt has to answer within `TIME`: 30s, 1m, or a number of seconds"},
		},
		Description: `The text format of Prometheus, with names that begin with virt_rotate_. Each run writes the
same into metrics_file of the policy, for the textfile collector of node_exporter; between
two runs this command can. Where libvirt does not answer, virt_rotate_libvirt_up is 0, what is
on record is told all the same, and the exit status is 1. Nothing is changed.

   virt-rotate metrics
   virt-rotate metrics --file /var/lib/prometheus/node-exporter/virt-rotate.prom

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("metrics are of the whole host: no domain can be named")
			}
			patience, err := patienceOf(c.String("timeout"))
			if err != nil {
				return err
			}
			return tellMetrics(e, c, patience)
		},
	}
}

func tellMetrics(e *term.Env, c *cli.Context, patience time.Duration) error {
	s, err := newSurvey(e)
	if err != nil {
		return err
	}
	s.look(c.Context, patience, fromOutside(e))
	h, err := s.metrics(c.App.Version)
	if err != nil {
		return err
	}
	for _, note := range s.notes {
		term.Warn(e.Err, note)
	}
	if file := c.String("file"); file != "" {
		err = metrics.Write(file, h)
	} else {
		err = metrics.Print(e.Out, h)
	}
	if s.noAnswer != "" {
		err = errors.Join(err, errors.New(s.noAnswer))
	}
	return err
}

// metrics are what the survey has found.
func (s *survey) metrics(version string) (*metrics.Host, error) {
	if err := s.judge(nil); err != nil {
		return nil, err
	}
	h := &metrics.Host{Version: version, Up: s.world != nil, Runs: s.runs, Level: rotate.OK}
	if !h.Up {
		h.Level = rotate.Unknown
	}
	statuses := s.statuses()
	for i, v := range s.verdicts {
		g := metrics.Guest{Verdict: v, Status: statuses[i]}
		if t, ok := s.totals[v.Domain]; ok {
			g.Totals = &t
		}
		if e, ok := s.newest[v.Domain]; ok && e.UUID == v.UUID {
			g.Took = time.Duration(e.Took * float64(time.Second))
		}
		h.Level = h.Level.Worst(v.Level)
		h.Guests = append(h.Guests, g)
	}
	if s.world != nil {
		h.Storages = storagesOf(s.world)
	}
	return h, nil
}

func storagesOf(w *observe.World) (all []metrics.Storage) {
	for i := range w.Shares {
		x := &w.Shares[i]
		s := metrics.Storage{Dir: x.Dir, Blocked: x.Problem != "", Peers: map[string]time.Time{}}
		for k := range x.View.Peers {
			if p := &x.View.Peers[k]; p.ID != coord.Signpost && !p.When.IsZero() {
				s.Peers[p.Name] = p.When
			}
		}
		all = append(all, s)
	}
	return all
}

// metricsPatience is how long a run waits for libvirt at its end: what it was there for is
// done.
const metricsPatience = 30 * time.Second

// A reporter writes what a run leaves for others to read, once it is over: also one that was
// interrupted. What goes wrong with that is told and changes nothing else.
type reporter struct {
	env     *term.Env
	version string
	began   time.Time
	warn    func(text string)
}

func newReporter(e *term.Env, c *cli.Context, warn func(string)) *reporter {
	return &reporter{e, c.App.Version, e.Clock(), warn}
}

// over notes the end of a run in the history, and writes metrics_file, if the policy has one.
// One that was called wrongly was none; one that could not look at the host leaves that.
func (r *reporter) over(ctx context.Context, s *session.Session, plans []decide.Plan, err error) {
	if plans == nil && term.ExitCode(err) == term.ExitUsage {
		return
	}
	if plans == nil {
		r.didNotRun(ctx, err)
		return
	}
	state := s.Rotator.Observer.StateDir
	if err := history.In(state).Ran(r.began, r.env.Clock()); err != nil {
		r.warn("history: " + err.Error())
	}
	r.write(ctx, s.Policy.MetricsFile, s.Rotator.Observer.Observe)
}

// didNotRun writes metrics_file where libvirt could not be asked, so that alerts tell.
func (r *reporter) didNotRun(ctx context.Context, why error) {
	f, err := session.LoadPolicy(r.env)
	if err != nil { // that is told already
		return
	}
	r.write(ctx, f.MetricsFile, func(context.Context) (*observe.World, error) { return nil, why })
}

func (r *reporter) write(ctx context.Context, file string, ask observing) {
	if file == "" {
		return
	}
	s, err := newSurvey(r.env)
	if err == nil {
		s.working = false // the work is done, though the lock is still held
		s.look(context.WithoutCancel(ctx), metricsPatience, ask)
		var h *metrics.Host
		if h, err = s.metrics(r.version); err == nil {
			err = metrics.Write(file, h)
		}
	}
	if err != nil {
		r.warn("metrics_file: " + err.Error())
	}
}
