package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the host may have no zone files
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// series are snapshots step apart, the first at from, the last not after to.
func series(from, to time.Time, step time.Duration) []Snapshot {
	var taken []Snapshot
	for when := from; !when.After(to); when = when.Add(step) {
		taken = append(taken, Snapshot{Name: when.UTC().Format("20060102T150405Z"), Time: when})
	}
	return taken
}

// snapshots are named by their place in the sequence.
func snapshots(t *testing.T, times ...string) []Snapshot {
	t.Helper()
	taken := make([]Snapshot, len(times))
	for i, text := range times {
		taken[i] = Snapshot{Name: fmt.Sprintf("s%d", i+1), Time: at(t, text)}
	}
	return taken
}

// report lists what is kept and why, and how much goes.
func report(k Keep, taken []Snapshot, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v, now %s\n", k, now.Format("2006-01-02T15:04:05-0700 Mon"))
	gone := map[string]int{}
	for i, v := range k.Apply(taken, now) {
		if !v.Keep {
			gone[strings.Join(v.Reasons, ", ")]++
			continue
		}
		local := taken[i].Time.In(now.Location()).Format("2006-01-02T15:04:05-0700 Mon")
		fmt.Fprintf(&b, "keep %-4s %s  %s\n", fmt.Sprint("#", i+1), local, strings.Join(v.Reasons, ", "))
	}
	for reason, n := range gone { // one reason at most
		fmt.Fprintf(&b, "drop %d: %s\n", n, reason)
	}
	return b.String()
}

func TestRetentionGolden(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	year := series(at(t, "2025-11-22T03:33:38+01:00"), at(t, "2026-11-22T03:33:38+01:00"), time.Hour)
	yearNow := at(t, "2026-11-22T03:40:00+01:00").In(berlin)
	autumn := series(at(t, "2026-10-24T20:30:00Z"), at(t, "2026-10-25T23:30:00Z"), 30*time.Minute)
	spring := series(at(t, "2026-03-28T20:30:00Z"), at(t, "2026-03-29T23:30:00Z"), 30*time.Minute)
	restic := snapshots(t, // from the tests of restic's forget, thinned out
		"2014-09-01T10:20:30Z", "2014-09-05T10:20:30Z", "2014-11-22T10:20:30Z", "2014-12-31T23:59:59Z",
		"2015-01-01T00:00:00Z", "2015-09-08T10:20:30Z", "2015-10-01T10:20:30Z", "2015-10-20T10:20:30Z",
		"2015-11-08T10:20:30Z", "2015-12-27T23:59:59Z", "2015-12-28T00:00:00Z", "2016-01-01T01:02:03Z",
		"2016-01-03T07:02:03Z", "2016-01-04T12:23:03Z", "2016-01-04T16:23:03Z", "2016-01-18T12:02:03Z")
	backwards := snapshots(t, "2026-11-20T01:00:00Z", "2026-11-20T02:00:00Z", "1970-01-01T00:05:00Z",
		"1970-01-01T01:05:00Z", "2026-11-20T05:00:00Z", "2026-11-20T04:00:00Z", "2031-01-01T00:00:00Z",
		"2026-11-20T06:00:00Z")
	tests := []struct {
		name  string
		keep  Keep
		taken []Snapshot
		now   time.Time
	}{
		{"year-last", Keep{Last: 7}, year, yearNow},
		{"year-every-rule", Keep{Last: 3, Hourly: 5, Daily: 7, Weekly: 4, Monthly: 6}, year, yearNow},
		{"year-more-than-there-are", Keep{Monthly: 24, Weekly: 10}, year, yearNow},
		{"year-weekly-utc", Keep{Weekly: 6}, year, yearNow.UTC()},
		{"dst-autumn-hourly", Keep{Hourly: 6}, autumn[:20], at(t, "2026-10-25T05:10:00+01:00").In(berlin)},
		{"dst-autumn-all-past", Keep{Hourly: 24, Daily: 2}, autumn, at(t, "2026-10-26T00:45:00+01:00").In(berlin)},
		{"dst-spring-all-past", Keep{Hourly: 24, Daily: 2}, spring, at(t, "2026-03-30T01:45:00+02:00").In(berlin)},
		{"restic-daily", Keep{Daily: 10}, restic, at(t, "2016-01-18T12:03:00Z")},
		{"restic-weekly", Keep{Weekly: 5}, restic, at(t, "2016-01-18T12:03:00Z")},
		{"restic-monthly", Keep{Monthly: 6}, restic, at(t, "2016-01-18T12:03:00Z")},
		{"restic-yearly", Keep{Yearly: 10}, restic, at(t, "2016-01-18T12:03:00Z")},
		{"restic-mixed", Keep{Last: 2, Daily: 3, Weekly: 2, Monthly: 4}, restic, at(t, "2016-01-18T12:03:00Z")},
		{"clock-backwards", Keep{Last: 1, Hourly: 3, Daily: 2}, backwards, at(t, "2026-11-20T06:01:00Z")},
		{"clock-backwards-last-only", Keep{Last: 3}, backwards, at(t, "2026-11-20T06:01:00Z")},
		{"clock-dead-now", Keep{Hourly: 1, Daily: 1}, backwards, at(t, "1970-01-01T02:00:00Z")},
		{"clock-far-ahead", Keep{Hourly: 2, Daily: 2}, backwards, at(t, "2106-02-07T06:28:15Z")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			golden(t, "testdata/retention/"+test.name+".want", report(test.keep, test.taken, test.now))
		})
	}
}

