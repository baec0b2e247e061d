package policy

import (
	"fmt"
	"slices"
	"time"
)

// clockSlack is how far in the future a snapshot's time may lie before the
// clock is not believed. NTP steps and second-granular times stay below it.
const clockSlack = time.Minute

// Keep says how many snapshots each retention rule keeps. A snapshot stays
// when any rule keeps it.
type Keep struct {
	Last    int `json:"last"`    // newest in the order taken, whatever the clock said
	Hourly  int `json:"hourly"`  // newest of each of so many hours that have one
	Daily   int `json:"daily"`   // the same for days
	Weekly  int `json:"weekly"`  // ISO weeks
	Monthly int `json:"monthly"` // calendar months
	Yearly  int `json:"yearly"`  // calendar years
}

// Snapshot is what retention knows of a snapshot.
type Snapshot struct {
	Name    string
	Time    time.Time
	Pinned  bool      // it stays whatever the rules say, and none of them counts it
	Expires time.Time // it stays until then, and goes, whatever the rules say; the zero Time: they decide
}

// Verdict says whether a snapshot stays, and why.
type Verdict struct {
	Name    string
	Keep    bool
	Reasons []string // every rule that keeps it, or why it goes; never empty
}

// None reports whether no rule keeps anything.
func (k Keep) None() bool { return k == Keep{} }

// Most is the largest number of snapshots that k keeps while clocks are
// right: the rules then agree at least on the newest one.
func (k Keep) Most() int {
	sum, shared := 0, 0
	for _, n := range []int{k.Last, k.Hourly, k.Daily, k.Weekly, k.Monthly, k.Yearly} {
		sum += n
		if n > 0 {
			shared++
		}
	}
	return sum - max(shared-1, 0)
}

// Apply judges the snapshots, given in the order in which they were taken,
// oldest first; the verdicts have the same order. Buckets are local time of
// now's location. Applying k again to what it kept keeps all of it, and a
// higher count never drops what a lower one kept.
func (k Keep) Apply(taken []Snapshot, now time.Time) []Verdict {
	verdicts := make([]Verdict, len(taken))
	var counted []Snapshot
	var places []int
	for i, s := range taken {
		if reason, keep := s.settled(now); reason != "" {
			verdicts[i] = Verdict{s.Name, keep, []string{reason}}
			continue
		}
		counted, places = append(counted, s), append(places, i)
	}
	for i, v := range k.count(counted, now) {
		verdicts[places[i]] = v
	}
	return verdicts
}

// settled says whether a snapshot stays of which that is settled without any rule; "" for
// one that the rules decide on.
func (s *Snapshot) settled(now time.Time) (reason string, keep bool) {
	switch {
	case s.Pinned:
		return "pinned", true
	case s.Expires.IsZero():
		return "", false
	}
	at := s.Expires.In(now.Location()).Format("2006-01-02 15:04")
	if s.Expires.After(now) {
		return "expires " + at, true
	}
	return "expired " + at, false
}

// count is Apply for snapshots on which the rules decide.
func (k Keep) count(taken []Snapshot, now time.Time) []Verdict {
	reasons := make([][]string, len(taken))
	k.keepLast(reasons)
	if k.usesClock() {
		byTime := keepFuture(reasons, taken, now)
		for _, rule := range k.buckets() {
			rule.apply(reasons, taken, byTime, now.Location())
		}
	}
	return k.verdicts(taken, reasons)
}

// keepLast holds on to the newest one under any rule: it is the state that
// the active layer builds on.
func (k Keep) keepLast(reasons [][]string) {
	n := len(reasons)
	if n > 0 && !k.None() {
		reasons[n-1] = []string{"newest"}
	}
	for i := 1; i <= min(k.Last, n); i++ {
		reasons[n-i] = append(reasons[n-i], fmt.Sprintf("last %d of %d", i, k.Last))
	}
}

func (k Keep) usesClock() bool {
	return k.Hourly > 0 || k.Daily > 0 || k.Weekly > 0 || k.Monthly > 0 || k.Yearly > 0
}

// keepFuture keeps what claims to be from after now, because one of the two
// clocks is wrong and nobody knows which: with a dead clock (now = 1970) no
// bucket rule may drop anything. It returns the indices of all others, newest
// time first; of two with one time the later taken is the newer.
func keepFuture(reasons [][]string, taken []Snapshot, now time.Time) []int {
	var past []int
	for i, s := range slices.Backward(taken) {
		if s.Time.After(now.Add(clockSlack)) {
			reasons[i] = append(reasons[i], "its time is in the future")
		} else {
			past = append(past, i)
		}
	}
	slices.SortStableFunc(past, func(a, b int) int { return taken[b].Time.Compare(taken[a].Time) })
	return past
}

// bucket is a retention rule by the clock.
type bucket struct {
	name  string
	count int
	label func(local time.Time) string // equal within one bucket only
}

func (k Keep) buckets() []bucket {
	return []bucket{
		{"hourly", k.Hourly, hour},
		{"daily", k.Daily, day},
		{"weekly", k.Weekly, week},
		{"monthly", k.Monthly, month},
		{"yearly", k.Yearly, year},
	}
}

// apply keeps the newest snapshot of each of the newest b.count buckets that
// have one. Buckets are told apart by a set, not by comparing neighbours:
// where clocks were turned back over midnight, a date comes twice.
func (b bucket) apply(reasons [][]string, taken []Snapshot, byTime []int, loc *time.Location) {
	seen := map[string]bool{}
	for _, i := range byTime {
		if len(seen) >= b.count {
			return
		}
		label := b.label(taken[i].Time.In(loc))
		if !seen[label] {
			seen[label] = true
			reasons[i] = append(reasons[i], b.name+" "+label)
		}
	}
}

// hour carries the UTC offset: the hour that comes twice when daylight saving
// time ends is two buckets.
func hour(t time.Time) string  { return t.Format("2006-01-02T15-0700") }
func day(t time.Time) string   { return t.Format("2006-01-02") }
func month(t time.Time) string { return t.Format("2006-01") }
func year(t time.Time) string  { return t.Format("2006") }

func week(t time.Time) string {
	y, w := t.ISOWeek()
	return fmt.Sprintf("%04d-W%02d", y, w)
}

func (k Keep) verdicts(taken []Snapshot, reasons [][]string) []Verdict {
	gone := "no rule keeps it"
	if k.None() {
		gone = "keep is 0"
	}
	verdicts := make([]Verdict, len(taken))
	for i, s := range taken {
		verdicts[i] = Verdict{Name: s.Name, Keep: len(reasons[i]) > 0, Reasons: reasons[i]}
		if !verdicts[i].Keep {
			verdicts[i].Reasons = []string{gone}
		}
	}
	return verdicts
}
