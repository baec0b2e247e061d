package rotate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/policy"
)

// newImage is what the header of a fresh overlay on below will say.
func newImage(below *Layer) *chain.Image {
	return &chain.Image{Format: "qcow2", VirtualSize: below.Size, Backing: below.Path, BackingFormat: below.Format, Blank: true}
}

// mendMetadata plans the redefinition of snapshots whose metadata does not
// match the chain: an earlier run was interrupted, or somebody merged by hand.
func (b *builder) mendMetadata() {
	end := b.begin(group{})
	b.redefine(nil)
	end()
}

// redefine plans the redefinition of every snapshot whose metadata does not
// say where its disks are in the builder's world, or whose parent goes:
// libvirt 9 changes those as if the layer went, too, which it may not.
func (b *builder) redefine(going []string) {
	for i := range b.snaps {
		s := &b.snaps[i]
		if s.Internal || len(staleDisks(b, s)) == 0 && !slices.Contains(going, s.Parent) {
			continue
		}
		b.add(Step{Op: OpRedefine, Snapshot: s.Name, Reason: "its metadata must name the chain as it is then"})
		for _, sd := range staleDisks(b, s) {
			sd.State, sd.Cut, sd.stored = paths(b.expected(sd)), false, ""
			if sd.Inactive != nil {
				sd.Inactive = slices.Clone(sd.State)
			}
		}
	}
}

// staleDisks returns the disks of s whose stored chain differs from the one expected.
func staleDisks(b *builder, s *Snapshot) []*SnapshotDisk {
	var stale []*SnapshotDisk
	for i := range s.Disks {
		sd := &s.Disks[i]
		want := b.expected(sd)
		if want != nil && len(sd.State) > 0 && b.contradicts(sd) == "" && (sd.stored != "" || !describes(sd, paths(want))) {
			stale = append(stale, sd)
		}
	}
	return stale
}

// describes tells whether the stored chains are want, as far as they are listed.
func describes(sd *SnapshotDisk, want []string) bool {
	if !sd.Cut && len(sd.State) != len(want) {
		return false
	}
	return endsAs(sd.State, want) && endsAs(sd.Inactive, want)
}

// endsAs tells whether list is the upper part of want.
func endsAs(list, want []string) bool {
	return len(list) <= len(want) && slices.Equal(list, want[len(want)-len(list):])
}

// expected returns the chain of a snapshot's state, base first: all that is
// below the overlay that came into being with it. For a disk that the snapshot
// left out, or an overlay in no chain, it is the stored chain with merged
// layers replaced by what took their data. It is nil when that is not known.
func (b *builder) expected(sd *SnapshotDisk) []Layer {
	if disk, k := overlayIn(b.disks, sd.Overlay); k > 0 {
		return slices.Clone(disk.Chain[:k])
	}
	return b.follow(sd.State)
}

// follow replaces merged layers by those that took their data.
func (b *builder) follow(stored []string) []Layer {
	var out []Layer
	for _, path := range stored {
		l := b.layer(path)
		if l == nil {
			return nil
		}
		if n := len(out); n == 0 || out[n-1].Path != l.Path {
			out = append(out, *l)
		}
	}
	return out
}

// layer finds where the content that was at path is now.
func (b *builder) layer(path string) *Layer {
	for to, ok := b.moved[path]; ok; to, ok = b.moved[path] {
		path = to.Path
	}
	for i := range b.disks {
		if k := b.disks[i].index(path); k >= 0 {
			return &b.disks[i].Chain[k]
		}
	}
	if branch := branchWith(b.branches, path); branch != nil {
		return &branch.Chain[branch.index(path)]
	}
	return nil
}

// dropMetadata drops a snapshot's metadata. libvirt 9 takes its overlays out of the
// stored chains of all descendants, as if they had been merged, and fails halfway where
// one of them lacks a disk that it has: so it has none any more by then.
func (r *domainRun) dropMetadata(ctx context.Context, d *Domain, drops []string, going string) error {
	up := survivor(d, drops, going)
	gone := drops[:max(slices.Index(drops, going), 0)]
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; s.Parent == going && !slices.Contains(gone, s.Name) {
			if err := r.reparent(ctx, d, s, up); err != nil {
				return err
			}
		}
	}
	return r.Host.DropMetadata(ctx, d.Name, going)
}

func (r *domainRun) reparent(ctx context.Context, d *Domain, s *Snapshot, parent string) error {
	if err := r.Host.Redefine(ctx, d.Name, SnapshotFix{Snapshot: s.Name, Parent: &parent}); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.Name, err)
	}
	return nil
}

// survivor returns the nearest snapshot above one that goes and which stays, or "".
func survivor(d *Domain, drops []string, going string) string {
	for s := d.Snapshot(going); s != nil; s = d.Snapshot(s.Parent) {
		if s.Name != going && !slices.Contains(drops, s.Name) {
			return s.Name
		}
	}
	return ""
}

// hasBelow tells whether a disk's chain has a layer below that path.
func (d *Domain) hasBelow(path string) bool {
	return slices.ContainsFunc(d.Disks, func(disk Disk) bool { return disk.index(path) > 0 })
}

// fixes returns how the metadata of the domain's snapshots must read, for
// those of which it reads otherwise, by snapshot.
func fixes(w *World, d *Domain, rule *policy.Rule) map[string]SnapshotFix {
	return newBuilder(w, d, rule, time.Time{}, Options{}).fixes()
}

func (b *builder) fixes() map[string]SnapshotFix {
	w, d := b.w, b.d
	if in := w.Intents[d.UUID]; in != nil {
		for i := range in.Merges {
			b.resume(&in.Merges[i], &group{})
		}
	}
	out := map[string]SnapshotFix{}
	for i := range b.snaps {
		fix := SnapshotFix{Snapshot: b.snaps[i].Name, Chains: map[string][]Layer{}, Overlays: map[string]string{}}
		for _, sd := range staleDisks(b, &b.snaps[i]) {
			fix.Chains[sd.Target] = b.expected(sd)
			if sd.stored != "" {
				fix.Overlays[sd.Target] = sd.Overlay
			}
		}
		if len(fix.Chains) > 0 {
			out[fix.Snapshot] = fix
		}
	}
	return out
}
