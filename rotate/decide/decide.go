package decide

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Options say which parts of a rotation are wanted.
type Options struct {
	IgnoreEvery    bool          // --now: a snapshot is due
	NoSnapshot     bool          // only shorten chains
	VerifyFull     bool          // a graft's new layers are read and compared in full
	NoGraft        bool          // a guest has outrun one: no other is tried
	GraftThreshold int64         // bytes in the layers that go from which on a graft is worth its cost; 0: GraftThreshold
	Detach         bool          // pull the disks off what they share with others
	MaxParallel    int           // domains that are worked on at a time; 0: 8
	ByHand         *ByHand       `json:",omitempty"` // what a person asks for; nil: what the rule does
	Reserved       *Reservations // overlay paths of other plans of the same run; Decide adds its own
}

// Parallel is how many domains are worked on at a time.
func (o *Options) Parallel() int {
	if o.MaxParallel > 0 {
		return o.MaxParallel
	}
	return defaultParallel
}

// Decide lists the steps that bring d to what rule asks for, in order, each
// with its reason. It is pure but for o.Reserved: the world and the time are
// all it knows.
func Decide(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time, o Options) Plan {
	b := newBuilder(w, d, rule, now, o)
	b.schedule()
	if b.skips() && w.Intents[d.UUID] == nil {
		b.skipShutOff()
		return b.plan
	}
	if b.missedPivots(); len(b.plan.Refused) > 0 {
		b.plan.Settle()
		return b.plan
	}
	b.checkDomain()
	b.checkLost()
	if len(b.plan.Refused) > 0 {
		b.plan.Settle()
		return b.plan
	}
	b.finishEarlier()
	if len(b.plan.Refused) > 0 {
		b.plan.Settle()
		return b.plan
	}
	b.mendMetadata()
	b.rotate()
	b.plan.Settle()
	return b.plan
}

// A builder holds the world as it will be after the steps planned so far.
type builder struct {
	w        *observe.World
	d        *host.Domain
	rule     *policy.Rule
	now      time.Time
	o        Options
	plan     Plan
	due      bool
	forest   *chain.Forest
	disks    []host.Disk
	branches []host.Disk
	snaps    []host.Snapshot
	free     map[uint64]int64      // bytes, by file system
	moved    map[string]host.Layer // path of a layer that went → the layer that took its content
	was      map[string]string     // path of a layer after a graft → the one that it has on the host

	lost      []*journal.Merge // merges whose end libvirt has missed
	also      []string         // targets of disks that a restore keeps the present state of, whatever the policy says
	trustLost bool             // a state whose file is lost is taken to be below the overlay
}

func newBuilder(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time, o Options) *builder {
	b := &builder{
		w: w, d: d, rule: rule, now: now, o: o,
		plan:     Plan{Domain: d.Name, Policy: rule.Name, State: d.State, Steps: []Step{}, Refused: []Refusal{}},
		forest:   w.Forest.Trees(keysOf(w, d)...),
		disks:    host.CloneChains(d.Disks),
		branches: host.CloneChains(d.Branches),
		snaps:    host.CloneSnapshots(d.Snapshots),
		free:     map[uint64]int64{},
		moved:    map[string]host.Layer{},
		was:      map[string]string{},
	}
	b.trustOldChains()
	for fs, s := range w.Spaces {
		b.free[fs] = s.Free
	}
	return b
}

// keysOf returns the keys of all layers that decisions on d can concern.
func keysOf(w *observe.World, d *host.Domain) []string {
	var keys []string
	for i := range d.Disks {
		for j := range d.Disks[i].Chain {
			keys = append(keys, d.Disks[i].Chain[j].Key())
		}
	}
	files := slices.Clone(w.Released[d.UUID])
	if in := w.Intents[d.UUID]; in != nil {
		files = append(files, in.Files()...)
	}
	for _, f := range files {
		keys = append(keys, host.LayerKey(w.Left[f.Path].ID, f.Path))
	}
	return keys
}

