package page

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A timeline draws which rule keeps which snapshots. Time goes from left to right; the older, the
// denser: the newest hour has as much room as the whole year before.
type timeline struct {
	Rules []strip
	Ticks []tick
}

// A strip is one rule with its snapshots.
type strip struct {
	Name   string
	Title  string
	Groups []group
}

// A group are the marks of one shape.
type group struct {
	Shape string
	Marks []mark
}

// A mark is a snapshot on a strip.
type mark struct {
	X     string // percent
	Title string
	shape string
}

// A tick is a time on the axis.
type tick struct {
	at           float64 // percent
	Text, Anchor string
}

// X is the tick's place.
func (t tick) X() string { return num(t.at) + "%" }

// ruleOrder is that of the strips; what is none of these comes before the last.
var ruleOrder = [...]string{"newest", "last", "hourly", "daily", "weekly", "monthly", "yearly", "pinned", "expires", "other", "goes next"}

// newTimeline draws the snapshots of one guest; nil where there are none.
func newTimeline(snapshots []Snapshot, c clock) *timeline {
	if len(snapshots) == 0 {
		return nil
	}
	oldest := c.now
	for i := range snapshots {
		if snapshots[i].Time.Before(oldest) {
			oldest = snapshots[i].Time
		}
	}
	t := &timeline{}
	scale := newScale(c.now, oldest)
	marks := map[string][]mark{}
	for i := range snapshots {
		s := &snapshots[i]
		m := mark{scale.at(s.Time), c.stamp(s.Time), s.Shape()}
		for _, rule := range s.rules() {
			marks[rule] = append(marks[rule], m)
		}
	}
	for _, name := range ruleOrder {
		if of := marks[name]; len(of) > 0 {
			t.Rules = append(t.Rules, strip{name, name + ": " + host.Plural(len(of), "snapshot"), grouped(of)})
		}
	}
	t.Ticks = scale.ticks()
	return t
}

// grouped puts marks of one shape together.
func grouped(marks []mark) []group {
	var groups []group
	for _, m := range marks {
		i := slices.IndexFunc(groups, func(g group) bool { return g.Shape == m.shape })
		if i < 0 {
			i, groups = len(groups), append(groups, group{Shape: m.shape})
		}
		groups[i].Marks = append(groups[i].Marks, m)
	}
	return groups
}

// rules are the strips that a snapshot stands on, each once.
func (s *Snapshot) rules() []string {
	var rules []string
	add := func(rule string) {
		if !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	for _, reason := range s.Reasons {
		word, _, _ := strings.Cut(string(reason), " ")
		switch {
		case !s.Keep:
		case slices.Contains(ruleOrder[:9], word):
			add(word)
		default:
			add("other")
		}
	}
	if s.GoesNext() {
		add("goes next")
	}
	return rules
}

// GoesNext tells whether the next run lets it go, or one of the next days.
func (s *Snapshot) GoesNext() bool { return !s.Keep || s.Goes != nil }

// Told are the reasons that say more than the verdict.
func (s *Snapshot) Told() []Text {
	if len(s.Reasons) == 1 && string(s.Reasons[0]) == s.Verdict() {
		return nil
	}
	return s.Reasons
}

// Shape is the symbol of the snapshot.
func (s *Snapshot) Shape() string {
	switch {
	case s.Lost:
		return "wrong"
	case !s.Ours:
		return "foreign"
	case s.Pinned:
		return "pinned"
	case !s.Keep:
		return "free"
	}
	return "kept"
}

// Verdict is in a word what becomes of the snapshot.
func (s *Snapshot) Verdict() string {
	switch {
	case s.Lost:
		return "lost"
	case !s.Ours:
		return "foreign"
	case s.Pinned:
		return "pinned"
	case !s.Keep:
		return "goes"
	}
	return "kept"
}

// A scale turns ages into places: logarithms of hours.
type scale struct {
	now  time.Time
	most float64
}

func newScale(now, oldest time.Time) scale {
	return scale{now, max(logHours(now.Sub(oldest)), math.Log(2))}
}

func logHours(age time.Duration) float64 { return math.Log1p(max(age.Hours(), 0)) }

// The drawing keeps some room at both ends, in percent.
const (
	leftEnd  = 2
	rightEnd = 97
)

func (s scale) x(age time.Duration) float64 {
	return rightEnd - (rightEnd-leftEnd)*min(logHours(age)/s.most, 1)
}

func (s scale) at(t time.Time) string { return num(s.x(s.now.Sub(t))) + "%" }

// ticks are those times that have room.
func (s scale) ticks() []tick {
	const day = 24 * time.Hour
	ticks := []tick{{rightEnd, "now", "end"}}
	for _, t := range []struct {
		age  time.Duration
		text string
	}{{time.Hour, "1 h"}, {6 * time.Hour, "6 h"}, {day, "1 day"}, {7 * day, "1 week"}, {30 * day, "1 month"}, {182 * day, "6 months"}, {365 * day, "1 year"}, {1825 * day, "5 years"}} {
		if logHours(t.age) > s.most {
			break
		}
		ticks = append(ticks, tick{s.x(t.age), t.text, "middle"})
	}
	return thin(ticks)
}

// What a tick's words take on a narrow screen, in percent, from their middle or their start.
const (
	tickRoom  = 16
	startRoom = 26
)

// thin leaves out ticks that would be written over each other, and lets those at the left end begin
// there.
func thin(ticks []tick) []tick {
	kept := ticks[:1]
	last := 100.0
	for _, t := range ticks[1:] {
		room := tickRoom
		if t.at < 6 {
			t.Anchor, room = "start", startRoom
		}
		if last-t.at < float64(room) {
			continue
		}
		kept, last = append(kept, t), t.at
	}
	return kept
}
