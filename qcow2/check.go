package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Repair says what Check may change.
type Repair int

// What Check may change.
const (
	RepairNone  Repair = iota // nothing: the file is only read
	RepairLeaks               // refcounts that are too high
	RepairAll                 // all that can be repaired without losing data
)

// maxProblems is how many problems a CheckResult describes.
const maxProblems = 1000

// A Problem is one thing that is wrong with an image, for people to read.
type Problem struct {
	Offset int64 // bytes from the start of the file
	What   string
	Reason string
}

func (p Problem) String() string {
	return fmt.Sprintf("offset %d: %s: %s", p.Offset, p.What, p.Reason)
}

// CheckResult counts as qemu-img check does, in clusters or entries; the JSON
// keys are qemu-img's. After a repair Corruptions, Leaks and CheckErrors are
// what remains.
type CheckResult struct {
	Corruptions int64 `json:"corruptions,omitempty"`
	Leaks       int64 `json:"leaks,omitempty"`
	// CheckErrors counts what kept the check from being complete: clusters whose
	// refcount cannot be read, or a table that makes no sense.
	CheckErrors int64 `json:"check-errors"`

	CorruptionsFixed int64 `json:"corruptions-fixed,omitempty"`
	LeaksFixed       int64 `json:"leaks-fixed,omitempty"`

	ImageEndOffset     int64 `json:"image-end-offset,omitempty"` // bytes
	TotalClusters      int64 `json:"total-clusters,omitempty"`   // of the disk
	AllocatedClusters  int64 `json:"allocated-clusters,omitempty"`
	FragmentedClusters int64 `json:"fragmented-clusters,omitempty"`
	CompressedClusters int64 `json:"compressed-clusters,omitempty"`

	// Restored tells what was found or made anew of tables that were lost.
	Restored []string `json:"restored,omitempty"`

	Problems     []Problem `json:"-"` // the first 1000 of ProblemCount
	ProblemCount int64     `json:"-"`

	ours      int64 // corruptions that qemu-img does not count
	misplaced int64 // entries that lead to a wrong place, or to nothing
}

// Check looks for inconsistencies in the image f, and repairs those that
// repair allows. It counts as qemu-img check of QEMU 7.2 does: a cluster whose
// refcount is lower than the number of references is a corruption, one whose
// refcount is higher a leak, each wrong copied flag of the active tables,
// each offset that is misplaced and each entry with reserved bits a corruption.
//
// It knows more than qemu-img, which says nothing of these corruptions:
//   - a table or a cluster that the end of the file cuts off, as far as it
//     holds data (QEMU reads zeros there);
//   - metadata that overlaps with something, though the refcount agrees;
//   - a zero flag in version 2, or with extended L2 entries;
//   - an L1 entry with a flag and no offset (QEMU reads the header as L2 table).
//
// And it differs where qemu-img gives up without a result, for a snapshot table
// or a bitmap directory that makes no sense: that is one CheckErrors here.
//
// A repair never changes guest data, and no entry that leads to a wrong place:
// qemu-img turns some into zeros, here they remain corruptions. While there
// are such entries no leak is repaired either, since what has leaked may be
// what they should lead to. Nothing is punched and the file is not cut.
// At a crash within a repair no refcount is too low that was not so before.
//
// RepairAll makes a refcount table anew to which the header does not lead. A snapshot
// table that is lost is looked for, in the clusters to which nothing leads; from one that
// is damaged what makes sense is taken. Clusters that may belong to snapshots which were
// not found stay in use, until another repair is asked for. Where the bit and the name of
// an external data file do not agree nothing is repaired: one flipped bit would
// make all of the guest's data look like leaks.
//
// Memory is at most 8 bytes per cluster of the file, some more for L2 tables of
// internal snapshots, and 100 MiB. f is to be locked by the caller. Errors are
// those of ReadHeader and of f; what is wrong with the image is in the result.
func Check(f File, repair Repair) (CheckResult, error) {
	return check(vfs.Full(f), repair)
}

// CheckReader is Check of an image of size bytes that is only read.
func CheckReader(r io.ReaderAt, size int64) (CheckResult, error) {
	return check(vfs.FullReader(r, size), RepairNone)
}

func check(f vfs.File, repair Repair) (CheckResult, error) {
	var restored restorer
	if repair == RepairAll {
		if err := restored.restore(f); err != nil {
			return CheckResult{Restored: restored.done}, err
		}
	}
	before, err := examine(f)
	if err != nil || repair == RepairNone {
		return before.res, err
	}
	res, err := before.mend(repair, restored.left)
	if err == nil {
		err = restored.unmark()
	}
	res.Restored = restored.done
	res.CorruptionsFixed += int64(len(restored.done))
	return res, err
}

