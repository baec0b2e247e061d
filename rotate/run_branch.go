package rotate

import (
	"context"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A branchCarrier has the engine merge layers that no disk has in its chain.
type branchCarrier struct{ offlineCarrier }

func (c branchCarrier) record(m *decide.Merge, im *journal.Merge) {
	c.offlineCarrier.record(m, im)
	im.Branch = true
}

// merge puts on record that it is done while the layers are locked.
func (branchCarrier) merge(ctx context.Context, r *domainRun, _ *decide.Group, m *decide.Merge, s decide.Step) error {
	return r.alone(ctx, m, func(d *host.Domain) error {
		e, err := r.mayMerge(d, m)
		if err != nil {
			return err
		}
		err = r.changing().Merge(ctx, e, r.moves(m.Domain, s), func() error {
			r.merged = true
			r.boundary("merged, not on record")
			return r.recordDone(m)
		})
		if err == nil {
			r.boundary("merge is over")
		}
		return err
	})
}

// recordDone notes in the intent that the base has all of the data.
func (r *domainRun) recordDone(m *decide.Merge) error {
	in := r.w.Intents[r.w.Domain(m.Domain).UUID]
	if in == nil {
		return fmt.Errorf("%s: its intent is gone", m.Domain)
	}
	done := *in
	done.Merges = slices.Clone(in.Merges)
	for i := range done.Merges {
		if done.Merges[i].Kind() == journal.KindBranch && done.Merges[i].Base == m.Base.Path {
			done.Merges[i].Done = true
		}
	}
	return r.record(&done)
}
