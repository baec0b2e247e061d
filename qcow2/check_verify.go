package qcow2

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// verify returns a *FormatError for the first thing in the image that makes
// writing to it unsafe: a reference outside of the file, or to a table that is
// cut off; metadata that overlaps with anything; a refcount lower than the
// number of references; a copied flag on a cluster whose refcount is not 1; a
// reserved bit; a snapshot table or bitmap directory that cannot be read.
//
// Not errors: leaks, refcounts that are too high, a copied flag that is missing
// (a writer copies once too often). Feature bits are up to the caller.
// h is what ReadHeader said about f. leaks are the clusters whose refcount is too high.
func verify(f vfs.File, h Header) (leaks int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	l := h.layout()
	clusters := (info.Size-1)>>l.clusterBits + 1
	if clusters > maxCheckClusters {
		return 0, unsupported(fmt.Sprintf("a file of %d clusters", clusters))
	}
	counts := newClusterCounts(l, clusters)
	if _, err := usage(f, h, info.Size, func(r *ref) error { return verifyRef(counts, r) }); err != nil {
		return 0, err
	}
	c := comparison{
		r: f, h: h, l: l, size: info.Size, counts: counts,
		differ: func(cluster int64, refcount uint64, n clusterCount) error {
			if refcount > n.references() {
				leaks++
			}
			return verifyCount(cluster<<l.clusterBits, refcount, n)
		},
		unreadable: func(first, _ int64, reason string) error {
			return malformed(first<<l.clusterBits, "refcount", reason)
		},
	}
	err = c.run()
	return leaks, err
}

// verifyRef refuses what is wrong with a single reference.
func verifyRef(counts *clusterCounts, r *ref) error {
	if r.reason == reasonNotCopied {
		return nil
	}
	if r.reason != "" {
		return malformed(r.at, r.kind.String(), r.reason)
	}
	if overlap := counts.add(r); overlap >= 0 {
		return malformed(r.at, r.kind.String(),
			fmt.Sprintf("overlaps with something else in the cluster at offset %d", overlap<<counts.bits))
	}
	return nil
}

// verifyCount refuses a cluster that a writer could overwrite although somebody
// else needs it.
func verifyCount(offset int64, refcount uint64, n clusterCount) error {
	switch {
	case n.references() == maxReferences:
		return unsupported("a cluster with more than 2^30 references")
	case refcount < n.references():
		return malformed(offset, "refcount", fmt.Sprintf("%d for %d references", refcount, n.references()))
	case refcount != 1 && n.copied() > 0:
		return malformed(offset, "copied flag", fmt.Sprintf("set with a refcount of %d", refcount))
	}
	return nil
}
