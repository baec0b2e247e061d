package decide

import (
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// An Outlook is what is ahead of a domain. Sizes are bytes.
type Outlook struct {
	Plan      Plan      // what a run does now
	Next      []Refusal // what a run refuses when the next snapshot is due, and does not now
	Untouched bool      // the guest is off and has written nothing since a snapshot of ours: none is wanted
	Stopped   bool      // the guest is off, and no snapshot can be taken until it starts
	Layers    int       // of the longest chain that snapshots add to
	Expected  int       // layers that this chain has by the rule at most, while merges keep up
	Free      int64     // on the storage, of those that snapshots write to, with the least beyond Floor; -1: not known
	Floor     int64     // what min_free keeps there
}

// Ahead decides what a run would do with d now, and what one would refuse when the next
// snapshot is due, on a host that stays as it is.
func Ahead(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time) Outlook {
	b := newBuilder(w, d, rule, now, Options{})
	o := Outlook{Plan: Decide(w, d, rule, now, Options{}), Free: -1}
	o.Untouched = b.untouchedSince() != nil
	o.Stopped = !d.State.Live() && d.Checkpoints > 0
	o.Layers, o.Expected = b.longest()
	b.leastRoom(&o)
	if due := o.Plan.Due; due.After(now) && !o.Untouched && rule.TakesSnapshots() {
		o.Next = slices.DeleteFunc(Decide(w, d, rule, due, Options{}).Refused, o.Plan.refuses)
	}
	return o
}

// refuses tells whether the plan refuses the same for the same place.
func (p *Plan) refuses(r Refusal) bool {
	return slices.ContainsFunc(p.Refused, func(o Refusal) bool { return o.Code == r.Code && o.Path == r.Path })
}

// longest returns the length of the longest chain that snapshots add to, and the one that it
// is to have: images below the domain's own come on top of what the rule tells.
func (b *builder) longest() (layers, expected int) {
	for i := range b.disks {
		disk := &b.disks[i]
		if n := len(disk.Chain); b.covers(disk) && n > layers {
			layers, expected = n, b.rule.Longest()+max(foreignLayers(disk)-1, 0)
		}
	}
	return layers, expected
}

// foreignLayers counts the layers at the bottom that no snapshot of ours has made.
func foreignLayers(disk *host.Disk) int {
	n := 0
	for n < len(disk.Chain) && !host.IsMade(disk.Chain[n].Path) {
		n++
	}
	return n
}

// leastRoom finds the storage with the least room beyond what the rule keeps free.
func (b *builder) leastRoom(o *Outlook) {
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) || len(disk.Chain) == 0 {
			continue
		}
		fs, known := disk.Active().FS, true
		if dir := b.rule.OverlayDir; dir != "" {
			fs, known = b.w.Dirs[dir]
		}
		space, there := b.w.Spaces[fs]
		if !known || !there {
			continue
		}
		floor := b.rule.MinFree.Bytes(space.Total)
		if o.Free < 0 || space.Free-floor < o.Free-o.Floor {
			o.Free, o.Floor = space.Free, floor
		}
	}
}