// schedule finds out when the next snapshot is due, by the one of ours that
// was taken last.
func (b *builder) schedule() {
	newest := newestOurs(b.snaps)
	if newest == nil {
		b.plan.Due, b.due = b.now, true
	} else {
		b.plan.Due = newest.Time.Add(b.rule.Every)
		if b.due = b.rule.Due(newest.Time, b.now); b.due && b.plan.Due.After(b.now) {
			b.plan.Due = b.now // the timer is a little early, or a clock went back
		}
	}
	if s := b.untouchedSince(); b.due && s != nil && b.o.ByHand == nil {
		b.due = false
		b.plan.Waiting = "the guest is shut off, and nothing was written since " + s.Name
	}
	b.due = (b.due || b.o.IgnoreEvery) && !b.o.NoSnapshot && b.rule.TakesSnapshots()
	if hand := b.o.ByHand; hand != nil {
		b.due = hand.Take != nil && !b.o.NoSnapshot
	}
	if b.due && b.frozen() {
		b.due = false
		b.plan.Waiting = b.checkpoints()
	}
}

// checkpoints says why libvirt takes or changes no snapshot of a guest that is off.
func (b *builder) checkpoints() string { return host.FrozenSnapshots(b.d.Checkpoints) }

// untouchedSince returns the snapshot since which a guest that is shut off has written
// nothing, be it the newest or one that somebody went back to: another one would only push
// out states that differ. It is nil where there is none.
func (b *builder) untouchedSince() *host.Snapshot {
	for i := range slices.Backward(b.snaps) {
		if s := &b.snaps[i]; b.untouched(s) {
			return s
		}
	}
	return nil
}

// untouched tells whether nothing was written since the snapshot.
func (b *builder) untouched(s *host.Snapshot) bool {
	if b.d.State.Live() {
		return false
	}
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) {
			continue
		}
		if len(disk.Chain) == 0 || disk.Active().Image == nil || !disk.Active().Image.Blank ||
			!slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool {
				return disk.Active().Path == sd.Overlay || disk.Active().Path == sd.Reverted
			}) {
			return false
		}
	}
	return true
}

func newestOurs(snaps []host.Snapshot) *host.Snapshot {
	for i := len(snaps) - 1; i >= 0; i-- {
		if snaps[i].Ours() {
			return &snaps[i]
		}
	}
	return nil
}

// rotate plans the snapshot that is due and the merges that retention asks for.
func (b *builder) rotate() {
	if b.skips() {
		b.skipShutOff()
		return
	}
	if b.o.ByHand != nil && b.o.ByHand.Take != nil {
		if b.due {
			b.snapshot()
		}
		return
	}
	b.detach()
	taken := takenOf(b.snaps)
	if b.due && !b.snapshotBeforeMerges() {
		trial := b.clone()
		if _, refused := trial.planSnapshot(false); refused != nil {
			b.plan.Refused = append(b.plan.Refused, *refused)
			b.due = false
		}
	}
	if b.due && b.snapshotBeforeMerges() {
		b.snapshot()
		taken = takenOf(b.snaps)
		b.due = false
	}
	if b.due {
		taken = append(taken, policy.Snapshot{Name: "", Time: b.now})
	}
	b.plan.Verdicts = b.verdicts(taken)
	b.shorten()
	if b.due {
		b.snapshot()
	}
	b.collectGarbage()
	b.tellLiveOnly()
	b.tellLongChains()
	b.plan.Verdicts = slices.DeleteFunc(b.plan.Verdicts, func(v policy.Verdict) bool { return v.Name == "" })
}

// tellLongChains warns of chains that come near max_chain, for layers that nobody needs
// cannot be merged: once they are there, no snapshot is taken any more.
func (b *builder) tellLongChains() {
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) || len(disk.Chain)*4 < b.rule.MaxChain*3 {
			continue
		}
		if why := b.stuck(disk); why != "" {
			b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf("%s has %s, and no snapshot is taken beyond max_chain = %d: %s",
				disk.Target, host.Plural(len(disk.Chain), "layer"), b.rule.MaxChain, why))
		}
	}
}

