package decide

import (
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A Way is a way to merge. All that decisions know of one is in its own file; what carries
// it out is in a file of its own in package rotate. A new way is one more file on each
// side, with a line in ways here and in carrierOf there.
type Way interface {
	// Kind is what the journal calls it; it is carried out by that.
	Kind() journal.Kind

	// on is the disk, or branch, on which m is to be done.
	on(disks, branches []host.Disk, m *Merge) *host.Disk
	// at plans the merge of layer k of disk, and of what can go with it, and takes it
	// out of the builder's world; false where this is not the way.
	at(b *builder, disk *host.Disk, k int) (Merge, bool)
	// method is its name in a step; reason and remark begin and end what is said of it.
	method(m *Merge) string
	reason(m *Merge) string
	remark(m *Merge) string
	// need is the most by which it can make files grow, in bytes.
	need(m *Merge) int64
	// deletes plans the deletion of the files that it makes superfluous.
	deletes(b *builder, m *Merge)
	// allowed decides anew whether a merge of an earlier plan may be done.
	allowed(c Case, m *Merge) error

	// resume takes over an interrupted merge whose job runs, and notes where data went
	// if it is done.
	resume(b *builder, im *journal.Merge, g *Group)
	// collect finds the files that an interrupted merge has left.
	collect(b *builder, im *journal.Merge, g *Group)
	// adopts tells whether a job on the merge's disk can be the merge.
	adopts(job *host.Job, im *journal.Merge) bool
	// trustOld makes the disk's chain what libvirt has if that has missed the end of
	// the merge; it tells whether it has.
	trustOld(disk *host.Disk, im *journal.Merge) bool
	// checkStopped refuses a guest of which it is not known on which chain it was last.
	checkStopped(b *builder, disk *host.Disk, im *journal.Merge)
	// runsOn is the chain that a running guest is on while libvirt has it on another
	// one; nil where that has not happened.
	runsOn(b *builder, disk *host.Disk, im *journal.Merge) []host.Layer
}

// A substitute is a way that takes the place of merges that were planned as others.
type substitute interface {
	// instead replaces merges where that can be done and pays; before is the world
	// without them.
	instead(b, before *builder, merges []Merge) ([]Merge, *Refusal)
}

// ways are all of them, in the order in which they are asked: the last is always possible.
func ways() []Way {
	return []Way{graftWay{}, pullWay{}, detachWay{}, branchWay{}, commitWay{}}
}

// wayOf is the way of an interrupted merge.
func wayOf(im *journal.Merge) Way {
	for _, w := range ways() {
		if w.Kind() == im.Kind() {
			return w
		}
	}
	return commitWay{}
}

// wayAt plans the merge of layer k of disk, by the first way that does it.
func (b *builder) wayAt(disk *host.Disk, k int) Merge {
	for _, w := range ways() {
		if m, ok := w.at(b, disk, k); ok {
			return m
		}
	}
	return b.commitAt(disk, k)
}

// instead lets other ways take the place of the merges.
func (b *builder) instead(before *builder, merges []Merge) ([]Merge, *Refusal) {
	for _, w := range ways() {
		s, ok := w.(substitute)
		if !ok {
			continue
		}
		var refused *Refusal
		if merges, refused = s.instead(b, before, merges); refused != nil {
			return nil, refused
		}
	}
	return merges, nil
}

// DiskFor returns the disk of the domain, or the branch, on which m is to be done.
func (m *Merge) DiskFor(d *host.Domain) *host.Disk {
	if d == nil {
		return nil
	}
	return m.Way.on(d.Disks, d.Branches, m)
}

// diskFor is the same in the builder's world.
func (b *builder) diskFor(m *Merge) *host.Disk { return m.Way.on(b.disks, b.branches, m) }

func diskAt(disks []host.Disk, target string) *host.Disk {
	for i := range disks {
		if disks[i].Target == target {
			return &disks[i]
		}
	}
	return nil
}
