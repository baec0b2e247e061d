package rotate

import (
	"context"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A Described is a snapshot with what its description says, before and after.
type Described struct {
	Snapshot      string
	Before, After host.Mark
}

// Describe lets the descriptions of snapshots say something else, which libvirt keeps with
// them whatever becomes of their layers. The snapshots are named as host.Domain.Meant tells. The caller
// holds the Lock. All that can be refused is refused before the first is changed; the error is a
// *chain.RefusedError for a snapshot that is not ours: nobody drops it.
func (r *Rotator) Describe(ctx context.Context, domain string, snapshots []string, change func(*host.Mark)) ([]Described, error) {
	w, err := r.observe(ctx, domain, false)
	if err != nil {
		return nil, err
	}
	run := &domainRun{Rotator: r, w: w, seen: r.Clock()}
	all, err := described(w, r, domain, snapshots, change)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if err := r.Host.Rehearse(ctx, domain, []string{all[i].Snapshot}); err != nil {
			return nil, fmt.Errorf("snapshot %s: its metadata could not be written: %w", all[i].Snapshot, err)
		}
	}
	for i, s := range all {
		if s.Before.String() == s.After.String() {
			continue
		}
		fix := host.SnapshotFix{Snapshot: s.Snapshot, Description: s.After.String()}
		if err := r.Host.Redefine(ctx, domain, fix); err != nil {
			return all[:i], fmt.Errorf("snapshot %s: %w", s.Snapshot, err)
		}
	}
	run.leaveChanged(ctx, domain)
	return all, nil
}

// described finds the snapshots, and what their descriptions are to say.
func described(w *observe.World, r *Rotator, domain string, snapshots []string, change func(*host.Mark)) (all []Described, err error) {
	for _, text := range snapshots {
		_, s, err := w.Named(domain, text, r.Clock())
		if err != nil {
			return nil, err
		}
		mark, ours := s.Mark()
		if !ours {
			return nil, &chain.RefusedError{Path: s.Name, Reason: "virt-rotate did not take it: it stays in any case"}
		}
		after := mark
		change(&after)
		all = append(all, Described{s.Name, mark, after})
	}
	return all, nil
}
