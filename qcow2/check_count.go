package qcow2

// countPageBits is log2 of how many clusters a page of counts covers: 4 KiB
// of memory, taken when the first of them is referred to.
const countPageBits = 9

// Limits of the parts of a count; each stays there once it is reached. None
// can be reached by an image that a program has written with good intent.
const (
	maxReferences = 1<<30 - 1
	maxFlagged    = 1<<16 - 1

	countCopied = 30 // where the parts begin, in bits
	countShared = 46
	countClass  = 62
)

// A clusterClass says what refers to a cluster.
type clusterClass uint8

const (
	classData    clusterClass = iota // guest data alone
	classL2                          // L2 entries of one table, or several L1 entries
	classMeta                        // one piece of other metadata
	classOverlap                     // metadata and something else
)

// A clusterCount is what refers to one cluster of the file:
//
//	 0-29  references
//	30-45  entries of the active tables that are marked as copied
//	46-61  entries of the active tables that are not
//	62-63  clusterClass
type clusterCount uint64

func (c clusterCount) references() uint64 { return uint64(c) & maxReferences }
func (c clusterCount) copied() int64      { return int64(c >> countCopied & maxFlagged) }
func (c clusterCount) shared() int64      { return int64(c >> countShared & maxFlagged) }
func (c clusterCount) class() clusterClass {
	return clusterClass(c >> countClass)
}

// falselyFlagged is how many entries of the active tables have a copied flag that
// does not agree with the refcount.
func (c clusterCount) falselyFlagged(refcount uint64) int64 {
	if refcount == 1 {
		return c.shared()
	}
	return c.copied()
}

// add notes the reference r, and how many of its entries have a copied flag.
func (c clusterCount) add(r *ref, active int64) clusterCount {
	class := c.merged(r.kind.class())
	refs := min(c.references()+uint64(r.times), maxReferences)
	copied, shared := c.copied(), c.shared()
	if r.copied {
		copied = min(copied+active, maxFlagged)
	} else {
		shared = min(shared+active, maxFlagged)
	}
	return clusterCount(refs) | clusterCount(copied)<<countCopied |
		clusterCount(shared)<<countShared | clusterCount(class)<<countClass
}

func (c clusterCount) merged(class clusterClass) clusterClass {
	switch {
	case c.references() == 0:
		return class
	case c.class() == class && class != classMeta:
		return class
	}
	return classOverlap
}

// clusterCounts has 8 bytes for each cluster of the file that lies in a page
// with a reference, and 8 for each page.
type clusterCounts struct {
	bits     uint32 // of a cluster
	clusters int64  // how many there are
	pages    []*[1 << countPageBits]clusterCount
}

// newClusterCounts is for a file of at most 1<<31 clusters.
func newClusterCounts(l layout, clusters int64) *clusterCounts {
	c := &clusterCounts{bits: l.clusterBits}
	c.grow(clusters)
	return c
}

func (c *clusterCounts) grow(clusters int64) {
	c.clusters = max(c.clusters, clusters)
	pages := (c.clusters-1)>>countPageBits + 1
	c.pages = append(c.pages, make([]*[1 << countPageBits]clusterCount, pages-int64(len(c.pages)))...)
}

// at is the count of a cluster.
func (c *clusterCounts) at(cluster int64) clusterCount {
	if p := c.page(cluster); p != nil {
		return p[cluster&(1<<countPageBits-1)]
	}
	return 0
}

// page is nil if nothing refers to the page that holds cluster.
func (c *clusterCounts) page(cluster int64) *[1 << countPageBits]clusterCount {
	if i := cluster >> countPageBits; i < int64(len(c.pages)) {
		return c.pages[i]
	}
	return nil
}

// add counts r for each cluster that it touches. overlap is the first one that
// is now known to overlap with metadata, else -1. The reference has been
// compared with the file: it ends less than two clusters beyond the last one.
func (c *clusterCounts) add(r *ref) (overlap int64) {
	overlap = -1
	active := r.active
	first, last := r.offset>>c.bits, (r.offset+r.length-1)>>c.bits
	if last >= c.clusters {
		c.grow(last + 1)
	}
	for i := first; i <= last; i++ {
		p := &c.pages[i>>countPageBits]
		if *p == nil {
			*p = new([1 << countPageBits]clusterCount)
		}
		n := &(*p)[i&(1<<countPageBits-1)]
		*n = n.add(r, active)
		if overlap < 0 && n.class() == classOverlap {
			overlap = i
		}
		active = 0 // an entry belongs to the first cluster alone
	}
	return overlap
}
