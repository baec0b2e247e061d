package guests

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
)

// checkReport is the JSON of check.
type checkReport struct {
	Level     rotate.Level `json:"level"`
	Summary   string       `json:"summary"`
	Time      time.Time    `json:"time,omitzero"`
	NoAnswer  string       `json:"no-answer,omitempty"` // why libvirt has told nothing
	Guests    []checked    `json:"guests"`
	Uncovered []string     `json:"uncovered"`
	Notes     []string     `json:"notes,omitempty"` // what could not be read of the records
}

// checked is a verdict with its ages in seconds; null where the age does not matter.
type checked struct {
	rotate.Verdict
	Age     *float64 `json:"age-seconds" jsonschema:"nullable"`
	MaxAge  *float64 `json:"warn-age-seconds" jsonschema:"nullable"`
	CritAge *float64 `json:"crit-age-seconds" jsonschema:"nullable"`
}

func newCheckReport(s *survey) *checkReport {
	r := &checkReport{Time: s.now.UTC().Truncate(time.Second), NoAnswer: s.noAnswer, Guests: []checked{}, Uncovered: s.uncovered(), Notes: s.notes}
	for _, v := range s.verdicts {
		r.Level = r.Level.Worst(v.Level)
		r.Guests = append(r.Guests, withAges(v, s.now))
	}
	if s.noAnswer != "" {
		r.Level = rotate.Unknown
	}
	r.Summary = r.summary()
	return r
}

func withAges(v rotate.Verdict, now time.Time) checked {
	c := checked{Verdict: v}
	if v.Newest != nil {
		age := v.Age(now).Seconds()
		c.Age = &age
	}
	if v.MaxAge > 0 {
		warn, crit := v.MaxAge.Seconds(), v.CritAge.Seconds()
		c.MaxAge, c.CritAge = &warn, &crit
	}
	return c
}

// at counts the guests of a level.
func (r *checkReport) at(level rotate.Level) int {
	n := 0
	for i := range r.Guests {
		if r.Guests[i].Level == level {
			n++
		}
	}
	return n
}

// mostNamed is how many guests the first line names: it goes into text messages.
const mostNamed = 3

func (r *checkReport) summary() string {
	switch {
	case r.NoAnswer != "":
		return r.NoAnswer
	case len(r.Guests) == 0:
		return "no guest of this host needs a policy"
	case r.Level == rotate.OK:
		return term.Plural(len(r.Guests), "guest") + " protected"
	}
	var named []string
	bad := 0
	for i := range r.Guests {
		v := &r.Guests[i]
		if v.Level == rotate.OK {
			continue
		}
		if bad++; len(named) < mostNamed {
			named = append(named, fmt.Sprintf("%s (%s)", v.Domain, strings.Join(v.codes(), ", ")))
		}
	}
	text := fmt.Sprintf("%d of %s not well protected: %s", bad, term.Plural(len(r.Guests), "guest"), strings.Join(named, ", "))
	if bad > len(named) {
		text += fmt.Sprintf(" and %d more", bad-len(named))
	}
	return text
}

// codes are those of the reasons, each once.
func (c *checked) codes() []string {
	var codes []string
	for _, r := range c.Reasons {
		if !slices.Contains(codes, r.Code) {
			codes = append(codes, r.Code)
		}
	}
	return codes
}

// text writes what plugins write: the verdict and figures of the host, a line for each
// guest, and with the last of these the figures of the guests.
func (r *checkReport) text(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "VIRT-ROTATE %s - %s | %s\n", r.Level, plainText(r.Summary), strings.Join(r.hostData(), " "))
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", plainText(note))
	}
	var data []string
	for i := range r.Guests {
		data = append(data, r.Guests[i].data()...)
	}
	for i := range r.Guests {
		line := plainText(r.Guests[i].line(now))
		if i == len(r.Guests)-1 && len(data) > 0 {
			line += " |" + strings.Join(data, " ") // Icinga puts a space before, and one is enough
		}
		fmt.Fprintln(w, line)
	}
}

// line is all of a guest in one line.
func (c *checked) line(now time.Time) string {
	text := fmt.Sprintf("%s: %s", c.Domain, c.Level)
	for i, r := range c.Reasons {
		if r.Code == codeNoAnswer {
			continue
		}
		text += map[bool]string{true: " ", false: "; "}[i == 0] + r.Code
		if r.Since != nil {
			text += " since " + r.Since.Local().Format("2006-01-02 15:04")
		}
		text += ": " + strings.TrimPrefix(r.Path+": ", ": ") + r.Detail
	}
	for _, fact := range c.facts(now) {
		text += "; " + fact
	}
	return text
}

// facts are told of every guest.
func (c *checked) facts(now time.Time) []string {
	var facts []string
	if c.Newest != nil {
		facts = append(facts, fmt.Sprintf("%s%s, the newest %s", term.Plural(c.Snapshots, "snapshot"), pinnedText(c.Pinned), agoText(*c.Newest, now)))
	}
	if c.MaxChain > 0 {
		facts = append(facts, fmt.Sprintf("%d of %s", c.Layers, term.Plural(c.MaxChain, "layer")))
	}
	if c.LastRun != nil {
		facts = append(facts, fmt.Sprintf("last run %s: %s", agoText(c.LastRun.Time, now), c.LastRun.Result))
	}
	if c.LastSuccess != nil && (c.LastRun == nil || !succeeded(c.LastRun.Result)) {
		facts = append(facts, "last success "+agoText(*c.LastSuccess, now))
	}
	return facts
}

// plainText is text on one line without "|", which begins performance data.
func plainText(text string) string { return strings.ReplaceAll(oneLine(text), "|", "/") }

// pinnedText tells how many of the snapshots are pinned.
func pinnedText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d pinned)", n)
}