func TestRetention(t *testing.T) {
	three := []string{"2026-11-20T01:00:00Z", "2026-11-20T02:00:00Z", "2026-11-21T01:00:00Z"}
	nowhere, newest, future := "no rule keeps it", "newest", "its time is in the future"
	tests := []struct {
		name  string
		keep  Keep
		now   string
		taken []string
		want  [][]string
	}{
		{"nothing taken", Keep{Last: 1, Daily: 1}, "2026-11-21T02:00:00Z", nil, [][]string{}},
		{"all zero", Keep{}, "2026-11-21T02:00:00Z", three, [][]string{{"keep is 0"}, {"keep is 0"}, {"keep is 0"}}},
		{"last", Keep{Last: 2}, "2026-11-21T02:00:00Z", three,
			[][]string{{nowhere}, {"last 2 of 2"}, {newest, "last 1 of 2"}}},
		{"last more than there are", Keep{Last: 9}, "2026-11-21T02:00:00Z", three,
			[][]string{{"last 3 of 9"}, {"last 2 of 9"}, {newest, "last 1 of 9"}}},
		{"newest of each day", Keep{Daily: 7}, "2026-11-21T02:00:00Z", three,
			[][]string{{nowhere}, {"daily 2026-11-20"}, {newest, "daily 2026-11-21"}}},
		{"every rule gives its reason", Keep{Last: 1, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1}, "2026-11-21T02:00:00Z", three,
			[][]string{{nowhere}, {nowhere}, {newest, "last 1 of 1", "hourly 2026-11-21T01+0000",
				"daily 2026-11-21", "weekly 2026-W47", "monthly 2026-11", "yearly 2026"}}},
		{"years are those of now's zone", Keep{Yearly: 9}, "2027-01-05T00:00:00-04:00",
			[]string{"2026-06-01T12:00:00Z", "2027-01-01T03:59:59Z", "2027-01-01T04:00:00Z"},
			[][]string{{nowhere}, {"yearly 2026"}, {newest, "yearly 2027"}}},
		{"buckets are in now's zone", Keep{Daily: 9}, "2026-11-21T02:00:00-04:00",
			[]string{"2026-11-21T03:59:59Z", "2026-11-21T04:00:00Z"},
			[][]string{{"daily 2026-11-20"}, {newest, "daily 2026-11-21"}}},
		{"ISO week of new year", Keep{Weekly: 9}, "2027-01-05T00:00:00Z",
			[]string{"2026-12-27T12:00:00Z", "2026-12-28T12:00:00Z", "2027-01-03T12:00:00Z", "2027-01-04T12:00:00Z"},
			[][]string{{"weekly 2026-W52"}, {nowhere}, {"weekly 2026-W53"}, {newest, "weekly 2027-W01"}}},
		{"a minute ahead is no fault", Keep{Daily: 1}, "2026-11-20T01:59:00Z", three[:2],
			[][]string{{nowhere}, {newest, "daily 2026-11-20"}}},
		{"more than a minute ahead is", Keep{Daily: 1}, "2026-11-20T01:58:59Z", three[:2],
			[][]string{{"daily 2026-11-20"}, {newest, future}}},
		{"last looks at no clock", Keep{Last: 1}, "1970-01-01T00:00:00Z", three,
			[][]string{{nowhere}, {nowhere}, {newest, "last 1 of 1"}}},
		{"the dead clock drops nothing", Keep{Monthly: 1}, "1970-01-01T00:00:00Z", three,
			[][]string{{future}, {future}, {newest, future}}},
		{"newest taken stays whatever its time", Keep{Hourly: 1}, "2026-11-21T02:00:00Z",
			[]string{"2026-11-21T01:00:00Z", "1970-01-01T00:00:00Z"},
			[][]string{{"hourly 2026-11-21T01+0000"}, {newest}}},
		{"of one time the later taken is newer", Keep{Hourly: 1}, "2026-11-21T02:00:00Z",
			[]string{"2026-11-21T01:00:00Z", "2026-11-21T01:00:00Z", "2026-11-21T00:30:00Z"},
			[][]string{{nowhere}, {"hourly 2026-11-21T01+0000"}, {newest}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := [][]string{}
			for _, v := range test.keep.Apply(snapshots(t, test.taken...), at(t, test.now)) {
				got = append(got, v.Reasons)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// St John's turned its clocks back at 00:01, so that one minute of a date
// came before the last hour of the date before it.
func TestDateThatComesTwiceIsOneBucket(t *testing.T) {
	taken := snapshots(t, "2006-10-29T02:29:00Z", "2006-10-29T02:30:30Z", "2006-10-29T03:00:00Z", "2006-10-29T04:00:00Z")
	now := at(t, "2006-10-29T05:00:00Z").In(zone(t, "America/St_Johns"))
	var kept []string
	for _, v := range (Keep{Daily: 9}).Apply(taken, now) {
		if v.Keep {
			kept = append(kept, v.Name+" "+v.Reasons[len(v.Reasons)-1])
		}
	}
	want := []string{"s3 daily 2006-10-28", "s4 daily 2006-10-29"}
	if !reflect.DeepEqual(kept, want) {
		t.Errorf("kept %q, want %q", kept, want)
	}
}

func TestNone(t *testing.T) {
	if !(Keep{}).None() {
		t.Error("a zero Keep keeps something")
	}
	for _, k := range []Keep{{Last: 1}, {Hourly: 1}, {Daily: 1}, {Weekly: 1}, {Monthly: 1}, {Yearly: 1}} {
		if k.None() {
			t.Errorf("%+v keeps nothing", k)
		}
	}
}
