package rotate

import (
	"context"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// ended completes the plan of a domain whose work is over, and hands it on.
func (r *domainRun) ended(ctx context.Context, p decide.Plan) decide.Plan {
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
func (r *domainRun) sums(p *decide.Plan) *decide.Ran {
	sum := decide.Summarize([]decide.Plan{*p})
	ran := &decide.Ran{Start: r.start, Merged: sum.Merged, Freed: sum.Freed}
	d := r.w.Domain(p.Domain)
	if d == nil {
		return ran
	}
	ran.UUID = d.UUID
	ran.Layers, ran.Allocated = footprint(r.w, d)
	return ran
}

// footprint is the number of layers of the longest chain of a domain, and the bytes that all
// its layers, and what its snapshots have beside them, take on disk, each counted once.
func footprint(w *observe.World, d *host.Domain) (layers int, allocated int64) {
	counted := map[string]bool{}
	for i := range d.Disks {
		if d.Disks[i].ReadOnly {
			continue
		}
		layers = max(layers, len(d.Disks[i].Chain))
		for j := range d.Disks[i].Chain {
			if l := &d.Disks[i].Chain[j]; !counted[l.Key()] {
				counted[l.Key()] = true
				allocated += l.Allocated
			}
		}
	}
	for i := range d.Snapshots {
		for _, path := range d.Snapshots[i].Kept() {
			if !counted[path] {
				counted[path] = true
				allocated += w.Left[path].Allocated
			}
		}
	}
	return layers, allocated
}

// warn tells of something that is no failure, now and in the report.
func (r *domainRun) warn(domain, text string) {
	r.warnings = append(r.warnings, text)
	r.Report(Event{Kind: EventWarning, Domain: domain, Text: text})
}
