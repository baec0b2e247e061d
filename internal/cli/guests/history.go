package guests

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// HistoryReport is the JSON of history.
type HistoryReport struct {
	Entries  []history.Entry `json:"entries"`
	Warnings []string        `json:"warnings,omitempty"`
}

func historyCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "tell what runs did: when, to which domain, with what result",
		ArgsUsage: "[DOMAIN…]", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			term.OutputFlag(),
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Usage: "only the newest `N`; 0: all"},
			&cli.StringFlag{Name: "since", Usage: "only what ended after `TIME`: 2026-11-22, \"2026-11-22 03:00\", or a duration such as 7d or 12h"},
		},
		Description: fmt.Sprintf(`The newest entry comes last. Runs in a row that did nothing and said the same share
one entry. The steps are in the JSON (--output=json). Of each host the newest
%d entries are kept, in history.db in the state directory. libvirt is not
asked: domains that are gone still have their history.

   virt-rotate history --since 7d web-1
   virt-rotate history -n 20

`, history.MaxEntries) + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return tellHistory(e, c)
		},
	}
}

func tellHistory(e *term.Env, c *cli.Context) error {
	q := history.Query{Domains: c.Args().Slice(), Limit: c.Int("limit")}
	if len(q.Domains) > 0 {
		q.Fits = func(name string) bool { return meant(q.Domains, name) }
	}
	if q.Limit < 0 {
		return term.Usagef("--limit %d: want a number of entries", q.Limit)
	}
	var err error
	if q.Since, err = since(c.String("since"), time.Now()); err != nil {
		return err
	}
	dir, err := readStateDir(e)
	if err != nil {
		return err
	}
	entries, err := history.In(dir).Read(q)
	report := &HistoryReport{Entries: entries}
	var damaged *history.DamagedError
	switch {
	case errors.As(err, &damaged): // what can be read is told all the same
		report.Warnings = []string{err.Error()}
		term.Warn(e.Err, err.Error())
	case err != nil:
		return fmt.Errorf("history: %w", err)
	case len(entries) == 0:
		fmt.Fprintln(e.Err, "virt-rotate: no such run is on record")
	}
	if report.Entries == nil {
		report.Entries = []history.Entry{}
	}
	return e.Print(c, report, func(w io.Writer) { historyText(w, entries) })
}

// readStateDir finds the state directory without asking libvirt. A policy that is not
// there names none.
func readStateDir(e *term.Env) (string, error) {
	f, err := session.LoadPolicy(e)
	if errors.Is(err, fs.ErrNotExist) {
		return session.StateDir(e, &policy.File{})
	}
	if err != nil {
		return "", err
	}
	return session.StateDir(e, f)
}

func historyText(w io.Writer, entries []history.Entry) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := range entries {
		x := &entries[i]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", x.Start.Local().Format("2006-01-02 15:04"), x.Domain, x.Policy,
			tookText(x), x.Result, didText(x))
	}
	_ = tw.Flush() // errors of w are not told by the other lines either
}

// tookText tells how long a run took, or how many runs there were until when.
func tookText(x *history.Entry) string {
	if x.Runs > 1 {
		return fmt.Sprintf("%s in %s", term.Plural(x.Runs, "run"), duration(x.End.Sub(x.Start)))
	}
	return duration(x.End.Sub(x.Start))
}

// didText sums an entry up: what was done, and what was not.
func didText(x *history.Entry) string {
	var texts []string
	if x.Command != "run" {
		texts = append(texts, x.Command)
	}
	if n := countOps(x, string(decide.OpSnapshot)); n > 0 {
		texts = append(texts, "snapshot taken")
	}
	if n := countOps(x, string(decide.OpDropMetadata)); n > 0 {
		texts = append(texts, term.Plural(n, "snapshot")+" dropped")
	}
	if n := countOps(x, string(decide.OpMerge)); n > 0 {
		texts = append(texts, fmt.Sprintf("%s of %s", term.Plural(n, "merge"), host.Bytes(x.Merged)))
	}
	if x.Freed > 0 {
		texts = append(texts, host.Bytes(x.Freed)+" freed")
	}
	if len(x.Steps) > 0 && len(texts) == 0 {
		texts = append(texts, term.Plural(len(x.Steps)+x.LeftOut, "step"))
	}
	for _, f := range x.Refused {
		texts = append(texts, strings.TrimSuffix("refused: "+refusalPlace(decide.Refusal(f))+": "+f.Detail, ": "))
	}
	if x.Error != "" {
		texts = append(texts, x.Error)
	}
	for _, text := range x.Warnings {
		texts = append(texts, "warning: "+text)
	}
	return strings.Join(texts, "; ")
}

func countOps(x *history.Entry, op string) int {
	n := 0
	for _, s := range x.Steps {
		if s.Op == op {
			n++
		}
	}
	return n
}
