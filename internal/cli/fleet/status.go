package fleet

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// statusReport is the JSON of fleet status.
type statusReport struct {
	Storages []storageReport `json:"storages"`
}

type storageReport struct {
	Dir     string       `json:"dir"`
	UUID    string       `json:"uuid"`              // "" where no host has told anything yet
	By      string       `json:"by,omitempty"`      // the store by which the hosts tell each other, such as etcd
	Problem string       `json:"problem,omitempty"` // why nothing is merged there
	Remedy  string       `json:"remedy,omitempty"`
	Hosts   []hostReport `json:"hosts"`
}

type hostReport struct {
	ID      string         `json:"id"`
	Name    string         `json:"name"`
	Me      bool           `json:"me"`                         // this host
	Told    *time.Time     `json:"told" jsonschema:"nullable"` // when it has told last; null for this host
	Guests  int            `json:"guests"`
	Running int            `json:"running"`       // guests, as it has told last
	Layers  int            `json:"layers"`        // that its guests use there
	Locks   coord.Crossing `json:"locks"`         // what it has found out of locks: "cross", "stay", or "" as long as no other host was at work at the same time
	Asks    bool           `json:"asks"`          // libvirt asks the other hosts before it starts a guest there: see fleet hook
	Merging []string       `json:"merging"`       // guests whose layers it is about to merge or to delete, where hosts ask
	Ran     *coord.Ran     `json:"ran,omitempty"` // its last run by the clock, all guests of the host that policies cover
	Problem string         `json:"problem,omitempty"`
}

func statusCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "tell which hosts have the same storage, and what each has told",
		OnUsageError: term.UsageError, Flags: []cli.Flag{term.OutputFlag()},
		Description: `What a host has told is as old as its last run. Exit status 4 tells that there is a storage
on which nothing is merged.

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 0 {
				return term.Usagef("%s wants no arguments", c.Command.HelpName)
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.WithLook(e, true, func(l *session.Look) error { return status(e, c, l) })
		},
	}
}

func status(e *term.Env, c *cli.Context, l *session.Look) error {
	w, err := l.Observer.Observe(c.Context)
	if err != nil {
		return err
	}
	report, trouble := statusReport{Storages: []storageReport{}}, false
	for i := range w.Shares {
		r := reportOf(&w.Shares[i])
		trouble = trouble || r.Problem != ""
		report.Storages = append(report.Storages, r)
	}
	if err := e.Print(c, report, func(out io.Writer) { statusText(out, &report) }); err != nil || !trouble {
		return err
	}
	return &term.ExitError{Code: term.ExitRefused}
}

func reportOf(s *observe.Share) storageReport {
	r := storageReport{Dir: s.Dir, UUID: s.View.UUID, By: s.View.By, Problem: s.Problem, Remedy: s.Remedy, Hosts: []hostReport{}}
	if s.View.Registered {
		me := hostOf(&s.View.Mine)
		me.Me, me.Name, me.Locks = true, "this host", s.View.Locks
		r.Hosts = append(r.Hosts, me)
	}
	for i := range s.View.Peers {
		p := &s.View.Peers[i]
		h := hostOf(&p.Told)
		at := p.When.UTC()
		h.ID, h.Name, h.Told, h.Locks, h.Problem = p.ID, p.Name, &at, p.Locks, p.Problem
		r.Hosts = append(r.Hosts, h)
	}
	return r
}

func hostOf(t *coord.Told) (h hostReport) {
	h.Ran, h.Asks, h.Merging = t.Ran, t.Asks, []string{}
	for i := range t.Merging {
		h.Merging = append(h.Merging, t.Merging[i].Name)
	}
	for i := range t.Guests {
		g := &t.Guests[i]
		if g.Left {
			continue
		}
		h.Guests++
		h.Layers += len(g.Layers)
		if g.Live {
			h.Running++
		}
	}
	return h
}

func statusText(out io.Writer, r *statusReport) {
	if len(r.Storages) == 0 {
		fmt.Fprintln(out, "no storage here is one that other hosts have, too")
	}
	for _, s := range r.Storages {
		fmt.Fprintf(out, "%s  %s\n", term.Printable(s.Dir), s.UUID)
		if s.By != "" {
			fmt.Fprintln(out, "  its hosts tell each other by", term.Printable(s.By))
		}
		if s.Problem != "" {
			fmt.Fprintf(out, "  nothing is merged there: %s\n  remedy: %s\n", term.Printable(s.Problem), term.Printable(s.Remedy))
		}
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, h := range s.Hosts {
			told := "now"
			if h.Told != nil {
				told = h.Told.Local().Format("2006-01-02 15:04:05")
			}
			fmt.Fprintf(t, "  %s\t%s\t%d guests, %d running\t%d layers\t%s\t%s\t%s\n", term.Printable(h.Name), told, h.Guests, h.Running, h.Layers, ranText(h.Ran), locksText(&h), h.ID)
		}
		_ = t.Flush()
	}
}

// ranText tells of the last run what is not as it should be.
func ranText(r *coord.Ran) string {
	if r == nil {
		return "has not run"
	}
	parts := []string{"ran " + r.End.Local().Format("01-02 15:04")}
	for _, part := range []struct {
		n    int
		what string
	}{{r.Failed, "failed"}, {r.Refused, "refused"}, {r.Waiting, "wait with merges"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprint(part.n, " ", part.what))
		}
	}
	return strings.Join(parts, ", ")
}

func locksText(h *hostReport) string {
	text := "has met nobody"
	switch h.Locks {
	case coord.LocksCross:
		text = "sees locks"
	case coord.LocksStay:
		text = "does not see locks"
	}
	if h.Asks {
		text += ", asks before it starts a guest"
	}
	if len(h.Merging) > 0 {
		text += ", merges " + term.Printable(strings.Join(h.Merging, ", "))
	}
	return text
}
