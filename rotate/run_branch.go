package rotate

import (
	"context"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// mergeBranch has the engine merge layers of a branch, and puts on record that it is
// done while they are locked.
func (r *domainRun) mergeBranch(ctx context.Context, m *decide.Merge, e engine.Merge, progress func(done, total int64)) error {
	return r.Engine.Merge(ctx, e, progress, func() error {
		r.merged = true
		r.boundary("merged, not on record")
		d := r.w.Domain(m.Domain)
		in := r.w.Intents[d.UUID]
		if in == nil {
			return fmt.Errorf("%s: its intent is gone", m.Domain)
		}
		done := *in
		done.Merges = slices.Clone(in.Merges)
		for i := range done.Merges {
			if done.Merges[i].Branch && done.Merges[i].Base == m.Base.Path {
				done.Merges[i].Done = true
			}
		}
		return journal.In(r.Observer.StateDir).Write(done)
	})
}
