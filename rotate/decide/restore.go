package decide

import (
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// RestoreOptions say how a domain goes back to a snapshot.
type RestoreOptions struct {
	DiscardNewer bool         // what came after the snapshot is given up
	WithConfig   bool         // the whole configuration goes back, not only the disks
	Disks        []string     // targets of the only disks that go back; none: all that the snapshot has
	Plan         bool         // only tell what would be done
	Stop         *StopOptions // shut a guest that runs down first; nil: it is refused
	Start        bool         // let the guest run afterwards, in any case
	NoStart      bool         // do not let one run again that was shut down for it
	NoFirmware   bool         // UEFI variables and TPM state stay as they are

	WithoutMemory bool // the guest does not go on from the memory that the snapshot has
}

// Starts tells whether the guest is to run afterwards, if it runs now or not.
func (o *RestoreOptions) Starts(runs bool) bool {
	return o.Start || o.Stop != nil && runs && !o.NoStart
}

// StopOptions say how a guest is shut down.
type StopOptions struct {
	Force    bool          // pull the plug of one that does not obey
	Patience time.Duration // how long it may take
	Runs     bool          // the guest runs now; Restore finds that out
}

// Step is the shutdown as the first step of a restore.
func (o *StopOptions) Step() Step {
	reason := fmt.Sprintf("it is asked to shut down; if it still runs after %s, nothing is done", o.Patience)
	if o.Force {
		reason = fmt.Sprintf("it is asked to shut down; if it still runs after %s, its plug is pulled, and what it has not written is lost", o.Patience)
	}
	return Step{Op: OpStop, Reason: reason}
}

// A Restoration is a plan of a way back to a snapshot: each disk gets a new overlay on the
// layer that holds the snapshot's state. The layers above become a branch: the newest
// state among them is kept as a snapshot of its own, unless it is to be given up.
type Restoration struct {
	Plan     Plan
	Snapshot host.Snapshot
	Switches []DiskSwitch
	Firmware string   // the file with the firmware's state, which goes back, too; "" for none
	Memory   string   // the file with the memory from which the guest goes on; "" for none
	Newer    []string // snapshots that are given up, leaves first
	// Whole tells that what is done from now on descends from the snapshot alone: no disk stays on
	// overlays of snapshots that are newer, and the snapshot names no file of a disk that stays
	// which others need. Only then it may become libvirt's current one.
	Whole bool

	o        RestoreOptions
	warnings []string
}

// A DiskSwitch is one disk that gets another chain.
type DiskSwitch struct {
	Target string
	Onto   []host.Layer // the chain of the state, base first
	Path   string       // the new overlay
	// Named tells that the snapshot's metadata may name the new overlay as the one that came with
	// it. Where others are built on the state, libvirt would merge it into that by its own delete.
	Named bool
}

// Fix is how the snapshot's metadata must read once the disks are switched, if it must be
// changed at all.
func (s *Restoration) Fix() (fix host.SnapshotFix, needed bool) {
	fix = host.SnapshotFix{Snapshot: s.Snapshot.Name, Overlays: map[string]string{}, Current: s.Whole}
	for _, w := range s.Switches {
		if w.Named || s.Whole {
			fix.Overlays[w.Target] = w.Path
		}
	}
	return fix, len(fix.Overlays) > 0
}

// RuleOr is the domain's rule; one without a policy gets one that drops nothing.
func RuleOr(a policy.Assignment, domain string) *policy.Rule {
	if rule := a.Rules[domain]; rule != nil {
		return rule
	}
	return &policy.Rule{Name: "restore", MaxChain: 200, Method: policy.MethodAuto, Quiesce: policy.QuiesceNo, Keep: policy.Keep{Last: 1 << 20}}
}

// Restore decides what to do to go back to a snapshot of the domain, or why not. It does
// not know whether libvirt's records can be written back without loss: ask Host.Rehearse.
func (c Case) Restore(snapshot string, o RestoreOptions) *Restoration {
	s := &Restoration{o: o}
	rule := *c.Rule // a disk of which no snapshot can be taken is in the way of its own way back only
	rule.OnUnsuitable = policy.UnsuitableSkip
	c.Rule = &rule
	b := c.builder()
	s.decide(b, snapshot)
	s.Plan = b.plan
	s.Plan.Warnings = s.warnings
	return s
}

func (s *Restoration) decide(b *builder, snapshot string) {
	switch d := b.d; {
	case d.State.Live() && s.o.Stop == nil:
		b.refuse(host.CodeState, "", "the guest runs: shut it down first, or say --stop")
	case b.w.Intents[d.UUID] != nil:
		b.refuse(host.CodeIntent, "", "an interrupted run is to be finished first: virt-rotate run "+d.Name)
	}
	s.Snapshot = *b.d.Snapshot(snapshot)
	s.choose(b)
	if b.checkDomain(); len(b.plan.Refused) > 0 {
		return
	}
	if b.checkStates(); len(b.plan.Refused) > 0 {
		return
	}
	s.planPresent(b)
	s.planSwitch(b)
	s.planFirmware(b)
	if s.o.WithConfig {
		s.planConfig(b)
	}
	if s.o.DiscardNewer && len(b.plan.Refused) == 0 {
		s.planDiscard(b)
	}
	s.planMemory(b)
	if s.Memory == "" && len(b.plan.Refused) == 0 && s.o.Starts(s.o.Stop != nil && s.o.Stop.Runs) {
		b.add(Step{Op: OpStart, Reason: map[bool]string{true: "asked for", false: "it was shut down for this"}[s.o.Start]})
	}
	s.tellOthers(b)
}

// planPresent keeps the present state as a snapshot, unless nothing was written
// since one or it is to be given up.
func (s *Restoration) planPresent(b *builder) {
	if s.o.DiscardNewer || b.untouchedSince() != nil {
		b.plan.Skipped = nil // of no snapshot
		return
	}
	b.snapshot()
	for i := range b.plan.Steps {
		b.plan.Steps[i].Reason = "the present state is kept, too"
	}
}

// planSwitch finds the chain of each disk's state and a name for its new overlay.
func (s *Restoration) planSwitch(b *builder) {
	spec := &host.SnapshotSpec{Overlays: map[string]string{}}
	if refused := b.placeOverlays(spec); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	for _, state := range b.d.States(&s.Snapshot) {
		if s.chosen(state.Target) {
			s.planDisk(b, spec, state)
		}
	}
	if len(s.Switches) == 0 && len(b.plan.Refused) == 0 {
		reason := "the snapshot has no layers of its own: it is internal, or of memory only"
		if len(s.warnings) > 0 {
			reason = "the domain has none of the snapshot's disks any more: attach one first"
		}
		b.refuse(host.CodeNoDisk, "", reason)
	}
	s.Whole = s.o.DiscardNewer || !s.leavesNewer(b) && !s.namesOthers(b)
}

// planDisk plans the way back of one disk.
func (s *Restoration) planDisk(b *builder, spec *host.SnapshotSpec, state host.StateLayer) {
	disk := b.disk(state.Target)
	if disk == nil {
		s.warnings = append(s.warnings, fmt.Sprintf("the snapshot has the disk %s, the domain has not: the others go back, and its state stays in %s", state.Target, state.Path))
		return
	}
	if disk.ReadOnly {
		return // libvirt's own revert makes files for these, too; nothing was written
	}
	if why := b.unsuitable(disk); len(why) > 0 {
		b.refuse(why[0].Code, why[0].Path, why[0].Detail+"; it cannot go back: name the disks that are to with --disk")
		return
	}
	onto, refused := chainOf(b, state)
	if refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	path := spec.Overlays[state.Target]
	if path == "" {
		path = overlayPath(disk, host.Stem(disk)+"."+disk.Target, b.rule.OverlayDir, spec.Name)
	}
	if refused := b.reserveOverlay(path, emptyOverlay); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
	}
	if len(onto)+1 > b.rule.MaxChain {
		b.refuse(host.CodeChainLong, disk.Target, fmt.Sprintf("the new overlay would make its chain %s long: max_chain is %d", host.Plural(len(onto)+1, "layer"), b.rule.MaxChain))
	}
	s.Switches = append(s.Switches, DiskSwitch{state.Target, onto, path, !b.builtOn(&state)})
	b.add(Step{Op: OpSwitch, Snapshot: s.Snapshot.Name, Disk: state.Target, Base: state.Path, Path: path,
		Reason: "the disk goes back to the snapshot"})
}

