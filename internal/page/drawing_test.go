package page

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// A tree is drawn as git draws branches: what comes last goes on straight.
func TestLanesOfATree(t *testing.T) {
	tree := Layer{Path: "/base", Children: []Layer{
		{Path: "/clone"},
		{Path: "/branch", Children: []Layer{{Path: "/leaf"}}},
		{Path: "/s1", Children: []Layer{{Path: "/active"}}}}}
	var got strings.Builder
	for _, r := range rows(&tree, 0, false) {
		fmt.Fprintf(&got, "%s lane %d, passing %v, bend %q, up %v, down %v\n", r.Name(), r.Lane, r.Passing(), r.Bend(), r.Up(), r.Down())
	}
	want := `base lane 0, passing [], bend "", up false, down true
clone lane 1, passing [8], bend "M8 0Q8 15 24 15", up false, down false
branch lane 1, passing [8], bend "M8 0Q8 15 24 15", up false, down true
leaf lane 1, passing [8], bend "", up true, down false
s1 lane 0, passing [8], bend "", up false, down false
active lane 0, passing [], bend "", up true, down false
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

func TestLanesBeyondTheLastShareIt(t *testing.T) {
	tree := Layer{Path: "/0"}
	at := &tree
	for range 40 { // each branches, and the branch branches again
		at.Children = []Layer{{Path: "/b"}, {Path: "/s"}}
		at = &at.Children[0]
	}
	all := rows(&tree, 0, false)
	if n := lanes(all); n != mostLanes || len(all) != 81 {
		t.Errorf("%d lanes, %d rows", n, len(all))
	}
}

func TestWhichRulesKeepASnapshot(t *testing.T) {
	soon := noon().Add(day)
	for _, c := range []struct {
		s    Snapshot
		want string
	}{
		{Snapshot{Keep: true, Reasons: []Text{"newest", "last 1 of 3", "daily 2026-11-22"}}, "newest last daily"},
		{Snapshot{Keep: true, Reasons: []Text{"yearly 2026"}, Goes: &soon}, "yearly goes next"},
		{Snapshot{Keep: true, Pinned: true, Reasons: []Text{"pinned"}}, "pinned"},
		{Snapshot{Keep: true, Reasons: []Text{"expires 2026-12-01 10:00"}}, "expires"},
		{Snapshot{Keep: true, Reasons: []Text{"its time is in the future"}}, "other"},
		{Snapshot{Keep: true, Reasons: []Text{"not taken by virt-rotate"}}, "other"},
		{Snapshot{Reasons: []Text{"no rule keeps it"}}, "goes next"},
	} {
		if got := strings.Join(c.s.rules(), " "); got != c.want {
			t.Errorf("%v: %s, want %s", c.s.Reasons, got, c.want)
		}
	}
}

// Times that cannot be drawn are drawn at the ends.
func TestTimesOfATimeline(t *testing.T) {
	c := clock{noon()}
	tl := newTimeline([]Snapshot{{Time: noon().AddDate(-2, 0, 0), Keep: true, Reasons: []Text{"yearly 2024"}}, {Time: noon().Add(day), Keep: true, Reasons: []Text{"newest"}}, {Time: noon(), Keep: true, Reasons: []Text{"newest"}}}, c)
	if got := fmt.Sprint(tl.Rules); got != "[{newest newest: 2 snapshots [{foreign [{97% 2026-11-23 12:00 foreign} {97% 2026-11-22 12:00 foreign}]}]} {yearly yearly: 1 snapshot [{foreign [{2% 2024-11-22 12:00 foreign}]}]}]" {
		t.Error(got)
	}
	last := 101.0
	for _, tick := range tl.Ticks {
		if last-tick.at < 4 {
			t.Errorf("%v is written over another", tick)
		}
		last = tick.at
	}
	if newTimeline(nil, c) != nil {
		t.Error("a drawing of nothing")
	}
}

// Whatever is in a history, it can be drawn.
func TestPlotsOfOddHistories(t *testing.T) {
	c := clock{noon()}
	for name, h := range map[string][]Point{
		"zeros":       {{Time: noon()}, {Time: noon().Add(day)}},
		"one moment":  {{Time: noon(), Allocated: 1}, {Time: noon(), Allocated: 2}},
		"backwards":   {{Time: noon(), Layers: 1}, {Time: noon().Add(-day), Layers: 3}},
		"huge":        {{Time: noon(), Allocated: math.MaxInt64, Merged: math.MaxInt64, Took: 1e300}, {Time: noon().Add(day), Took: math.MaxFloat64}},
		"no numbers":  {{Time: noon(), Took: math.NaN()}, {Time: noon().Add(day), Took: math.Inf(1)}},
		"negative":    {{Time: noon(), Allocated: -5, Layers: -1, Took: -3}, {Time: noon().Add(day), Allocated: -1}},
		"before time": {{Time: time.Time{}}, {Time: noon(), Allocated: 1 << 30}},
	} {
		all, err := curves(h, c)
		if err != nil || len(all) != 4 {
			t.Errorf("%s: %d curves, %v", name, len(all), err)
		}
		for _, curve := range all {
			elements(t, "<svg>"+string(curve.SVG)+"</svg>")
			if strings.Contains(string(curve.SVG), "NaN") || len(curve.SVG) > 4096 {
				t.Errorf("%s: %s: %s", name, curve.Title, curve.SVG)
			}
		}
	}
	if all, err := curves([]Point{{Time: noon()}}, c); all != nil || err != nil {
		t.Errorf("a plot of one run: %v, %v", all, err)
	}
}

func TestLabelsOfAxes(t *testing.T) {
	for _, c := range []struct {
		most float64
		want string
	}{
		{0, "0 1"}, {1, "0 1"}, {5, "0 2 4"}, {30, "0 20"}, {59, "0 20 40 60"}, {1000, "0 500 1000"},
	} {
		f := figure{text: num, unit: wholeUnit}
		var labels []string
		for _, tick := range f.ticks(c.most) {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != c.want {
			t.Errorf("up to %v: %s, want %s", c.most, got, c.want)
		}
	}
}
