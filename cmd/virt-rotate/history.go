package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A recorder writes what became of each domain into the history. What goes wrong with that
// is told and changes nothing else.
type recorder struct {
	command string
	store   *history.Store
	warn    func(text string)

	mu     sync.Mutex // guards what follows, and the store
	failed error      // the last error; the same one is told once
	texts  []string   // what was told
}

func newRecorder(command, stateDir string, warn func(string)) *recorder {
	return &recorder{command: command, store: history.In(stateDir), warn: warn}
}

// record may be called from several goroutines.
func (r *recorder) record(p decide.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.store.Append(entry(r.command, &p))
	if err == nil || r.failed != nil && err.Error() == r.failed.Error() {
		return
	}
	r.failed = err
	text := "history: " + err.Error()
	r.texts = append(r.texts, text)
	r.warn(text)
}

// entry is the record of a domain whose work is over.
func entry(command string, p *decide.Plan) history.Entry {
	e := history.Entry{Command: command, Domain: p.Domain, Policy: p.Policy, Result: p.Result, Error: p.Error, Warnings: p.Warnings,
		Start: p.Ran.Start.UTC(), End: p.Ran.End.UTC(), UUID: p.Ran.UUID,
		Merged: p.Ran.Merged, Freed: p.Ran.Freed, Allocated: p.Ran.Allocated, Layers: p.Ran.Layers}
	for _, f := range p.Refused {
		e.Refused = append(e.Refused, history.Refusal(f))
	}
	for _, s := range p.Steps {
		e.Steps = append(e.Steps, history.Step{Op: string(s.Op), Snapshot: s.Snapshot, Disk: s.Disk, Method: s.Method, Top: s.Top, Base: s.Base, Path: s.Path, Bytes: s.Bytes})
	}
	return e
}

// historyReport is the JSON of history.
type historyReport struct {
	Entries  []history.Entry `json:"entries"`
	Warnings []string        `json:"warnings,omitempty"`
}

func historyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "tell what runs did: when, to which domain, with what result",
		ArgsUsage: "[DOMAIN…]", OnUsageError: usageError,
		Flags: []cli.Flag{
			outputFlag(),
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Usage: "only the newest `N`; 0: all"},
			&cli.StringFlag{Name: "since", Usage: "only what ended after `TIME`: 2026-11-22, \"2026-11-22 03:00\", or a duration such as 7d or 12h"},
		},
		Description: fmt.Sprintf(`The newest entry comes last. Runs in a row that did nothing and said the same share
one entry. The steps are in the JSON (--output=json). Of each host the newest
%d entries are kept, in history.db in the state directory. libvirt is not
asked: domains that are gone still have their history.

   virt-rotate history --since 7d web-1
   virt-rotate history -n 20

`, history.MaxEntries) + exitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			return tellHistory(e, c)
		},
	}
}

func tellHistory(e *env, c *cli.Context) error {
	q := history.Query{Domains: c.Args().Slice(), Limit: c.Int("limit")}
	if q.Limit < 0 {
		return usagef("--limit %d: want a number of entries", q.Limit)
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
	report := &historyReport{Entries: entries}
	var damaged *history.DamagedError
	switch {
	case errors.As(err, &damaged): // what can be read is told all the same
		report.Warnings = []string{err.Error()}
		fmt.Fprintln(e.err, "virt-rotate: warning:", err)
	case err != nil:
		return fmt.Errorf("history: %w", err)
	case len(entries) == 0:
		fmt.Fprintln(e.err, "virt-rotate: no such run is on record")
	}
	if report.Entries == nil {
		report.Entries = []history.Entry{}
	}
	return e.print(c, report, func(w io.Writer) { historyText(w, entries) })
}

// readStateDir finds the state directory without asking libvirt. A policy that is not
// there names none.
func readStateDir(e *env) (string, error) {
	f, err := loadPolicy(e)
	if errors.Is(err, fs.ErrNotExist) {
		return stateDirOf(e, &policy.File{})
	}
	if err != nil {
		return "", err
	}
	return stateDirOf(e, f)
}

// since reads a time of the host's zone, or how long ago it was; "" is no bound.
func since(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", time.DateTime, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	d, err := policy.ParseDuration(text)
	if err != nil {
		return time.Time{}, usagef(`--since %q: want a time such as 2026-11-22 or "2026-11-22 03:00", or a duration such as 7d or 12h`, text)
	}
	return now.Add(-d), nil
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
		return fmt.Sprintf("%s in %s", plural(x.Runs, "run"), duration(x.End.Sub(x.Start)))
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
		texts = append(texts, plural(n, "snapshot")+" dropped")
	}
	if n := countOps(x, string(decide.OpMerge)); n > 0 {
		texts = append(texts, fmt.Sprintf("%s of %s", plural(n, "merge"), host.Bytes(x.Merged)))
	}
	if x.Freed > 0 {
		texts = append(texts, host.Bytes(x.Freed)+" freed")
	}
	if len(x.Steps) > 0 && len(texts) == 0 {
		texts = append(texts, plural(len(x.Steps)+x.LeftOut, "step"))
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
