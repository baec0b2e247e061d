package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// A Check says when the command check finds a domain of the rule badly protected.
type Check struct {
	Warn    float64       `json:"warn"`    // times Every: an older newest snapshot is a warning
	Crit    float64       `json:"crit"`    // times Every: an older one is critical
	Timer   time.Duration `json:"timer"`   // how often virt-rotate is run; Every counts as at least that
	Waiting time.Duration `json:"waiting"` // merges that are put off for longer are a warning
}

// MarshalJSON spells durations as the policy file does.
func (c Check) MarshalJSON() ([]byte, error) {
	type plain Check // has no MarshalJSON
	return json.Marshal(struct {
		plain
		Timer   interval `json:"timer"` // hides the one of plain
		Waiting interval `json:"waiting"`
	}{plain(c), interval(c.Timer), interval(c.Waiting)})
}

// MaxAge returns the ages of the newest snapshot from which on the rule has a warning, and
// from which on that is critical. A snapshot cannot be younger than the timer makes it.
func (r *Rule) MaxAge() (warn, crit time.Duration) {
	every := max(r.Every, r.Check.Timer)
	return times(every, r.Check.Warn), times(every, r.Check.Crit)
}

func times(d time.Duration, factor float64) time.Duration {
	return time.Duration(min(float64(d)*factor, float64(math.MaxInt64/2)))
}

// Severity says what it means for check that no policy covers a domain.
type Severity string

// The severities.
const (
	SeverityIgnore Severity = "ignore"
	SeverityWarn   Severity = "warn"
	SeverityCrit   Severity = "crit"
)

// UnmarshalText accepts the three severities.
func (s *Severity) UnmarshalText(text []byte) error {
	return choose(s, text, SeverityIgnore, SeverityWarn, SeverityCrit)
}

// MarshalText never fails.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s), nil }

// A HostCheck says what check makes of domains that no policy covers.
type HostCheck struct {
	Uncovered Severity `json:"uncovered"`
	Ignore    []string `json:"ignore"` // globs: domains that need no policy
}

// Of is the severity of a domain without a policy.
func (c *HostCheck) Of(domain string) Severity {
	if matchAny(c.Ignore, domain) {
		return SeverityIgnore
	}
	return c.Uncovered
}

// MarshalJSON writes an empty list as [], never null.
func (c HostCheck) MarshalJSON() ([]byte, error) {
	type plain HostCheck // has no MarshalJSON
	if c.Ignore == nil {
		c.Ignore = []string{}
	}
	return json.Marshal(plain(c))
}

// TOML writes the [check] table; "" where it says no more than it does by default.
func (c *HostCheck) TOML() string {
	if c.Uncovered == SeverityWarn && len(c.Ignore) == 0 {
		return ""
	}
	var b strings.Builder
	for _, f := range hostCheckFields(c) {
		fmt.Fprintf(&b, "%-13s = %s\n", f.key, f.text())
	}
	return "[check]\n" + b.String()
}

func hostCheckFields(c *HostCheck) []field {
	return []field{
		text("uncovered", &c.Uncovered, "warn"),
		list("ignore", &c.Ignore, globList),
	}
}

func checkFields(c *Check) []field {
	return []field{
		fraction("warn", (*factor)(&c.Warn)),
		fraction("crit", (*factor)(&c.Crit)),
		text("timer", (*interval)(&c.Timer), "1h"),
		text("waiting", (*interval)(&c.Waiting), "2d"),
	}
}

// fraction is a key whose value is a TOML float or integer.
func fraction(key string, dest scalar) field {
	return field{key: key, print: printPlain(dest), set: func(v any) error {
		switch n := v.(type) {
		case int64:
			return dest.UnmarshalText(strconv.AppendInt(nil, n, 10))
		case float64:
			return dest.UnmarshalText(strconv.AppendFloat(nil, n, 'f', -1, 64))
		}
		return fmt.Errorf("want a number such as 2 or 1.5, not %s", describe(v))
	}}
}

// maxFactor is far beyond any age that somebody waits for.
const maxFactor = 10000

// factor is a number that a duration is multiplied by.
type factor float64

func (f *factor) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n >= 1 && n <= maxFactor) { // not a number is neither
		return fmt.Errorf("%s: want a number of 1 to %d", text, maxFactor)
	}
	*f = factor(n)
	return nil
}

func (f factor) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(f), 'f', -1, 64), nil
}

// filePath is an absolute path of a file, or "" for "not set".
type filePath string

func (p *filePath) UnmarshalText(text []byte) error {
	if strings.HasSuffix(string(text), "/") {
		return errors.New(quote(string(text)) + ": want the path of a file")
	}
	return (*absPath)(p).UnmarshalText(text)
}

func (p filePath) MarshalText() ([]byte, error) { return []byte(p), nil }

// checkAges refuses a warning that would come after the critical.
func (p *parser) checkAges(r *Rule, at toml.Key) {
	if r.Check.Warn <= r.Check.Crit || !p.sound(at, "check") {
		return
	}
	for _, key := range []toml.Key{below(at, "check", "warn"), below(at, "check", "crit"), {"defaults", "check", "warn"}, {"defaults", "check", "crit"}} {
		if p.lines.has(key) {
			p.add(key, "warn = %v is more than crit = %v", r.Check.Warn, r.Check.Crit)
			return
		}
	}
}