// stuck says why the lowest layer that came with no snapshot any more is not merged.
func (b *builder) stuck(disk *host.Disk) string {
	for k := 1; k < len(disk.Chain); k++ {
		if l := &disk.Chain[k]; host.IsMade(l.Path) && !b.inMetadata(l.Path) {
			if why := b.obstacle(disk, k); why != "" {
				return filepath.Base(l.Path) + " is not merged, since " + why
			}
		}
	}
	return ""
}

// skips tells whether the policy leaves the domain alone in its state.
func (b *builder) skips() bool {
	return !b.d.State.Live() && b.rule.Offline == policy.OfflineSkip && b.o.ByHand == nil
}

// open tells whether merges may start now.
func (b *builder) open() bool { return b.o.ByHand != nil || b.rule.Window.Open(b.now) }

func (b *builder) skipShutOff() {
	b.plan.Verdicts = b.rule.Keep.Apply(takenOf(b.snaps), b.now)
	if len(b.plan.Steps) > 0 {
		return
	}
	b.plan.Result = ResultSkipped
	b.plan.Waiting = "the guest is shut off, and the policy says offline = \"skip\""
}

// Taken returns our snapshots of the domain, as retention knows them, in the order in which they were taken.
func Taken(d *host.Domain) []policy.Snapshot { return takenOf(d.Snapshots) }

func takenOf(snaps []host.Snapshot) []policy.Snapshot {
	var taken []policy.Snapshot
	for i := range snaps {
		if m, ok := snaps[i].Mark(); ok {
			taken = append(taken, policy.Snapshot{Name: snaps[i].Name, Time: snaps[i].Time, Pinned: m.Pinned, Expires: m.Expires})
		}
	}
	return taken
}

// Retention says of each of our snapshots of d whether rule keeps it, oldest first.
func Retention(d *host.Domain, rule *policy.Rule, now time.Time) []policy.Verdict {
	return rule.Keep.Apply(takenOf(d.Snapshots), now)
}

// shorten plans what drops the snapshots that no rule keeps, one run of
// neighbours at a time, oldest first, after the merges that need no drop.
func (b *builder) shorten() {
	runs := b.droppedRuns()
	if !b.open() {
		if len(runs) > 0 || b.clone().merges() != nil {
			b.plan.putOff("merges start only within the window " + b.rule.Window.String())
		}
		return
	}
	b.drop(nil)
	for _, run := range runs {
		b.drop(run)
	}
}

// droppedRuns returns the snapshots that go, as runs of neighbours.
func (b *builder) droppedRuns() [][]string {
	goes := map[string]bool{}
	for _, v := range b.plan.Verdicts {
		goes[v.Name] = !v.Keep
	}
	var runs [][]string
	open := false
	for i := range b.snaps {
		name := b.snaps[i].Name
		switch {
		case !goes[name]:
			open = false
			continue
		case !open:
			runs = append(runs, nil)
			open = true
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], name)
	}
	return runs
}

// clone returns a builder for a trial: what it plans does not show in b.
func (b *builder) clone() *builder {
	c := *b
	c.forest = b.forest.Clone()
	c.disks, c.branches = host.CloneChains(b.disks), host.CloneChains(b.branches)
	c.snaps = host.CloneSnapshots(b.snaps)
	c.free = maps.Clone(b.free)
	c.moved = maps.Clone(b.moved)
	c.was = maps.Clone(b.was)
	c.plan.Steps = slices.Clone(b.plan.Steps)
	c.plan.Refused = slices.Clone(b.plan.Refused)
	c.plan.Groups = slices.Clone(b.plan.Groups)
	return &c
}

// add appends a step to the plan.
func (b *builder) add(s Step) { b.plan.Steps = append(b.plan.Steps, s) }

// begin opens a group of steps; the returned function closes it.
func (b *builder) begin(g Group) (end func()) {
	g.First = len(b.plan.Steps)
	return func() {
		g.Steps = len(b.plan.Steps) - g.First
		if g.Steps > 0 {
			b.plan.Groups = append(b.plan.Groups, g)
		}
	}
}

// defaultParallel is how many domains are worked on at a time unless Options say
// otherwise. Merges are further limited to one for each file system.
const defaultParallel = 8
