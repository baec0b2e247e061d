package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const minutesPerDay = 24 * 60

// Window is a time of day in which merges may start. The zero Window is
// always open. Start and End are minutes after midnight by the wall clock,
// Start included, End not; a window with End before Start spans midnight.
type Window struct{ Start, End int }

// UnmarshalText reads "01:00-05:00"; "" is the Window that is always open.
func (w *Window) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*w = Window{}
		return nil
	}
	from, to, dash := strings.Cut(string(text), "-")
	start, err1 := parseClock(from)
	end, err2 := parseClock(to)
	if !dash || err1 != nil || err2 != nil || start == minutesPerDay {
		return fmt.Errorf(`%q: want two times of day such as "01:00-05:00" or "22:00-04:00"`, text)
	}
	if start == end {
		return fmt.Errorf(`%q: starts and ends at one time; "" means always`, text)
	}
	*w = Window{start, end}
	return nil
}

var errClock = errors.New("not a time of day")

// parseClock reads HH:MM, up to and including 24:00, into minutes.
func parseClock(s string) (int, error) {
	if len(s) != len("15:04") || s[2] != ':' {
		return 0, errClock
	}
	hours, err1 := strconv.ParseUint(s[:2], 10, 8)
	minutes, err2 := strconv.ParseUint(s[3:], 10, 8)
	sum := int(hours)*60 + int(minutes)
	if err1 != nil || err2 != nil || minutes > 59 || sum > minutesPerDay {
		return 0, errClock
	}
	return sum, nil
}

// Open reports whether the wall clock of t, in t's own location, is within
// the window. When clocks change, the wall clock counts: an hour that is
// skipped never opens, an hour that comes twice opens twice.
func (w Window) Open(t time.Time) bool {
	minute := t.Hour()*60 + t.Minute()
	switch {
	case w == Window{}:
		return true
	case w.Start < w.End:
		return w.Start <= minute && minute < w.End
	}
	return w.Start <= minute || minute < w.End
}

// closed is how long of a day the window is not open.
func (w Window) closed() time.Duration {
	if w == (Window{}) {
		return 0
	}
	open := (w.End - w.Start + minutesPerDay) % minutesPerDay
	if open == 0 { // 00:00-24:00
		return 0
	}
	return time.Duration(minutesPerDay-open) * time.Minute
}

// String is such as "01:00-05:00", or "" for always.
func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.Start/60, w.Start%60, w.End/60, w.End%60)
}

// MarshalText never fails.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }
