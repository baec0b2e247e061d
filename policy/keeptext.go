package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ParseKeep reads rules as a command line has them: "last=3,daily=7". The counts are those of
// a policy; rules that are not named keep nothing.
func ParseKeep(text string) (k Keep, err error) {
	fields := keepFields(&k)
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name })
		n, err := strconv.ParseInt(value, 10, 64)
		if i < 0 || err != nil {
			return Keep{}, fmt.Errorf("%q: want RULE=N with last, hourly, daily, weekly, monthly or yearly", part)
		}
		if err := fields[i].set(n); err != nil {
			return Keep{}, fmt.Errorf("%q: %w", part, err)
		}
	}
	return k, nil
}

// Text writes the rules that keep anything, as ParseKeep reads them.
func (k Keep) Text() string {
	var parts []string
	for _, f := range keepFields(&k) {
		if text := f.print(); text != "0" {
			parts = append(parts, f.key+"="+text)
		}
	}
	if len(parts) == 0 {
		return "last=0"
	}
	return strings.Join(parts, ",")
}
