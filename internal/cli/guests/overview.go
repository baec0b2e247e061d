package guests

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fatih/color"
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// overviewPatience is how long status waits for libvirt; who is tired of it presses ^C.
const overviewPatience = 10 * time.Minute

// overview prints one line for each guest that a policy covers or should cover.
func overview(e *term.Env, c *cli.Context) error {
	s, err := newSurvey(e)
	if err != nil {
		return err
	}
	s.look(c.Context, overviewPatience, fromOutside(e))
	if s.world == nil {
		return s.failed
	}
	if err := s.judge(nil); err != nil {
		return err
	}
	for _, note := range s.notes {
		term.Warn(e.Err, note)
	}
	if len(s.verdicts) == 0 {
		fmt.Fprintln(e.Err, "virt-rotate: no policy covers a domain of this host")
		return nil
	}
	_, err = io.WriteString(e.Out, strings.Join(s.overviewLines(e.Out), "\n")+"\n")
	return err
}

// overviewLines are the heading and a line for each guest, as they fit on w.
func (s *survey) overviewLines(w io.Writer) []string {
	rows := [][]string{{"GUEST", "STATE", "SNAPSHOTS", "NEWEST", "CHAIN", "ON DISK", "VERDICT"}}
	for i := range s.verdicts {
		rows = append(rows, s.row(&s.verdicts[i]))
	}
	paint := newPainter(w)
	return tableLines(rows, term.Width(w), func(i int, text string) string {
		if i == 0 {
			return text
		}
		return paint.verdict(s.verdicts[i-1].Level, text)
	})
}

// row is the line of one guest.
func (s *survey) row(v *rotate.Verdict) []string {
	d := s.world.Domain(v.Domain)
	newest := "-"
	if v.Newest != nil {
		newest = agoText(*v.Newest, s.now)
	}
	chain := fmt.Sprint(v.Layers)
	if v.MaxChain > 0 {
		chain += fmt.Sprintf("/%d", v.MaxChain)
	}
	return []string{term.Printable(v.Domain), string(d.State), fmt.Sprint(v.Snapshots), newest, chain, host.Bytes(v.Allocated), verdictText(v)}
}

// verdictText is the level with the worst reason, or with the policy that all is well under.
func verdictText(v *rotate.Verdict) string {
	for _, r := range v.Reasons {
		if r.Level == v.Level {
			return oneLine(fmt.Sprintf("%s %s: %s", v.Level, r.Code, r.Detail))
		}
	}
	if v.Policy == "" {
		return v.Level.String()
	}
	return fmt.Sprintf("%s (%s)", v.Level, v.Policy)
}

// A painter colours words on a terminal, unless NO_COLOR is set.
type painter map[rotate.Level]*color.Color

func newPainter(w io.Writer) painter {
	p := painter{rotate.OK: color.New(color.FgGreen), rotate.Warning: color.New(color.FgYellow),
		rotate.Critical: color.New(color.FgRed, color.Bold), rotate.Unknown: color.New(color.FgMagenta)}
	for _, c := range p {
		if term.IsTerminal(w) && !color.NoColor {
			c.EnableColor()
		} else {
			c.DisableColor()
		}
	}
	return p
}

// verdict colours the word of the level, with which the text begins.
func (p painter) verdict(level rotate.Level, text string) string {
	if rest, ok := strings.CutPrefix(text, level.String()); ok {
		return p[level].Sprint(level) + rest
	}
	return text
}

// tableLines are rows in columns. The last column is cut where the line would be longer than
// width, unless that is 0, and finish may change it then.
func tableLines(rows [][]string, width int, finish func(i int, text string) string) []string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var lines []string
	for n, row := range rows {
		var b strings.Builder
		used, last := 0, len(row)-1
		for i, cell := range row[:last] {
			fmt.Fprintf(&b, "%-*s  ", widths[i], cell)
			used += widths[i] + 2
		}
		lines = append(lines, b.String()+finish(n, cut(row[last], width, used)))
	}
	return lines
}

// mostCut is how short a text may become, in letters.
const mostCut = 12

// cut shortens a text that begins in column used to what is left of width.
func cut(text string, width, used int) string {
	letters := []rune(text)
	if room := max(width-used, mostCut); width > 0 && len(letters) > room {
		return string(letters[:room-1]) + "…"
	}
	return text
}
