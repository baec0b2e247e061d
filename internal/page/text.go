package page

import (
	"fmt"
	"html/template"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A Text comes from guests, file names or those who wrote them. Templates print it by String; in
// JSON it is as it came.
type Text string

// mostLetters bounds what is shown of one text: a path has no more.
const mostLetters = 4096

// String makes everything in the text visible: control characters, those that change the direction
// of letters, and bytes that are no letters, are written as in Go.
func (t Text) String() string {
	if len(t) <= mostLetters && utf8.ValidString(string(t)) && strings.IndexFunc(string(t), hidden) < 0 {
		return string(t)
	}
	var b strings.Builder
	n := 0
	for i, c := range string(t) {
		if n++; n > mostLetters {
			b.WriteString("…")
			break
		}
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(string(t[i:]), string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, t[i])
		case hidden(c):
			q := fmt.Sprintf("%+q", c)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func hidden(c rune) bool { return !unicode.IsPrint(c) }

// Texts makes texts of words.
func Texts(words []string) []Text {
	texts := make([]Text, len(words))
	for i, w := range words {
		texts[i] = Text(w)
	}
	return texts
}

// Base is the last part of a path.
func (t Text) Base() Text {
	if i := strings.LastIndexByte(string(t), '/'); i >= 0 && i < len(t)-1 {
		return t[i+1:]
	}
	return t
}

// A clock writes times as they are at the page's place, and how long ago they were.
type clock struct{ now time.Time }

// stamp is a time for people; "" for none.
func (c clock) stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(c.now.Location()).Format("2006-01-02 15:04")
}

// machine is the same time for programs.
func (c clock) machine(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// relative tells how far a time is from now.
func (c clock) relative(t time.Time) string {
	switch d := c.now.Sub(t); {
	case d > time.Minute:
		return span(d) + " ago"
	case d < -time.Minute:
		return "in " + span(-d)
	}
	return "now"
}

// due tells when something is to happen; late, since when it was.
func (c clock) due(t time.Time) string {
	if d := c.now.Sub(t); d > time.Minute {
		return "due since " + span(d)
	}
	return c.relative(t)
}

// span is a duration in its largest unit, or the two largest of a few hours.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 10*time.Hour && d%time.Hour >= time.Minute:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return host.Plural(int(d.Hours())/24, "day")
}

// functions are what the templates call; c tells the time.
func functions(c clock) template.FuncMap {
	return template.FuncMap{
		"bytes": host.Bytes, "plural": host.Plural, "num": num,
		"stamp": c.stamp, "machine": c.machine, "relative": c.relative, "due": c.due,
		"seconds": func(s float64) string { return span(time.Duration(s * float64(time.Second))) },
		"percent": func(done, size int64) int64 { return int64(100 * share(done, size)) },
	}
}

// num is a coordinate: tenths are as fine as a screen is.
func num(v float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

// share is a part of a whole, from 0 to 1.
func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(part)/float64(whole)))
}
