package guests

import (
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// trendEntries is how many runs of a domain a trend has.
const trendEntries = 30

// A domainStatus is how a domain stands, and how it came to that.
type domainStatus struct {
	rotate.DomainStatus
	Verdict     verdictStatus `json:"verdict"`
	LastSuccess *time.Time    `json:"last-success" jsonschema:"nullable"` // null when none is on record
	Trend       []trendPoint  `json:"trend"`                              // oldest first
}

// A verdictStatus is what virt-rotate check says of the domain.
type verdictStatus struct {
	Level   rotate.Level    `json:"level"`
	Reasons []rotate.Reason `json:"reasons"`
}

// A trendPoint is the domain after a run. Sizes are bytes.
type trendPoint struct {
	Time      time.Time `json:"time"`
	Result    string    `json:"result"`
	Allocated int64     `json:"allocated"`
	Layers    int       `json:"layers"`
	Merged    int64     `json:"merged"`
	Freed     int64     `json:"freed"`
}

// withTrend adds what the history knows of this very domain: its name can have been
// another's.
func withTrend(s rotate.DomainStatus, uuid string, entries []history.Entry) domainStatus {
	d := domainStatus{DomainStatus: s, Trend: []trendPoint{}}
	for i := range entries {
		x := &entries[i]
		if x.Domain != s.Name || x.UUID != uuid || x.Command != "run" {
			continue
		}
		if succeeded(x.Result) {
			d.LastSuccess = &x.End
		}
		d.Trend = append(d.Trend, trendPoint{x.End, x.Result, x.Allocated, x.Layers, x.Merged, x.Freed})
	}
	d.Trend = d.Trend[max(0, len(d.Trend)-trendEntries):]
	return d
}

func succeeded(result string) bool {
	return result == decide.ResultDone || result == decide.ResultNothing
}

// successText is "" where the last run says it all.
func (d *domainStatus) successText(now time.Time) string {
	switch {
	case d.LastRun == nil || succeeded(d.LastRun.Result) || len(d.Trend) == 0:
		return ""
	case d.LastSuccess == nil:
		return "none on record"
	}
	return agoText(*d.LastSuccess, now)
}

// trendText tells how the space of the chains developed; "" with nothing to compare.
func (d *domainStatus) trendText() string {
	if len(d.Trend) < 2 {
		return ""
	}
	first, last := &d.Trend[0], &d.Trend[len(d.Trend)-1]
	var merged, freed int64
	for _, p := range d.Trend {
		merged, freed = merged+p.Merged, freed+p.Freed
	}
	return fmt.Sprintf("%s → %s on disk, %d → %s in %s; merged %s, freed %s",
		host.Bytes(first.Allocated), host.Bytes(last.Allocated), first.Layers, term.Plural(last.Layers, "layer"),
		duration(last.Time.Sub(first.Time)), host.Bytes(merged), host.Bytes(freed))
}
