package qcow2

import (
	"encoding/binary"
	"errors"
)

// A repairer changes what a checker has found wrong.
//
// The order is such that each state in which a crash can leave the image is at
// least as safe as it was. Refcounts are raised first; then the copied
// flags are cleared that are wrong; only then refcounts are lowered; flags that
// are missing come last, since a flag allows for writing in place. There is
// an fsync after each step.
type repairer struct {
	*checker
	all   bool // raise refcounts
	lower bool // repair leaks

	before *clusterCounts // with the old refcount structure, while a new one is made
}

// certainOfData refuses to repair an image of which it is not certain where its data is.
func certainOfData(h Header) error {
	switch {
	case h.HasDataFile() && h.DataFile == "":
		return unsupported("repair of an image that has an external data file, but no name of one: its data may be in the image itself")
	case !h.HasDataFile() && h.DataFile != "":
		return unsupported("repair of an image that names an external data file, but does not use it: its data may be there")
	}
	return nil
}

// repair does what can be done without losing data, and lowers no refcounts if keep is set.
func (c *checker) repair(repair Repair, keep bool) error {
	r := &repairer{checker: c, all: repair == RepairAll, lower: c.res.misplaced == 0 && !keep}
	if c.unreadable {
		return nil
	}
	if err := r.clearAutoclear(); err != nil {
		return err
	}
	return r.inOrder()
}

// inOrder takes the steps. A new refcount structure has the right refcounts,
// higher and lower ones, from the start.
func (r *repairer) inOrder() error {
	missing, err := r.plan()
	if err != nil {
		return err
	}
	if r.all && (missing || r.badBlocks) {
		if built, err := r.rebuild(); err != nil || !built {
			return err
		}
	}
	steps := []func() error{r.raiseRefcounts, r.clearFlags, r.lowerRefcounts, r.setFlags}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// clearAutoclear does what a program has to do with features of which it knows
// nothing before it changes an image ("autoclear_features").
func (r *repairer) clearAutoclear() error {
	const known = autoclearBitmaps | autoclearDataFileRaw
	if r.h.Autoclear&^known == 0 {
		return nil
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], r.h.Autoclear&known)
	if _, err := r.f.WriteAt(b[:], offAutoclear); err != nil {
		return err
	}
	r.h.Autoclear &= known
	return r.f.Sync()
}

// plan marks the clusters whose refcount stays although it is wrong: leaks that
// must not be repaired, and what is too low when only leaks are. It tells
// whether a cluster in use has no refcount block.
func (r *repairer) plan() (missing bool, err error) {
	c := comparison{
		r: r.f, h: r.h, l: r.l, size: r.size, counts: r.counts,
		unreadable: func(int64, int64, string) error { return nil },
		differ: func(cluster int64, refcount uint64, n clusterCount) error {
			if refs := n.references(); refcount > refs && !r.lower || refcount < refs && !r.all {
				r.counts.keep(cluster)
			}
			return nil
		},
	}
	err = c.run()
	return c.missing > 0, err
}

// keep marks a cluster whose refcount stays as it is. Those beyond the end of the
// file do so anyway.
func (c *clusterCounts) keep(cluster int64) {
	if cluster >= c.clusters {
		return
	}
	if p := c.page(cluster); p != nil {
		p[cluster&(1<<countPageBits-1)] |= maxReferences
		return
	}
	c.add(&ref{offset: cluster << c.bits, length: 1, times: maxReferences})
}

// target is the refcount that a cluster is to have.
func (r *repairer) target(refcount uint64, n clusterCount) uint64 {
	if n.references() == maxReferences {
		return refcount
	}
	return min(n.references(), maxRef(r.l.refOrder))
}

func (r *repairer) raiseRefcounts() error {
	return r.rewrite(func(old, target uint64) bool { return target > old })
}

func (r *repairer) lowerRefcounts() error {
	return r.rewrite(func(old, target uint64) bool { return target < old })
}

// rewrite sets the refcounts that change says to their target, in place.
func (r *repairer) rewrite(change func(old, target uint64) bool) error {
	p := newPatcher(r.f, r.size, r.l)
	c := comparison{
		r: r.f, h: r.h, l: r.l, size: r.size, counts: r.counts,
		unreadable: func(int64, int64, string) error { return nil },
		differ: func(cluster int64, refcount uint64, n clusterCount) (err error) {
			if target := r.target(refcount, n); change(refcount, target) {
				return r.setRefcount(p, cluster, target)
			}
			return nil
		},
	}
	if err := c.run(); err != nil {
		return err
	}
	return p.sync()
}

// setRefcount changes the block of a cluster, if there is one in the file, and nothing else
// uses its place.
func (r *repairer) setRefcount(p *patcher, cluster int64, refcount uint64) error {
	per := r.l.refEntries()
	at, err := blockEntryAt(r.f, r.h, r.size, cluster/per)
	if err != nil || at == 0 || uint64(at)&refTableReserved != 0 || at < 0 || at >= r.size {
		return err
	}
	if n := r.counts.at(at >> r.l.clusterBits); n.references() != 1 || n.class() != classMeta {
		return nil
	}
	return p.patch(at, func(b []byte) {
		putRef(b, r.l.refOrder, cluster%per, refcount)
	})
}

func (r *repairer) clearFlags() error { return r.flags(false) }

func (r *repairer) setFlags() error { return r.flags(true) }

// flags sets, or clears, the copied flags of the active tables that are to
// be so.
func (r *repairer) flags(set bool) error {
	p := newPatcher(r.f, r.size, r.l)
	_, err := usage(r.f, r.h, r.size, func(u *ref) error {
		if !r.flagWrong(u, set) {
			return nil
		}
		return p.patch(u.at&^(r.l.cluster()-1), func(b []byte) {
			b[u.at&(r.l.cluster()-1)] ^= byte(entryCopied >> 56)
		})
	})
	if err != nil && !errors.Is(err, errUnreadable) {
		return err
	}
	return p.sync()
}

// flagWrong tells whether the flag of a reference can be set, or cleared. Where
// tables overlap with something nothing is written.
func (r *repairer) flagWrong(u *ref, set bool) bool {
	table := r.counts.at(u.at >> r.l.clusterBits).class()
	if u.reason == reasonNotCopied {
		return set && table == classL2
	}
	if u.reason != "" || u.active == 0 || u.copied == set || u.odd || u.offset&(r.l.cluster()-1) != 0 {
		return false
	}
	if u.kind == refL2 && table != classMeta || u.kind == refData && table != classL2 {
		return false
	}
	n := r.counts.at(u.offset >> r.l.clusterBits).references()
	if n == maxReferences && !r.all || n != maxReferences && n > maxRef(r.l.refOrder) {
		return false // the refcount stays too low
	}
	return (n == 1) == set
}
