package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is simulated is what happens: hour by hour, with Due and Apply.
func TestASimulationIsWhatHappens(t *testing.T) {
	start := time.Date(2026, 11, 28, 10, 0, 0, 0, zone(t, "Europe/Berlin"))
	for _, r := range []Rule{
		{Every: time.Hour, Keep: Keep{Last: 24, Daily: 7, Weekly: 4}},
		{Every: 24 * time.Hour, Keep: Keep{Daily: 14, Monthly: 3}},
		{Every: 6 * time.Hour, Keep: Keep{Last: 4}, Window: Window{60, 5 * 60}},
		{Every: 3 * time.Hour, Keep: Keep{Last: 2}},
	} {
		var left []Snapshot
		taken, dropped := 0, 0
		for at := start; !at.After(start.Add(90 * 24 * time.Hour)); at = at.Add(time.Hour) {
			if len(left) == 0 || at.Sub(left[len(left)-1].Time) >= r.Every {
				left = append(left, Snapshot{Name: at.Format("2006-01-02 15:04"), Time: at})
				taken++
			}
			if r.Window.Open(at) {
				n := len(left)
				left = afterMerges(r.Keep, left, at)
				dropped += n - len(left)
			}
		}
		s, err := r.Simulate(nil, start, 90*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.Moments {
			if m.Taken {
				taken--
			}
			dropped -= len(m.Dropped)
		}
		if !reflect.DeepEqual(s.Left, left) || taken != 0 || dropped != 0 || len(s.Why) != len(left) {
			t.Errorf("%+v: left %v, want %v; %d taken and %d dropped too few", r.Keep, s.Left, left, taken, dropped)
		}
	}
}

func TestASimulationBeginsWithWhatIsThere(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	there := []Snapshot{{Name: "pinned", Time: now.Add(-48 * time.Hour), Pinned: true}, {Name: "until", Time: now.Add(-24 * time.Hour), Expires: now.Add(30 * time.Hour)}, {Name: "old", Time: now.Add(-time.Hour)}}
	before := slices.Clone(there)
	r := Rule{Every: 24 * time.Hour, Keep: Keep{Last: 1}}
	s, err := r.Simulate(there, now, 72*time.Hour)
	if err != nil || !slices.Equal(there, before) {
		t.Fatal(err)
	}
	var dropped []string
	for _, m := range s.Moments {
		dropped = append(dropped, m.Dropped...)
	}
	if want := []string{"old", "until", "2026-11-29 09:00", "2026-11-30 09:00"}; len(s.Left) != 2 || s.Left[0].Name != "pinned" || !slices.Equal(sorted(dropped), sorted(want)) {
		t.Errorf("left %v, dropped %v", s.Left, dropped)
	}
}

func sorted(list []string) []string { list = slices.Clone(list); slices.Sort(list); return list }

func TestARuleThatTakesNothingSimulates(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	r := Rule{Manual: true, Keep: Keep{Last: 100}}
	s, err := r.Simulate([]Snapshot{{Name: "a", Time: now.Add(-time.Hour), Expires: now.Add(90 * time.Minute)}}, now, 5*time.Hour)
	if err != nil || len(s.Moments) != 1 || s.Moments[0].Taken || !s.Moments[0].Time.Equal(now.Add(2*time.Hour)) || len(s.Left) != 0 {
		t.Errorf("%+v %v", s, err)
	}
}

// A snapshot from the future stays beside the rules until its time has come; then it counts, and another goes.
func TestASnapshotFromTheFutureCountsWhenItsTimeHasCome(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	r := Rule{Manual: true, Keep: Keep{Daily: 1}}
	s, err := r.Simulate([]Snapshot{{Name: "a", Time: now.Add(-time.Hour)}, {Name: "ahead", Time: now.Add(5 * time.Hour)}}, now, 24*time.Hour)
	if err != nil || len(s.Moments) != 1 || !s.Moments[0].Time.Equal(now.Add(5*time.Hour)) || !slices.Equal(s.Moments[0].Dropped, []string{"a"}) {
		t.Errorf("%+v %v", s, err)
	}
}

func TestTooMuchToSimulateIsAnError(t *testing.T) {
	r := Rule{Every: time.Second, Keep: Keep{Last: 1}}
	if _, err := r.Simulate(nil, time.Now(), 90*24*time.Hour); err == nil || !strings.Contains(err.Error(), "simulate less") {
		t.Error(err)
	}
}

func TestRulesOfACommandLine(t *testing.T) {
	for text, want := range map[string]Keep{
		"last=3": {Last: 3}, "last=3,daily=7": {Last: 3, Daily: 7}, "yearly=1, monthly=2,weekly=3,hourly=4": {Yearly: 1, Monthly: 2, Weekly: 3, Hourly: 4}, "last=0": {},
	} {
		k, err := ParseKeep(text)
		if again, err2 := ParseKeep(k.Text()); err != nil || err2 != nil || k != want || again != want {
			t.Errorf("%q: %+v %v, %q", text, k, err, k.Text())
		}
	}
	for _, text := range []string{"", "last", "last=", "last=-1", "last=x", "minutely=3", "last=3,,daily=1", "last=10001", "last=1.5"} {
		if k, err := ParseKeep(text); err == nil || (k != Keep{}) {
			t.Errorf("%q: %+v %v", text, k, err)
		}
	}
}