// mend repairs, for as long as that helps. Clusters without references stay in use if keep
// is set.
func (c *checker) mend(repair Repair, keep bool) (CheckResult, error) {
	if err := certainOfData(c.h); err != nil && !c.sound() {
		return c.res, err
	}
	before, after := c, c
	for again := true; again && !after.sound(); {
		misplaced := after.res.misplaced
		err := after.repair(repair, keep)
		if err != nil {
			return after.res, err
		}
		if after, err = examine(c.f); err != nil {
			return after.res, err
		}
		// Refcount blocks at a wrong place can have made good entries look bad.
		again = after.res.misplaced < misplaced
	}
	after.res.CorruptionsFixed = max(before.res.Corruptions-after.res.Corruptions, 0)
	after.res.LeaksFixed = max(before.res.Leaks-after.res.Leaks, 0)
	return after.res, after.markSound()
}

// examine is never nil.
func examine(f vfs.File) (*checker, error) {
	c, err := newChecker(f)
	if err != nil {
		return &checker{}, err
	}
	return c, c.run()
}

// sound tells that nothing at all is wrong.
func (c *checker) sound() bool {
	return c.res.Corruptions+c.res.Leaks+c.res.CheckErrors == 0
}

// A checker counts the references of one image and compares the refcounts.
type checker struct {
	f      vfs.File
	h      Header
	l      layout
	size   int64 // of the file, bytes
	device bool  // a file that cannot grow
	counts *clusterCounts
	stored refcountReader
	res    CheckResult

	unreadable bool  // the walk did not come to its end
	badBlocks  bool  // refcount blocks have to be made anew
	nearest    int64 // where data is missing: the first place beyond the end that an entry leads to
}

func newChecker(f vfs.File) (*checker, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := ReadHeader(f, info.Size)
	if err != nil {
		return nil, err
	}
	return checkerOf(f, h, info), nil
}

// checkerOf is a checker of an image whose header says h.
func checkerOf(f vfs.File, h Header, info vfs.Info) *checker {
	c := &checker{f: f, h: h, l: h.layout(), size: info.Size, device: info.IsBlock, nearest: math.MaxInt64}
	c.stored = refcountReader{r: f, h: h, l: c.l, size: c.size, index: -1}
	return c
}

// run fills in the result.
func (c *checker) run() error {
	c.res.TotalClusters = (c.h.Size + c.l.cluster() - 1) >> c.l.clusterBits
	clusters := (c.size-1)>>c.l.clusterBits + 1
	if clusters > maxCheckClusters {
		c.unreadable = true
		c.res.CheckErrors++
		c.note(0, "file", 1, "%d clusters, more than QEMU can count", clusters)
		return nil
	}
	c.counts = newClusterCounts(c.l, clusters)
	stats, err := usage(c.f, c.h, c.size, c.reference)
	c.res.AllocatedClusters = stats.allocated
	c.res.FragmentedClusters = stats.fragmented
	c.res.CompressedClusters = stats.compressed
	if errors.Is(err, errUnreadable) {
		c.unreadable = true
		return nil
	}
	if err != nil {
		return err
	}
	return c.compare()
}

// note describes a problem that counts times times.
func (c *checker) note(offset int64, what string, times int64, reason string, args ...any) {
	c.res.ProblemCount += times
	if len(c.res.Problems) < maxProblems {
		c.res.Problems = append(c.res.Problems, Problem{offset, what, fmt.Sprintf(reason, args...)})
	}
}

func (c *checker) corrupt(offset int64, what string, times int64, reason string, args ...any) {
	c.res.Corruptions += times
	c.note(offset, what, times, reason, args...)
}

// reference counts one reference, or what is wrong with it.
func (c *checker) reference(r *ref) error {
	switch {
	case r.fatal:
		c.res.CheckErrors++
		c.note(r.at, r.kind.String(), 1, "%s", r.reason)
		return nil
	case r.reason != "":
		return c.wrong(r)
	}
	c.counts.add(r)
	if r.kind == refRefcountBlock {
		c.refcountBlock(r)
	}
	return nil
}

