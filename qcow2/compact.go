package qcow2

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// CompactOptions say what Compact gives back.
type CompactOptions struct {
	// Zeros looks for clusters of data that read as zeros. Without it only what
	// nothing refers to is given back, and room that is kept for zeros.
	Zeros bool
	// DryRun only counts.
	DryRun bool
	// Progress, if it is not nil, is told of bytes that were looked at or copied.
	Progress func(n int64)
}

// A CompactResult is what Compact has given back, in bytes.
type CompactResult struct {
	Snapshots int64 // internal ones, which are all kept
	Zeros     int64 // clusters of data that read as zeros
	Room      int64 // clusters that were kept for zeros
	Leaked    int64 // clusters that nothing refers to, and that were not counted as free
	Free      int64 // clusters within the file that nothing refers to now, those above among them
	Tail      int64 // what the file is shorter by
	Back      int64 // what of Free and Tail is not in holes of the file yet, in blocks of the file system

	// Sizes of the file, and what it takes on the disk, before and after. After a
	// dry run they are the same.
	SizeBefore, SizeAfter           int64
	AllocatedBefore, AllocatedAfter int64
}

// Compact gives space back that the image f has no use for, in place. What the guest
// sees stays the same in the image and in each of its internal snapshots, whatever it
// builds on; so do bitmaps. Clusters stay where they are: the space comes from holes,
// and from the end of the file.
//
// A *RefusedError has changed nothing: the image is not sound, and is to be repaired
// first. Of an encrypted image, or one with a data file, the data is not looked at.
//
// The order of writes is: entries that lead to zeros, fsync, refcounts of what they led
// to, fsync, holes. At a crash the image may have leaked space; Compact finds it again.
// When ctx ends while data is looked at nothing was changed. f is to be locked by the
// caller.
func Compact(ctx context.Context, f File, o CompactOptions) (CompactResult, error) {
	c, err := newCompaction(vfs.Full(f), o)
	if err != nil {
		return CompactResult{}, err
	}
	if err := c.plan(ctx); err != nil || o.DryRun {
		return c.res, err
	}
	return c.res, c.carryOut()
}

// A compaction is what Compact and CompactTo know of an image.
type compaction struct {
	*checker
	inflater
	o     CompactOptions
	res   CompactResult
	zero  *zeroMap
	patch *patcher       // nil while nothing is to be changed
	kept  *clusterCounts // references that stay
	hold  *clusterCounts // clusters that somebody needs, nil before that is known
}

