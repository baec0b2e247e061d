package host

import (
	"strconv"
	"strings"
	"time"
)

// Meant lists the snapshots that text may mean, as people write them. A snapshot's own
// name comes before all else. Then: latest and oldest, in the order in which they were
// taken; -1, which is the latest, -2, the one before, and so on; today, yesterday or a date
// such as 2026-11-22, which is the last one that was taken on that day in the zone of now;
// and the beginning of a name, which can fit several. None fits: an empty list.
func (d *Domain) Meant(text string, now time.Time) []Snapshot {
	if s := d.Snapshot(text); s != nil {
		return []Snapshot{*s}
	}
	taken := InOrderTaken(d.Snapshots)
	if at, ok := placeOf(text, len(taken)); ok {
		return taken[at : at+1]
	}
	if day, ok := dayOf(text, now); ok {
		return lastOn(taken, day)
	}
	var fit []Snapshot
	for _, s := range taken {
		if text != "" && strings.HasPrefix(s.Name, text) {
			fit = append(fit, s)
		}
	}
	return fit
}

// placeOf is the index that text means in a list of n.
func placeOf(text string, n int) (at int, ok bool) {
	switch text {
	case "latest":
		return n - 1, n > 0
	case "oldest":
		return 0, n > 0
	}
	back, err := strconv.Atoi(text)
	return n + back, err == nil && strings.HasPrefix(text, "-") && back < 0 && back >= -n
}

// dayOf returns a moment of the day that text means.
func dayOf(text string, now time.Time) (time.Time, bool) {
	switch text {
	case "today":
		return now, true
	case "yesterday":
		year, month, day := now.Date()
		return time.Date(year, month, day-1, 12, 0, 0, 0, now.Location()), true // at noon no clock is put back
	}
	day, err := time.ParseInLocation(time.DateOnly, text, now.Location())
	return day, err == nil
}

// lastOn returns the last of the snapshots that were taken on the day, or none.
func lastOn(taken []Snapshot, day time.Time) []Snapshot {
	last, at := -1, time.Time{}
	for i := range taken {
		if t := taken[i].Time.In(day.Location()); t.Format(time.DateOnly) == day.Format(time.DateOnly) && !t.Before(at) {
			last, at = i, t
		}
	}
	if last < 0 {
		return nil
	}
	return taken[last : last+1]
}
