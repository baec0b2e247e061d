package rotate

import (
	"fmt"
	"time"
)

// A Level says how well a guest is protected. Its numbers are the exit statuses of
// monitoring plugins.
type Level int

// The levels.
const (
	OK Level = iota
	Warning
	Critical
	Unknown
)

// String is the word that monitoring systems have for the level.
func (l Level) String() string {
	switch l {
	case OK:
		return "OK"
	case Warning:
		return "WARNING"
	case Critical:
		return "CRITICAL"
	}
	return "UNKNOWN"
}

// MarshalText never fails.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (l *Level) UnmarshalText(text []byte) error {
	for _, level := range []Level{OK, Warning, Critical, Unknown} {
		if level.String() == string(text) {
			*l = level
			return nil
		}
	}
	return fmt.Errorf("%q is no level", text)
}

// Worst is the worse of two: what is not known is worse than a warning, for it may be worse.
func (l Level) Worst(other Level) Level {
	if l.rank() < other.rank() {
		return other
	}
	return l
}

func (l Level) rank() int { return map[Level]int{OK: 0, Warning: 1, Unknown: 2, Critical: 3}[l] }

// Codes of reasons that are no refusals; those have their own.
const (
	ReasonOverdue    = "overdue"     // the newest snapshot is too old
	ReasonNone       = "no-snapshot" // there is none of ours
	ReasonFailed     = "run-failed"
	ReasonWaiting    = "merges-wait"
	ReasonLong       = "long-chain"
	ReasonLowSpace   = "low-space"
	ReasonUnfinished = "unfinished-run"
	ReasonUncovered  = "no-policy"
)

// A Reason is one thing that makes a guest less than protected.
type Reason struct {
	Level  Level      `json:"level"`
	Code   string     `json:"code"`
	Path   string     `json:"path,omitempty"` // the file or disk in question
	Detail string     `json:"detail"`
	Since  *time.Time `json:"since,omitempty"` // null where it is not on record
}

// A Verdict says whether a guest is protected, and if not, why. Sizes are bytes.
type Verdict struct {
	Domain  string   `json:"name"`
	UUID    string   `json:"uuid"`
	Policy  string   `json:"policy"` // "" where none covers it
	Level   Level    `json:"level"`  // the worst of the reasons
	Reasons []Reason `json:"reasons"`

	Snapshots   int           `json:"snapshots"`                             // ours
	Pinned      int           `json:"pinned,omitempty"`                      // of these
	Newest      *time.Time    `json:"newest-snapshot" jsonschema:"nullable"` // of ours
	MaxAge      time.Duration `json:"-"`                                     // from which on Newest is a warning; 0: its age does not matter
	CritAge     time.Duration `json:"-"`                                     // from which on it is critical
	Layers      int           `json:"layers"`                                // of the longest chain
	MaxChain    int           `json:"max-chain"`
	Allocated   int64         `json:"allocated"` // by all chains, and what snapshots keep beside them
	Free        int64         `json:"free"`      // on its fullest storage; -1: not known
	MinFree     int64         `json:"min-free"`  // what the policy keeps there
	LastRun     *LastRun      `json:"last-run" jsonschema:"nullable"`
	LastSuccess *time.Time    `json:"last-success" jsonschema:"nullable"` // null where none is on record
}

// add notes a reason.
func (v *Verdict) add(r Reason) {
	v.Reasons = append(v.Reasons, r)
	v.Level = v.Level.Worst(r.Level)
}

// Age is how old the newest snapshot is; one of the future is of now.
func (v *Verdict) Age(now time.Time) time.Duration {
	if v.Newest == nil {
		return 0
	}
	return max(now.Sub(*v.Newest), 0)
}

// A Past is what is on record of a domain's runs. Times are nil where nothing is.
type Past struct {
	LastRun     *LastRun
	LastSuccess *time.Time
	First       *time.Time           // when the oldest run on record began
	Failed      *time.Time           // since when runs in a row have failed
	Waiting     *time.Time           // since when runs in a row have put merges off
	Refused     map[string]time.Time // since when runs in a row have refused, by code
	Working     bool                 // a run is at work just now
}

// since is when runs began to refuse with that code.
func (p *Past) since(code string) *time.Time {
	if t, ok := p.Refused[code]; ok {
		return &t
	}
	return nil
}