// wrong counts what is wrong with a reference.
func (c *checker) wrong(r *ref) error {
	c.corrupt(r.at, r.kind.String(), r.times, "%s", r.reason)
	if r.ours {
		c.res.ours += r.times
	}
	switch {
	case r.reason == reasonNotCopied:
	case r.kind == refRefcountBlock:
		c.badBlocks = true
	default:
		c.res.misplaced++
	}
	if r.reason == reasonCut && r.kind != refRefcountBlock {
		c.nearest = min(c.nearest, c.size)
	}
	if r.reason != reasonOutside {
		return nil
	}
	if r.offset >= 0 && r.kind != refRefcountBlock {
		c.nearest = min(c.nearest, r.offset)
	}
	return c.outside(r)
}

// outside compares the copied flag of an entry that leads outside of the file:
// refcounts can go further.
func (c *checker) outside(r *ref) error {
	if r.active == 0 {
		return nil
	}
	refcount, ok, err := c.stored.get(r.offset >> c.l.clusterBits)
	if ok && refcount == 1 != r.copied {
		c.corrupt(r.at, r.kind.String(), r.active, "copied flag does not agree with the refcount")
	}
	return err
}

// refcountBlock wants blocks for themselves. QEMU cannot count beyond the
// width of the refcounts.
func (c *checker) refcountBlock(r *ref) {
	n := c.counts.at(r.offset >> c.l.clusterBits)
	if refs := min(n.references(), maxRef(c.l.refOrder)); refs != 1 {
		c.corrupt(r.at, r.kind.String(), 1, "%d references", refs)
	}
	if n.references() != 1 {
		c.badBlocks = true
	}
}

// compare compares the refcounts with what was counted.
func (c *checker) compare() error {
	cmp := comparison{
		r: c.f, h: c.h, l: c.l, size: c.size, counts: c.counts,
		differ: c.differ, unreadable: c.withoutBlock,
	}
	err := cmp.run()
	c.res.ImageEndOffset = (cmp.highest + 1) << c.l.clusterBits
	return err
}

// withoutBlock counts each cluster, as QEMU does.
func (c *checker) withoutBlock(first, end int64, reason string) error {
	c.badBlocks = true
	c.res.CheckErrors += end - first
	c.note(first<<c.l.clusterBits, "refcounts", end-first, "%s", reason)
	for i := first; i < end; i++ {
		c.overflow(i, c.counts.at(i))
	}
	return nil
}

// overflow counts the references that no refcount of this width can tell.
func (c *checker) overflow(cluster int64, n clusterCount) {
	refs, most := n.references(), maxRef(c.l.refOrder)
	if refs > most {
		c.corrupt(cluster<<c.l.clusterBits, "cluster", int64(refs-most),
			"%d references, more than a refcount can tell", refs)
	}
}

// differ counts what is wrong with the refcount of a cluster, and with the
// flags of the entries that lead to it.
func (c *checker) differ(cluster int64, refcount uint64, n clusterCount) error {
	at := cluster << c.l.clusterBits
	c.overflow(cluster, n)
	switch refs := min(n.references(), maxRef(c.l.refOrder)); {
	case refcount < refs:
		c.corrupt(at, "cluster", 1, "refcount %d, %d references", refcount, n.references())
	case refcount > refs:
		c.res.Leaks++
		c.note(at, "cluster", 1, "refcount %d, %d references", refcount, n.references())
	}
	if flags := n.falselyFlagged(refcount); flags > 0 {
		c.corrupt(at, "cluster", flags, "copied flag of %d entries does not agree with refcount %d", flags, refcount)
	}
	if n.class() == classOverlap {
		c.overlap(at, refcount >= n.references())
	}
	return nil
}

// overlap notes a cluster of metadata that has another use too; hidden if its
// refcount agrees with that.
func (c *checker) overlap(at int64, hidden bool) {
	c.res.misplaced++
	if hidden {
		c.corrupt(at, "cluster", 1, reasonOverlap)
		c.res.ours++
	}
}

// markSound clears the dirty and the corrupt bit if there is no reason left
// for them.
func (c *checker) markSound() error {
	const bits = incompatDirty | incompatCorrupt
	if c.unreadable || c.res.Corruptions > 0 || c.res.CheckErrors > 0 || c.h.Incompatible&bits == 0 {
		return nil
	}
	return writeIncompatible(c.f, c.h.Incompatible&^bits)
}

// writeIncompatible changes the incompatible features, once all else is durable.
func writeIncompatible(f vfs.File, bits uint64) error {
	if err := f.Sync(); err != nil {
		return err
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], bits)
	if _, err := f.WriteAt(b[:], offIncompatible); err != nil {
		return err
	}
	return f.Sync()
}
