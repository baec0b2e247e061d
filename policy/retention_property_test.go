package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// trial is one random case: clocks that jump, times that repeat, counts
// around the number of snapshots.
type trial struct {
	keep  Keep
	taken []Snapshot
	now   time.Time
}

func randomTrial(r *rand.Rand, locs []*time.Location) trial {
	steps := []time.Duration{0, time.Minute, 20 * time.Minute, time.Hour, 7 * time.Hour,
		24 * time.Hour, 8 * 24 * time.Hour, -time.Hour, -30 * 24 * time.Hour}
	when := time.Date(2026, time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), 0, 0, 0, time.UTC)
	t := trial{keep: randomKeep(r)}
	for i := range r.IntN(60) {
		when = when.Add(steps[r.IntN(len(steps))] * time.Duration(r.IntN(3)))
		t.taken = append(t.taken, Snapshot{Name: fmt.Sprint("s", i), Time: when})
	}
	t.now = when.Add(time.Duration(r.IntN(200)-100) * time.Hour).In(locs[r.IntN(len(locs))])
	return t
}

func randomKeep(r *rand.Rand) Keep {
	n := func() int { return max(0, r.IntN(12)-4) }
	return Keep{n(), n(), n(), n(), n(), n()}
}

// eachTrial is reproducible: the seed is the number of the trial.
func eachTrial(t *testing.T, check func(t *testing.T, r *rand.Rand, c trial)) {
	locs := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "Australia/Lord_Howe"),
		zone(t, "America/St_Johns"), zone(t, "Pacific/Apia")}
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := randomTrial(r, locs)
		check(t, r, c)
		if t.Failed() {
			t.Fatalf("trial %d: %+v, now %v, taken %v", seed, c.keep, c.now, c.taken)
		}
	}
}

func keptNames(verdicts []Verdict) []string {
	var names []string
	for _, v := range verdicts {
		if v.Keep {
			names = append(names, v.Name)
		}
	}
	return names
}

func TestVerdictsAreInOrderAndArgumentIsUnchanged(t *testing.T) {
	eachTrial(t, func(t *testing.T, _ *rand.Rand, c trial) {
		before := slices.Clone(c.taken)
		verdicts := c.keep.Apply(c.taken, c.now)
		if len(verdicts) != len(before) || !slices.Equal(c.taken, before) {
			t.Fatalf("%d verdicts for %d snapshots, or the argument changed", len(verdicts), len(before))
		}
		for i, v := range verdicts {
			if v.Name != before[i].Name || len(v.Reasons) == 0 {
				t.Errorf("verdict %d is %+v", i, v)
			}
		}
	})
}

// Raising a count from 0 is adding a rule.
func TestRaisingACountNeverDrops(t *testing.T) {
	eachTrial(t, func(t *testing.T, r *rand.Rand, c trial) {
		more := c.keep
		counts := []*int{&more.Last, &more.Hourly, &more.Daily, &more.Weekly, &more.Monthly, &more.Yearly}
		*counts[r.IntN(len(counts))] += 1 + r.IntN(3)
		kept := keptNames(more.Apply(c.taken, c.now))
		for _, name := range keptNames(c.keep.Apply(c.taken, c.now)) {
			if !slices.Contains(kept, name) {
				t.Errorf("%+v keeps %s, %+v does not", c.keep, name, more)
			}
		}
	})
}

func TestApplyingAgainKeepsAll(t *testing.T) {
	eachTrial(t, func(t *testing.T, _ *rand.Rand, c trial) {
		var rest []Snapshot
		for i, v := range c.keep.Apply(c.taken, c.now) {
			if v.Keep {
				rest = append(rest, c.taken[i])
			}
		}
		if kept := keptNames(c.keep.Apply(rest, c.now)); len(kept) != len(rest) {
			t.Errorf("of %d kept ones, only %d are kept again", len(rest), len(kept))
		}
	})
}

func TestNewestStaysUnlessKeepIsZero(t *testing.T) {
	eachTrial(t, func(t *testing.T, _ *rand.Rand, c trial) {
		verdicts := c.keep.Apply(c.taken, c.now)
		if n := len(verdicts); n > 0 && verdicts[n-1].Keep == c.keep.None() {
			t.Errorf("newest: %+v", verdicts[n-1])
		}
		if c.keep.None() && len(keptNames(verdicts)) > 0 {
			t.Error("a zero Keep kept something")
		}
	})
}

func TestMostIsTheLimitWhileClocksAreRight(t *testing.T) {
	eachTrial(t, func(t *testing.T, _ *rand.Rand, c trial) {
		slices.SortStableFunc(c.taken, func(a, b Snapshot) int { return a.Time.Compare(b.Time) })
		now := c.now
		if n := len(c.taken); n > 0 && now.Before(c.taken[n-1].Time) {
			now = c.taken[n-1].Time.In(now.Location())
		}
		if kept := keptNames(c.keep.Apply(c.taken, now)); len(kept) > c.keep.Most() {
			t.Errorf("%d kept, Most is %d", len(kept), c.keep.Most())
		}
	})
}

// A second implementation, straight from the words of docs/policy.md.
func TestApplyAgreesWithTheWordsOfTheManual(t *testing.T) {
	eachTrial(t, func(t *testing.T, _ *rand.Rand, c trial) {
		var got, want []bool
		for i, v := range c.keep.Apply(c.taken, c.now) {
			got, want = append(got, v.Keep), append(want, c.keeps(i))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func (c trial) keeps(i int) bool {
	n, k := len(c.taken), c.keep
	if k.None() {
		return false
	}
	local := func(j int) time.Time { return c.taken[j].Time.In(c.now.Location()) }
	future := func(j int) bool { return c.taken[j].Time.Sub(c.now) > time.Minute }
	byClock := func(count int, same func(a, b time.Time) bool) bool {
		newer := map[string]bool{} // buckets with a newer snapshot than i, by their newest member
		for j := range n {
			later := local(j).After(local(i)) || local(j).Equal(local(i)) && j > i
			if future(j) || !later {
				continue
			}
			if same(local(i), local(j)) {
				return false
			}
			newest := j
			for l := range n {
				if !future(l) && same(local(j), local(l)) &&
					(local(l).After(local(newest)) || local(l).Equal(local(newest)) && l > newest) {
					newest = l
				}
			}
			newer[c.taken[newest].Name] = true
		}
		return len(newer) < count
	}
	clock := k.Hourly+k.Daily+k.Weekly+k.Monthly+k.Yearly > 0
	return i == n-1 || i >= n-k.Last || clock && (future(i) ||
		byClock(k.Hourly, sameHour) || byClock(k.Daily, sameDay) ||
		byClock(k.Weekly, sameWeek) || byClock(k.Monthly, sameMonth) || byClock(k.Yearly, sameYear))
}

func sameHour(a, b time.Time) bool {
	_, x := a.Zone()
	_, y := b.Zone()
	return sameDay(a, b) && a.Hour() == b.Hour() && x == y
}

func sameDay(a, b time.Time) bool { return a.Year() == b.Year() && a.YearDay() == b.YearDay() }

func sameYear(a, b time.Time) bool { return a.Year() == b.Year() }

func sameMonth(a, b time.Time) bool { return a.Year() == b.Year() && a.Month() == b.Month() }

func sameWeek(a, b time.Time) bool {
	ay, aw := a.ISOWeek()
	by, bw := b.ISOWeek()
	return ay == by && aw == bw
}
