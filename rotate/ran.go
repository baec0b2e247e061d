package rotate

import (
	"context"
	"slices"
	"time"
)

// Ran is what a run tells of a domain beside its steps. Sizes are bytes.
type Ran struct {
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	UUID      string    `json:"uuid"`
	Merged    int64     `json:"merged"`    // data in the layers that were merged
	Freed     int64     `json:"freed"`     // allocated by the files that were deleted
	Allocated int64     `json:"allocated"` // by the chains of the writable disks, as last seen
	Layers    int       `json:"layers"`    // of the longest of them
}

// ended completes the plan of a domain whose work is over, and hands it on.
func (r *domainRun) ended(ctx context.Context, p Plan) Plan {
	p.Ran = r.sums(&p)
	r.lastHook(ctx, &p)
	p.Hooks = r.hooks
	for _, text := range r.warnings {
		if !slices.Contains(p.Warnings, text) {
			p.Warnings = append(p.Warnings, text)
		}
	}
	p.Ran.End = r.Clock()
	if r.Ended != nil {
		r.Ended(p)
	}
	return p
}

// sums adds up what the steps did and what the chains have now.
func (r *domainRun) sums(p *Plan) *Ran {
	sum := Summarize([]Plan{*p})
	ran := &Ran{Start: r.start, Merged: sum.Merged, Freed: sum.Freed}
	d := r.w.Domain(p.Domain)
	if d == nil {
		return ran
	}
	ran.UUID = d.UUID
	counted := map[string]bool{}
	for i := range d.Disks {
		if d.Disks[i].ReadOnly {
			continue
		}
		ran.Layers = max(ran.Layers, len(d.Disks[i].Chain))
		for j := range d.Disks[i].Chain {
			if l := &d.Disks[i].Chain[j]; !counted[l.Key()] {
				counted[l.Key()] = true
				ran.Allocated += l.Allocated
			}
		}
	}
	return ran
}

// warn tells of something that is no failure, now and in the report.
func (r *domainRun) warn(domain, text string) {
	r.warnings = append(r.warnings, text)
	r.Report(Event{Kind: EventWarning, Domain: domain, Text: text})
}
