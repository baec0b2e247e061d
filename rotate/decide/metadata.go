package decide

import (
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// ReasonChain is why the metadata of a snapshot is redefined whose chain a merge has changed.
const ReasonChain = "its metadata must name the chain as it is then"

// newImage is what the header of a fresh overlay on below will say.
func newImage(below *host.Layer) *chain.Image {
	return &chain.Image{Format: "qcow2", VirtualSize: below.Size, Backing: below.Path, BackingFormat: below.Format, Blank: true}
}

// mendMetadata plans the redefinition of snapshots whose metadata does not
// match the chain: an earlier run was interrupted, or somebody merged by hand.
func (b *builder) mendMetadata() {
	if b.frozen() && slices.ContainsFunc(b.snaps, func(s host.Snapshot) bool { return !s.Internal && len(staleDisks(b, &s)) > 0 }) {
		b.plan.putOff(b.checkpoints())
		return
	}
	end := b.begin(Group{})
	b.redefine(nil)
	end()
}

// frozen tells whether libvirt lets nobody redefine snapshots: those of a guest that is off and has checkpoints.
func (b *builder) frozen() bool { return !b.d.State.Live() && b.d.Checkpoints > 0 }

// redefinesFrozen tells whether trial does so all the same.
func (b *builder) redefinesFrozen(trial *builder) bool {
	return b.frozen() && slices.ContainsFunc(trial.plan.Steps[len(b.plan.Steps):], func(s Step) bool { return s.Op == OpRedefine })
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
		b.add(Step{Op: OpRedefine, Snapshot: s.Name, Reason: ReasonChain})
		for _, sd := range staleDisks(b, s) {
			sd.State, sd.Cut, sd.Stored = host.Paths(b.expected(sd)), false, ""
			if sd.Inactive != nil {
				sd.Inactive = slices.Clone(sd.State)
			}
		}
	}
}

// staleDisks returns the disks of s whose stored chain differs from the one expected.
func staleDisks(b *builder, s *host.Snapshot) []*host.SnapshotDisk {
	var stale []*host.SnapshotDisk
	for i := range s.Disks {
		sd := &s.Disks[i]
		want := b.expected(sd)
		if want != nil && len(sd.State) > 0 && b.contradicts(sd) == "" && (sd.Stored != "" || !describes(sd, host.Paths(want))) {
			stale = append(stale, sd)
		}
	}
	return stale
}

// describes tells whether the stored chains are want, as far as they are listed.
func describes(sd *host.SnapshotDisk, want []string) bool {
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
func (b *builder) expected(sd *host.SnapshotDisk) []host.Layer {
	if disk, k := OverlayIn(b.disks, sd.Overlay); k > 0 {
		return slices.Clone(disk.Chain[:k])
	}
	return b.follow(sd.State)
}

// follow replaces merged layers by those that took their data.
func (b *builder) follow(stored []string) []host.Layer {
	var out []host.Layer
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
func (b *builder) layer(path string) *host.Layer {
	for to, ok := b.moved[path]; ok; to, ok = b.moved[path] {
		path = to.Path
	}
	for i := range b.disks {
		if k := b.disks[i].Index(path); k >= 0 {
			return &b.disks[i].Chain[k]
		}
	}
	if branch := host.BranchWith(b.branches, path); branch != nil {
		return &branch.Chain[branch.Index(path)]
	}
	return nil
}

// fixes returns how the metadata of the domain's snapshots must read, for
// those of which it reads otherwise, by snapshot.
func fixes(w *observe.World, d *host.Domain, rule *policy.Rule) map[string]host.SnapshotFix {
	return newBuilder(w, d, rule, time.Time{}, Options{}).fixes()
}

func (b *builder) fixes() map[string]host.SnapshotFix {
	w, d := b.w, b.d
	if in := w.Intents[d.UUID]; in != nil {
		for i := range in.Merges {
			wayOf(&in.Merges[i]).resume(b, &in.Merges[i], &Group{})
		}
	}
	out := map[string]host.SnapshotFix{}
	for i := range b.snaps {
		fix := host.SnapshotFix{Snapshot: b.snaps[i].Name, Chains: map[string][]host.Layer{}, Overlays: map[string]string{}}
		for _, sd := range staleDisks(b, &b.snaps[i]) {
			fix.Chains[sd.Target] = b.expected(sd)
			if sd.Stored != "" {
				fix.Overlays[sd.Target] = sd.Overlay
			}
		}
		if len(fix.Chains) > 0 {
			out[fix.Snapshot] = fix
		}
	}
	return out
}
