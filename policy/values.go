package policy

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Method says how a layer is merged.
type Method string

// The methods. Auto lets virt-rotate choose by storage and chain.
const (
	MethodAuto   Method = "auto"
	MethodCommit Method = "commit" // data moves down
	MethodPull   Method = "pull"   // data moves up
	MethodGraft  Method = "graft"  // extents are shared, nothing is copied
)

// UnmarshalText accepts the four methods.
func (m *Method) UnmarshalText(text []byte) error {
	return choose(m, text, MethodAuto, MethodCommit, MethodPull, MethodGraft)
}

// MarshalText never fails.
func (m Method) MarshalText() ([]byte, error) { return []byte(m), nil }

// Quiesce says whether the guest freezes its file systems for a snapshot.
type Quiesce string

// Auto freezes where a guest agent answers; yes fails where none does.
const (
	QuiesceAuto Quiesce = "auto"
	QuiesceYes  Quiesce = "yes"
	QuiesceNo   Quiesce = "no"
)

// UnmarshalText accepts auto, yes and no.
func (q *Quiesce) UnmarshalText(text []byte) error {
	return choose(q, text, QuiesceAuto, QuiesceYes, QuiesceNo)
}

// MarshalText never fails.
func (q Quiesce) MarshalText() ([]byte, error) { return []byte(q), nil }

// Offline says what happens to domains that are shut off.
type Offline string

// Native uses the built-in engine; skip leaves such domains alone.
const (
	OfflineNative Offline = "native"
	OfflineSkip   Offline = "skip"
)

// UnmarshalText accepts native and skip.
func (o *Offline) UnmarshalText(text []byte) error {
	return choose(o, text, OfflineNative, OfflineSkip)
}

// MarshalText never fails.
func (o Offline) MarshalText() ([]byte, error) { return []byte(o), nil }

// OnUnsuitable says what becomes of a domain with a disk of which no snapshot can be taken.
type OnUnsuitable string

// Refuse leaves the domain alone; skip takes its snapshots without the disk.
const (
	UnsuitableRefuse OnUnsuitable = "refuse"
	UnsuitableSkip   OnUnsuitable = "skip"
)

// UnmarshalText accepts refuse and skip.
func (u *OnUnsuitable) UnmarshalText(text []byte) error {
	return choose(u, text, UnsuitableRefuse, UnsuitableSkip)
}

// MarshalText never fails.
func (u OnUnsuitable) MarshalText() ([]byte, error) { return []byte(u), nil }

func choose[T ~string](dest *T, text []byte, allowed ...T) error {
	if slices.Contains(allowed, T(text)) {
		*dest = T(text)
		return nil
	}
	words := make([]string, len(allowed))
	for i, a := range allowed {
		words[i] = strconv.Quote(string(a))
	}
	last := len(words) - 1
	return fmt.Errorf("%q: want %s or %s", text, strings.Join(words[:last], ", "), words[last])
}

// interval is a time.Duration of at least one second, written as people do.
type interval time.Duration

// UnmarshalText reads whole numbers with units, such as "90m" or "1d12h".
func (d *interval) UnmarshalText(text []byte) error {
	sum, ok := time.Duration(0), len(text) > 0
	for rest := string(text); ok && rest != ""; {
		var part time.Duration
		part, rest, ok = cutUnit(rest)
		ok = ok && part <= math.MaxInt64-sum
		sum += part
	}
	if !ok {
		return fmt.Errorf(`%q: want a duration such as "90m", "1h", "1d" or "1w"`, text)
	}
	if sum < time.Second {
		return fmt.Errorf("%q: want at least 1s", text)
	}
	*d = interval(sum)
	return nil
}

// ParseDuration reads a duration as the policy file has it: "90m", "1d12h".
func ParseDuration(text string) (time.Duration, error) {
	var d interval
	err := d.UnmarshalText([]byte(text))
	return time.Duration(d), err
}

// cutUnit takes a whole number and its unit off the front of s.
func cutUnit(s string) (part time.Duration, rest string, ok bool) {
	digits := s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
	n, err := strconv.ParseInt(digits, 10, 64)
	rest = s[len(digits):]
	if err != nil || rest == "" {
		return 0, rest, false
	}
	unit := unitOf(rest[0])
	if unit == 0 || n > int64(math.MaxInt64/unit) {
		return 0, rest, false
	}
	return time.Duration(n) * unit, rest[1:], true
}

// unitOf is 0 for what is no unit. A day is 24 hours whatever the calendar
// says: intervals count elapsed time.
func unitOf(letter byte) time.Duration {
	switch letter {
	case 's':
		return time.Second
	case 'm':
		return time.Minute
	case 'h':
		return time.Hour
	case 'd':
		return 24 * time.Hour
	case 'w':
		return 7 * 24 * time.Hour
	}
	return 0
}

// MarshalText writes hours, minutes and seconds, without the parts that are 0.
func (d interval) MarshalText() ([]byte, error) {
	rest := time.Duration(d)
	var text []byte
	for _, letter := range []byte("hms") {
		if n := rest / unitOf(letter); n > 0 {
			text = append(strconv.AppendInt(text, int64(n), 10), letter)
		}
		rest %= unitOf(letter)
	}
	if text == nil {
		return []byte("0s"), nil
	}
	return text, nil
}

// Limits of whole numbers.
const (
	maxCount    = 10000 // snapshots; far beyond any chain, within one XML listing
	minMaxChain = 2     // base and active layer
	maxMaxChain = 200   // libvirt refuses longer backing chains
)

// count is a number of snapshots that a rule keeps.
type count int

func (c *count) UnmarshalText(text []byte) error {
	return whole((*int)(c), text, 0, maxCount)
}

func (c count) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(c), 10), nil }

// chainLength is a number of layers, base and active layer included.
type chainLength int

func (l *chainLength) UnmarshalText(text []byte) error {
	return whole((*int)(l), text, minMaxChain, maxMaxChain)
}

func (l chainLength) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(l), 10), nil }

// slotCount is how many may do something at the same time.
type slotCount int

// maxSlots is more than any storage is made better by.
const maxSlots = 100

func (n *slotCount) UnmarshalText(text []byte) error { return whole((*int)(n), text, 1, maxSlots) }

func (n slotCount) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(n), 10), nil }

func whole(dest *int, text []byte, low, high int) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < low || n > high {
		return fmt.Errorf("%s: want a whole number of %d to %d", text, low, high)
	}
	*dest = n
	return nil
}

// word is a string that is taken as it is.
type word string

func (w *word) UnmarshalText(text []byte) error {
	*w = word(text)
	return nil
}

func (w word) MarshalText() ([]byte, error) { return []byte(w), nil }

// absPath is a cleaned absolute path, or "" for "not set".
type absPath string

func (p *absPath) UnmarshalText(text []byte) error {
	s := string(text)
	if s != "" {
		if !path.IsAbs(s) {
			return fmt.Errorf("%q: want an absolute path", s)
		}
		s = path.Clean(s)
	}
	*p = absPath(s)
	return nil
}

func (p absPath) MarshalText() ([]byte, error) { return []byte(p), nil }