func newCompaction(f vfs.File, o CompactOptions) (*compaction, error) {
	c := &compaction{o: o}
	var err error
	if c.checker, err = examine(f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c.res.Snapshots = int64(c.h.Snapshots)
	c.res.SizeBefore, c.res.AllocatedBefore = info.Size, info.Allocated
	c.res.SizeAfter, c.res.AllocatedAfter = info.Size, info.Allocated
	return c, c.refuse()
}

// refuse wants an image that can be written to. Leaks are what Compact is for, and copied
// flags that are missing do no harm.
func (c *compaction) refuse() error {
	reason := ""
	switch {
	case c.h.Corrupt():
		reason = "it is marked as corrupt"
	case c.h.Dirty():
		reason = "its refcounts are marked as dirty"
	default:
		if err := certainOfData(c.h); err != nil {
			return err
		}
		_, err := verify(c.f, c.h)
		var malformed *FormatError
		if err == nil || !errors.As(err, &malformed) {
			return err
		}
		reason = err.Error()
	}
	return &chain.RefusedError{Path: c.f.Path(), Reason: reason + ": check and repair it first"}
}

// res0 is what the check found before.
func (c *compaction) res0() *CheckResult { return &c.checker.res }

// looks tells whether data of clusters is looked at: not where it is in another file,
// or says nothing.
func (c *compaction) looks() bool { return c.o.Zeros && !c.l.dataFile && !c.h.Encrypted() }

// plan finds out what can be given back.
func (c *compaction) plan(ctx context.Context) error {
	if c.looks() {
		if err := c.lookForZeros(ctx); err != nil {
			return err
		}
	}
	if err := c.walk(); err != nil {
		return err
	}
	c.hold = c.kept
	return c.walk()
}

// walk counts what stays, and changes the entries of the rest if there is a patcher.
func (c *compaction) walk() error {
	c.kept = newClusterCounts(c.l, c.counts.clusters)
	_, err := usage(c.f, c.h, c.size, func(r *ref) error {
		next, dropped, err := c.next(r)
		if err != nil {
			return err
		}
		if !dropped {
			c.kept.add(r)
			return nil
		}
		return c.change(r, next)
	})
	if err != nil {
		return err
	}
	return c.account()
}

// change writes an entry.
func (c *compaction) change(r *ref, next entry) error {
	if c.patch == nil {
		return nil
	}
	mask := c.l.cluster() - 1
	return c.patch.patch(r.at&^mask, func(table []byte) {
		c.l.putEntry(table, (r.at&mask)/c.l.l2EntryLen(), next)
	})
}

// next is the entry that is to be in the place of one that leads to a cluster; dropped
// tells that it needs the cluster no more. A cluster that another entry needs is needed by
// all: there is nothing to be had, and refcounts and copied flags stay as they are.
func (c *compaction) next(r *ref) (next entry, dropped bool, err error) {
	e := r.entry
	switch {
	case r.reason != "" || c.l.dataFile:
		return e, false, nil
	case r.kind == refCompressed:
		zero, err := c.packedZeros(r)
		if err != nil || !zero {
			return e, false, err
		}
		e = entry{}
	case r.kind != refData:
		return e, false, nil
	}
	cluster := r.offset >> c.l.clusterBits
	if c.hold != nil && r.kind == refData && c.hold.at(cluster).references() > 0 {
		return e, false, nil
	}
	next, dropped = c.withoutCluster(e, cluster)
	return next, dropped, nil
}

// withoutCluster is an entry that reads the same as e, whose data is zeros as far as it
// is known to be, and has no cluster. Version 2 has no entry for zeros: there a hole does
// only where nothing shows through.
func (c *compaction) withoutCluster(e entry, cluster int64) (next entry, ok bool) {
	alloc := uint32(e.bitmap)
	switch {
	case c.l.extended && e == (entry{}): // was compressed
		return entry{bitmap: (1<<subclusters - 1) << subclusters}, true
	case c.l.extended:
		return entry{bitmap: uint64(alloc)<<subclusters | e.bitmap&^allocatedSubclusters}, alloc&^c.zero.at(cluster) == 0
	case e != (entry{}) && e.desc&entryZero == 0 && c.zero.at(cluster) == 0:
		return e, false
	case c.l.version >= 3:
		return entry{desc: entryZero}, true
	}
	return entry{}, c.h.BackingFileOffset == 0 || c.h.BackingFile == ""
}

// account fills in the result.
func (c *compaction) account() error {
	c.res.Zeros, c.res.Room, c.res.Free, c.res.Back = 0, 0, 0, 0
	c.res.Leaked = c.res0().Leaks << c.l.clusterBits
	c.countDropped()
	end, err := c.kept.free(func(off, end int64) error {
		c.res.Free += end - off
		n, err := dataIn(c.f, off, end)
		c.res.Back += n
		return err
	})
	if err != nil || c.device || end >= c.size {
		return err
	}
	c.res.Tail = c.size - end
	n, err := dataIn(c.f, end, c.size)
	c.res.Back += n
	return err
}

// countDropped counts the clusters that nothing refers to any more.
func (c *compaction) countDropped() {
	for i := range c.counts.clusters {
		switch {
		case c.kept.at(i).references() > 0 || c.counts.at(i).references() == 0:
		case c.zero.at(i) != 0:
			c.res.Zeros += c.l.cluster()
		default:
			c.res.Room += c.l.cluster()
		}
	}
}

// carryOut does what was planned.
func (c *compaction) carryOut() error {
	r := &repairer{checker: c.checker}
	if err := r.clearAutoclear(); err != nil {
		return err
	}
	c.patch = newPatcher(c.f, c.size, c.l)
	if err := c.walk(); err != nil {
		return err
	}
	if err := c.patch.sync(); err != nil {
		return err
	}
	after, err := settle(c.f)
	if err != nil {
		return err
	}
	if err := after.giveBack(); err != nil {
		return err
	}
	info, err := c.f.Stat()
	c.res.SizeAfter, c.res.AllocatedAfter = info.Size, info.Allocated
	return err
}

// settle lowers all refcounts to the references that there are.
func settle(f vfs.File) (*checker, error) {
	c, err := examine(f)
	if err == nil && !c.sound() {
		if err = c.repair(RepairLeaks, false); err == nil {
			c, err = examine(f)
		}
	}
	if err == nil && !c.sound() {
		err = fmt.Errorf("qcow2: after the change a check finds %d errors and %d leaks", c.res.Corruptions+c.res.CheckErrors, c.res.Leaks)
	}
	return c, err
}

// punchBlock is what file systems make holes of, in bytes: less than that is not asked for.
const punchBlock = 4096

// giveBack makes holes of the clusters that nothing refers to, and cuts the file behind
// the last one in use. All refcounts are right and durable.
func (c *checker) giveBack() error {
	end, err := c.counts.free(func(off, end int64) error { return punchData(c.f, off, end) })
	if err != nil {
		return err
	}
	if end < c.size && !c.device {
		if err := c.f.Truncate(end); err != nil {
			return err
		}
	}
	return c.f.Sync()
}

// free calls visit for each stretch of the file that nothing refers to, in bytes, and
// returns where the last cluster in use ends.
func (c *clusterCounts) free(visit func(off, end int64) error) (last int64, err error) {
	next := int64(0) // behind the last cluster in use
	for i := range c.clusters {
		if c.at(i).references() == 0 {
			continue
		}
		if next < i {
			if err := visit(next<<c.bits, i<<c.bits); err != nil {
				return 0, err
			}
		}
		next = i + 1
	}
	return next << c.bits, nil
}

// blocksIn are the whole blocks of the file system from off to end.
func blocksIn(off, end int64) (from, to int64) {
	return roundUp(off, punchBlock), end &^ (punchBlock - 1)
}

// punchData makes a hole of all blocks from off to end, if there is any data.
func punchData(f vfs.File, off, end int64) error {
	off, end = blocksIn(off, end)
	if off >= end {
		return nil
	}
	start, _, err := f.NextData(off)
	if err != nil || start >= end {
		return err
	}
	return f.Punch(off, end-off)
}

// dataIn is how many bytes of the blocks from off to end are not in holes.
func dataIn(f vfs.File, off, end int64) (n int64, err error) {
	for off, end = blocksIn(off, end); off < end; {
		start, stop, err := f.NextData(off)
		if err != nil || start >= end || start == stop {
			return n, err
		}
		n += min(stop, end) - start
		off = stop
	}
	return n, nil
}

// packedZerosMax is how many bytes a compressed cluster of zeros takes at most, in
// sectors, by all that compress: zlib makes a thousandth of it.
func (l layout) packedZerosMax() int64 { return 2*sectorSize + l.cluster()/256 }

// packedZeros tells whether a compressed cluster holds zeros.
func (c *compaction) packedZeros(r *ref) (bool, error) {
	off, n := c.l.packed(r.entry)
	if !c.looks() || n > c.l.packedZerosMax() {
		return false, nil
	}
	packed, cluster := make([]byte, n), make([]byte, c.l.cluster())
	if err := readPadded(c.f, packed, off, c.size); err != nil {
		return false, err
	}
	if err := c.inflate(cluster, packed, c.h.CompressionType); err != nil {
		return false, malformed(off, "compressed cluster", err.Error())
	}
	return chain.AllZero(cluster), nil
}

// allSubclusters is the mask of a whole cluster.
const allSubclusters = uint32(math.MaxUint32)
