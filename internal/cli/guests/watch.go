package guests

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// How often watch looks, and how long it waits for libvirt; how often it sees whether the terminal
// has another size.
const (
	watchEvery    = 2 * time.Second
	watchPatience = 30 * time.Second
	resizeEvery   = 200 * time.Millisecond
)

// What a terminal understands (ECMA-48, and xterm's private modes).
const (
	otherScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // with its own contents, no cursor, and long lines cut off
	firstScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	topLeft     = "\x1b[H"
	emptyLine   = "\x1b[2K"
	restOfAll   = "\x1b[J"
)

// watch shows the overview until somebody presses ^C, which is no error.
func watch(e *term.Env, c *cli.Context) error {
	switch {
	case c.String("output") != "human":
		return term.Usagef("--watch is for people: it goes with no --output")
	case !term.IsTerminal(e.Out):
		return term.Usagef("--watch wants a terminal; without it, status tells once how the guests stand")
	}
	seen, err := watchLook(e, c)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(e.Out, otherScreen); err != nil {
		return err
	}
	defer fmt.Fprint(e.Out, firstScreen) // also after a panic
	return watching(c.Context, e, seen, func() (*survey, error) { return watchLook(e, c) })
}

// watchLook is one look at the host; that somebody has enough is no error.
func watchLook(e *term.Env, c *cli.Context) (*survey, error) {
	s, err := newSurvey(e)
	if err != nil {
		return nil, err
	}
	s.look(c.Context, watchPatience, fromOutside(e))
	switch {
	case s.world != nil:
		return s, s.judge(c.Args().Slice())
	case over(c.Context):
		return s, nil
	}
	return nil, s.failed
}

// over tells whether somebody has pressed ^C.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// watching draws what was seen, and looks again and again. What goes wrong on the way is shown
// above what was seen last.
func watching(ctx context.Context, e *term.Env, seen *survey, again func() (*survey, error)) error {
	trouble := ""
	for !over(ctx) {
		if err := show(ctx, e.Out, seen, trouble); err != nil {
			return err
		}
		s, err := again()
		switch {
		case err != nil:
			trouble = oneLine(err.Error())
		case !over(ctx):
			seen, trouble = s, ""
		}
	}
	return nil
}

// show draws until it is time for the next look, anew when the terminal has got another size.
func show(ctx context.Context, w io.Writer, s *survey, trouble string) error {
	drawn := [2]int{}
	for until := time.Now().Add(watchEvery); time.Now().Before(until) && !over(ctx); {
		width, height := term.Size(w)
		if size := [2]int{width, height}; size != drawn {
			drawn = size
			if _, err := io.WriteString(w, screen(s.watchLines(w, trouble), width, height)); err != nil {
				return err
			}
		}
		select {
		case <-time.After(resizeEvery):
		case <-ctx.Done():
		}
	}
	return nil
}

// watchLines are the whole screen: when it was looked, the guests, and below each how far its merges are.
func (s *survey) watchLines(w io.Writer, trouble string) []string {
	head := fmt.Sprintf("%s, %s", s.now.Local().Format("2006-01-02 15:04:05"), oneLine(newCheckReport(s).summary()))
	if s.working {
		head += "; a run is at work"
	}
	lines := []string{head}
	if trouble != "" {
		lines = append(lines, "since then: "+trouble)
	}
	if len(s.verdicts) == 0 {
		return append(lines, "no policy covers a domain of this host")
	}
	table := s.overviewLines(w)
	lines = append(lines, table[0])
	for i := range s.verdicts {
		lines = append(lines, table[i+1])
		lines = append(lines, s.jobLines(s.verdicts[i].Domain, term.Width(w))...)
	}
	return lines
}

// jobLines are the bars of a guest's block jobs.
func (s *survey) jobLines(domain string, width int) []string {
	var lines []string
	d := s.world.Domain(domain)
	for i := range d.Disks {
		disk := &d.Disks[i]
		if disk.Job == nil {
			continue
		}
		name := fmt.Sprintf("  %s %s ", disk.Target, disk.Job.Type)
		figures := fmt.Sprintf(" %3d%% of %s", percent(disk.Job), host.Bytes(disk.Job.Size))
		room := min(width-len(name)-len(figures)-2, 60)
		lines = append(lines, name+term.Bar(disk.Job.Done, disk.Job.Size, max(room, 4))+figures)
	}
	return lines
}

func percent(j *host.Job) int64 {
	if j.Size <= 0 {
		return 0
	}
	return min(100, max(0, j.Done)*100/j.Size)
}

// screen draws lines over what is there. What has no room is counted.
func screen(lines []string, width, height int) string {
	if height > 1 && len(lines) > height {
		left := len(lines) - height + 1
		lines = append(lines[:height-1:height-1], fmt.Sprintf("… and %s more", term.Plural(left, "line")))
	}
	var b strings.Builder
	b.WriteString(topLeft)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if !strings.Contains(line, "\x1b") { // what has colours is cut off by the terminal
			line = cut(line, width, 0)
		}
		b.WriteString(emptyLine + line)
	}
	if len(lines) < height {
		b.WriteString("\r\n" + restOfAll) // in the last column it would take the letter there
	}
	return b.String()
}