// planConfig sees that every disk of the old configuration is there, and tells which
// ones it lacks.
func (s *Restoration) planConfig(b *builder) {
	had := map[string]bool{}
	for _, sd := range s.Snapshot.Disks {
		had[sd.Target] = true
		if b.disk(sd.Target) == nil {
			b.refuse(host.CodeNoDisk, sd.Target, "the configuration of the snapshot's time has this disk, the domain has not: go back without the configuration, or attach the disk first")
		}
	}
	reason := "the configuration becomes that of the snapshot's time"
	for i := range b.disks {
		if t := b.disks[i].Target; !had[t] {
			reason += ", which has no " + t + ": its image stays"
		}
	}
	b.add(Step{Op: OpConfigure, Snapshot: s.Snapshot.Name, Reason: reason})
}

// chainOf returns the layers below the new overlay, as their headers have them.
func chainOf(b *builder, state host.StateLayer) ([]host.Layer, *Refusal) {
	if state.KnownFormat() == "" {
		return nil, &Refusal{host.CodeFormat, state.Path, "its format is not on record: it is in no chain any more"}
	}
	disk, known := b.w.StateChains[state.Path]
	for i := range b.d.Disks {
		if k := b.d.Disks[i].Index(state.Path); k >= 0 {
			disk, known = host.Disk{Target: state.Target, Chain: slices.Clone(b.d.Disks[i].Chain[:k+1])}, true
		}
	}
	if !known {
		return nil, &Refusal{host.CodeUnreadable, state.Path, "it was not looked at"}
	}
	if code, path, detail := host.ChainProblem(&disk); code != "" {
		return nil, &Refusal{code, path, detail}
	}
	return disk.Chain, nil
}

// planDiscard gives up the snapshots that came after.
func (s *Restoration) planDiscard(b *builder) {
	for i := range slices.Backward(b.snaps) { // leaves first: libvirt changes the children of what goes
		n := &b.snaps[i]
		if n.Name == s.Snapshot.Name || !b.d.Descends(n, s.Snapshot.Name) {
			continue
		}
		if !n.Ours() {
			b.refuse(host.CodeForeign, "", fmt.Sprintf("snapshot %s, which virt-rotate did not take, is newer: delete it first", n.Name))
			continue
		}
		s.Newer = append(s.Newer, n.Name)
		b.add(Step{Op: OpDropMetadata, Snapshot: n.Name, Reason: "what is newer than " + s.Snapshot.Name + " is given up"})
	}
}
