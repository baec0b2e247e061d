package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnit is a unit of bytes; shift is its power of two.
type sizeUnit struct {
	name  string
	shift uint
}

// sizeUnits are in descending order, B last: every other name ends in B.
func sizeUnits() []sizeUnit {
	return []sizeUnit{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}
}

// errSize is for text that is no size; callers know better what to say.
var errSize = errors.New("not a size")

// parseSize reads a whole number with a unit, such as "20GiB", into bytes.
func parseSize(text string) (int64, error) {
	for _, u := range sizeUnits() {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimRight(digits, " "), 10, 63)
		if err != nil || n > math.MaxInt64>>u.shift {
			return 0, errSize
		}
		return int64(n) << u.shift, nil
	}
	return 0, errSize
}

// formatSize uses the largest unit that leaves a whole number.
func formatSize(n int64) string {
	for _, u := range sizeUnits() {
		if n != 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return "0B"
}

// Bandwidth limits a merge, in bytes per second. 0 = unlimited.
type Bandwidth int64

// UnmarshalText reads "200MiB/s"; "", "0" and "unlimited" mean no limit.
func (b *Bandwidth) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" || s == "0" || s == "unlimited" {
		*b = 0
		return nil
	}
	if _, err := strconv.ParseUint(s, 10, 63); err == nil {
		return fmt.Errorf(`%s: no unit; did you mean "%sMiB/s"? (or KiB/s, GiB/s, B/s)`, s, s)
	}
	size, perSecond := strings.CutSuffix(s, "/s")
	n, err := parseSize(size)
	if err != nil || !perSecond {
		return fmt.Errorf(`%q: want a whole number with B/s, KiB/s, MiB/s or GiB/s, such as "200MiB/s", or "unlimited"`, s)
	}
	*b = Bandwidth(n)
	return nil
}

// String is "unlimited" or such as "200MiB/s".
func (b Bandwidth) String() string {
	if b == 0 {
		return "unlimited"
	}
	return formatSize(int64(b)) + "/s"
}

// MarshalText never fails.
func (b Bandwidth) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// MinFree is the space that must stay free: a share of the storage or a
// fixed size. At most one of the two is not 0.
type MinFree struct {
	Percent int   // 0..99 of the storage
	Size    int64 // bytes
}

// UnmarshalText reads "10%" or "20GiB".
func (m *MinFree) UnmarshalText(text []byte) error {
	s := string(text)
	if number, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil || n > 99 {
			return fmt.Errorf("%q: want a whole percentage of 0%% to 99%%", s)
		}
		*m = MinFree{Percent: int(n)}
		return nil
	}
	n, err := parseSize(s)
	if err != nil {
		return fmt.Errorf(`%q: want a share such as "10%%", or a size such as "20GiB" (B, KiB, MiB, GiB, TiB)`, s)
	}
	*m = MinFree{Size: n}
	return nil
}

// Bytes is the space that must stay free on a storage of total bytes. The
// division comes first, in hundredths: total*99 could overflow.
func (m MinFree) Bytes(total int64) int64 {
	if m.Size > 0 {
		return m.Size
	}
	percent := int64(m.Percent)
	return total/100*percent + total%100*percent/100
}

// String is such as "10%" or "20GiB".
func (m MinFree) String() string {
	if m.Size > 0 {
		return formatSize(m.Size)
	}
	return strconv.Itoa(m.Percent) + "%"
}

// MarshalText never fails.
func (m MinFree) MarshalText() ([]byte, error) { return []byte(m.String()), nil }
