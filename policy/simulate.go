package policy

import (
	"fmt"
	"time"
)

// A Moment is one at which a rule has had something to do.
type Moment struct {
	Time    time.Time
	Taken   bool     // a snapshot
	Dropped []string // names, oldest first
	Left    int      // how many there are afterwards
}

// A Simulation tells what a rule does over time to a guest that runs throughout.
type Simulation struct {
	Moments []Moment
	Left    []Snapshot // oldest first; those that were taken are called by their time
	Why     []Verdict  // of each in Left
	Most    int        // the largest number that there was at a time, before any was dropped

	judged  bool      // whether all that is left has been judged
	changes time.Time // when time alone changes a verdict of these; zero if it never does
}

// mostPasses bounds the work: a year of snapshots every five minutes.
const mostPasses = 110_000

// simulated is how often runs come while none takes a snapshot: as the timer has it.
const simulated = time.Hour

// Simulate lets time go by, from now until so much later: a snapshot is taken whenever one is
// due, and what no rule keeps goes, if the window is open; runs come every hour. The snapshots
// that are there, oldest first, go in their turn. It is an error if there was too much to do.
func (r *Rule) Simulate(taken []Snapshot, now time.Time, span time.Duration) (s Simulation, err error) {
	step := simulated
	if r.TakesSnapshots() {
		step = min(step, max(r.Every, time.Second))
	}
	if span/step > mostPasses {
		return s, fmt.Errorf("more than %d runs in that time: simulate less of it", mostPasses)
	}
	s.Left = append(s.Left, taken...)
	s.Most = len(taken)
	end := now.Add(span)
	for at := now; !at.After(end); at = s.next(r, at) {
		s.pass(r, at)
	}
	s.Why = r.Keep.Apply(s.Left, end)
	return s, nil
}

// next is when a run has something to do again, perhaps.
func (s *Simulation) next(r *Rule, at time.Time) time.Time {
	next := at.Truncate(simulated).Add(simulated)
	if due := s.due(r); r.TakesSnapshots() && due.After(at) && due.Before(next) {
		return due
	}
	return next
}

// due is when the next snapshot is.
func (s *Simulation) due(r *Rule) time.Time {
	if n := len(s.Left); n > 0 {
		return s.Left[n-1].Time.Add(r.Every)
	}
	return time.Time{}
}

// pass is what a run does at that time.
func (s *Simulation) pass(r *Rule, at time.Time) {
	m := Moment{Time: at}
	if r.TakesSnapshots() && !s.due(r).After(at) {
		s.Left = append(s.Left, Snapshot{Name: at.Format("2006-01-02 15:04"), Time: at})
		m.Taken, s.judged = true, false
	}
	s.Most = max(s.Most, len(s.Left))
	if s.isDue(at) && r.Window.Open(at) {
		m.Dropped = s.drop(r, at)
	}
	if m.Left = len(s.Left); m.Taken || len(m.Dropped) > 0 {
		s.Moments = append(s.Moments, m)
	}
}

// isDue tells whether a verdict may be another one than the last time: what the rules keep once,
// they keep until another snapshot comes.
func (s *Simulation) isDue(at time.Time) bool {
	return !s.judged || !s.changes.IsZero() && !at.Before(s.changes)
}

// settle remembers when time alone changes something: a snapshot expires, or its time is no longer in
// the future.
func (s *Simulation) settle(at time.Time) {
	s.judged, s.changes = true, time.Time{}
	sooner := func(t time.Time) {
		if t.After(at) && (s.changes.IsZero() || t.Before(s.changes)) {
			s.changes = t
		}
	}
	for i := range s.Left {
		sooner(s.Left[i].Time.Add(-clockSlack))
		sooner(s.Left[i].Expires)
	}
}

// drop lets go what no rule keeps.
func (s *Simulation) drop(r *Rule, at time.Time) (dropped []string) {
	var kept []Snapshot
	for i, v := range r.Keep.Apply(s.Left, at) {
		if v.Keep {
			kept = append(kept, s.Left[i])
		} else {
			dropped = append(dropped, v.Name)
		}
	}
	s.Left = kept
	s.settle(at)
	return dropped
}
