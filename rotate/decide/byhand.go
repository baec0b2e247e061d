package decide

import (
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// ByHand is what a person asks for: one of these, and nothing else. The window of the policy
// and what it says of guests that are off are for runs by the clock.
type ByHand struct {
	Take    *Taking      `json:",omitempty"` // one snapshot
	Drop    []string     `json:",omitempty"` // the end of the snapshots with these names, whatever retention says
	Foreign bool         `json:",omitempty"` // also of those among them that virt-rotate did not take
	Prune   *policy.Keep `json:",omitempty"` // retention by other rules, once
}

// A Taking says what a person wants of a snapshot, beside what the policy says.
type Taking struct {
	Name    string         // "" for one as the policy names its snapshots
	Quiesce policy.Quiesce // "" for what the policy says
	Pinned  bool
	Expires time.Time // the zero Time: retention decides
	Note    string
	Memory  bool // the guest's memory is kept, too
}

// Manual stands for the policy of guests of which snapshots are taken by hand only.
const Manual = "manual"

// manualRule keeps all that nobody asks the end of.
func manualRule() *policy.Rule {
	return &policy.Rule{Name: Manual, Manual: true, MaxChain: 200, Method: policy.MethodAuto, Quiesce: policy.QuiesceAuto, Keep: policy.Keep{Last: 1 << 20}}
}

// Assign says what the policies have to do with each domain of the host. One without a policy
// of which a person has taken snapshots gets a rule that keeps them, until they expire.
func Assign(w *observe.World, match Matcher) policy.Assignment {
	a := match(Guests(w))
	for i := range w.Domains {
		if d := &w.Domains[i]; a.Rules[d.Name] == nil && a.Conflicts[d.Name] == nil && takenByHand(d) {
			a.Rules[d.Name] = manualRule()
		}
	}
	return a
}

func takenByHand(d *host.Domain) bool {
	return slices.ContainsFunc(d.Snapshots, func(s host.Snapshot) bool {
		m, ours := s.Mark()
		return ours && (m.Policy == Manual || m.Pinned || !m.Expires.IsZero())
	})
}

// verdicts says which of our snapshots stay: as the rule has it, or as a person wants it.
func (b *builder) verdicts(taken []policy.Snapshot) []policy.Verdict {
	switch hand := b.o.ByHand; {
	case hand == nil:
		return b.rule.Keep.Apply(taken, b.now)
	case hand.Prune != nil:
		return hand.Prune.Apply(taken, b.now)
	default:
		return b.asked(hand.Drop)
	}
}

// asked keeps all but the named snapshots, and of these what is pinned or not ours, unless that is asked for, too.
func (b *builder) asked(drop []string) (verdicts []policy.Verdict) {
	for i := range b.snaps {
		s := &b.snaps[i]
		m, ours := s.Mark()
		v := policy.Verdict{Name: s.Name, Keep: true, Reasons: []string{"nobody asked for its end"}}
		switch named := slices.Contains(drop, s.Name); {
		case named && !ours && !b.o.ByHand.Foreign:
			b.refuse(host.CodeForeign, "", fmt.Sprintf("virt-rotate did not take snapshot %s: say --foreign if nobody needs it", s.Name))
		case named && m.Pinned:
			b.refuse(host.CodePinned, "", fmt.Sprintf("snapshot %s is pinned: virt-rotate unpin %s %s", s.Name, host.Quoted(b.d.Name), host.Quoted(s.Name)))
		case named:
			v.Keep, v.Reasons = false, []string{"its end was asked for"}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// asks tells whether a person has asked for the end of the snapshot: then its layers are to be
// merged, whoever took it.
func (b *builder) asks(name string) bool {
	return b.o.ByHand != nil && b.o.ByHand.Foreign && slices.Contains(b.o.ByHand.Drop, name)
}

// ours tells whether the snapshot's layers are virt-rotate's to merge once it is gone.
func (b *builder) ours(s *host.Snapshot) bool { return s.Ours() || b.asks(s.Name) }

// taking is what a person wants of the snapshot that is planned.
func (o *Options) taking() Taking {
	if o.ByHand == nil || o.ByHand.Take == nil {
		return Taking{}
	}
	return *o.ByHand.Take
}

// mark is the description of the snapshot that is planned.
func (b *builder) mark(spec *host.SnapshotSpec) host.Mark {
	t := b.o.taking()
	return host.Mark{Policy: b.rule.Name, Quiesced: spec.Quiesce, Firmware: spec.Firmware, LeftOut: host.LeftOutParts(b.leftOut()), Pinned: t.Pinned, Expires: t.Expires, Note: t.Note}
}

// Quiesce is whether the guest is to freeze its file systems for a snapshot.
func (o *Options) Quiesce(rule *policy.Rule) policy.Quiesce {
	if q := o.taking().Quiesce; q != "" {
		return q
	}
	return rule.Quiesce
}

// CoverAll is match for a person who names domains, or globs of them: those that no policy
// covers get a rule that keeps everything.
func CoverAll(match Matcher, names []string) Matcher {
	return func(guests []policy.Guest) policy.Assignment {
		a := match(guests)
		for _, g := range guests {
			named := slices.ContainsFunc(names, func(n string) bool { return n == g.Name || len(policy.Matching(n, []string{g.Name})) > 0 })
			if named && a.Rules[g.Name] == nil && a.Conflicts[g.Name] == nil {
				a.Rules[g.Name] = manualRule()
			}
		}
		return a
	}
}
