package guests

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// pinReport is the JSON of pin and unpin.
type pinReport struct {
	Domain    string         `json:"name"`
	Snapshots []pinnedReport `json:"snapshots"`
}

type pinnedReport struct {
	Name    string     `json:"name"`
	Pinned  bool       `json:"pinned"`
	Expires *time.Time `json:"expires,omitempty"` // of one that is not pinned: it goes then
	Note    string     `json:"note,omitempty"`
}

func pinCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "pin", Usage: "let snapshots stay whatever retention says",
		ArgsUsage: "DOMAIN SNAPSHOT…", OnUsageError: term.UsageError,
		Flags: []cli.Flag{term.OutputFlag(),
			&cli.StringFlag{Name: "note", Usage: "a `TEXT` that is kept with them, such as why; an empty one takes the old one away"}},
		Description: `No rule counts what is pinned: last = 7 keeps 7 others. The pin and the note are in the
snapshot's description, which libvirt keeps whatever becomes of its layers. Snapshots that
virt-rotate did not take stay in any case.

   virt-rotate pin web-1 latest
   virt-rotate pin --note 'audit 2026' web-1 2026-11-22

` + snapshotHelp + term.ExitHelp,
		Action: func(c *cli.Context) error {
			note := c.String("note")
			if fault := host.NoteFault(note); fault != "" {
				return term.Usagef("--note: %s", fault)
			}
			return describe(e, c, func(m *host.Mark) {
				m.Pinned = true
				if c.IsSet("note") {
					m.Note = note
				}
			})
		},
	}
}

func unpinCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "unpin", Usage: "let retention decide on snapshots again",
		ArgsUsage: "DOMAIN SNAPSHOT…", OnUsageError: term.UsageError,
		Flags: []cli.Flag{term.OutputFlag(),
			&cli.StringFlag{Name: "expire", Usage: "they stay for that `TIME` yet, such as 30d, or until a date, and go afterwards"}},
		Description: `The next run may drop them. A snapshot that was taken with --expire expires then, as it
was to; --expire here sets another time.

   virt-rotate unpin web-1 before-upgrade
   virt-rotate unpin --expire 7d web-1 before-upgrade

` + snapshotHelp + term.ExitHelp,
		Action: func(c *cli.Context) error {
			at, err := until("--expire", c.String("expire"), e.Clock())
			if err != nil {
				return err
			}
			return describe(e, c, func(m *host.Mark) {
				m.Pinned = false
				if !at.IsZero() {
					m.Expires = at
				}
			})
		},
	}
}

// describe changes what the descriptions of the named snapshots say.
func describe(e *term.Env, c *cli.Context, change func(*host.Mark)) error {
	if c.NArg() < 2 {
		return term.Usagef("%s wants DOMAIN SNAPSHOT…; --help tells more", c.Command.HelpName)
	}
	if err := term.CheckOutput(c); err != nil {
		return err
	}
	return session.With(e, true, func(s *session.Session) error {
		lock, err := rotate.Lock(s.Rotator.Observer.StateDir)
		if err != nil {
			return err
		}
		defer lock.Close()
		all, err := s.Rotator.Describe(c.Context, c.Args().First(), c.Args().Tail(), change)
		if err != nil {
			return byHandError(err)
		}
		report := newPinReport(c.Args().First(), all)
		return e.Print(c, report, func(w io.Writer) {
			for _, d := range all {
				fmt.Fprintf(w, "%s: %s\n", term.Printable(d.Snapshot), describedText(d.After))
			}
		})
	})
}

func newPinReport(domain string, all []rotate.Described) *pinReport {
	r := &pinReport{domain, []pinnedReport{}}
	for _, d := range all {
		p := pinnedReport{Name: d.Snapshot, Pinned: d.After.Pinned, Note: d.After.Note}
		if at := d.After.Expires.UTC(); !at.IsZero() {
			p.Expires = &at
		}
		r.Snapshots = append(r.Snapshots, p)
	}
	return r
}
