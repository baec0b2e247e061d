package vhd

import (
	"fmt"
	"io"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Repair says what Check may change.
type Repair int

// What Check may change.
const (
	RepairNone  Repair = iota // nothing: the file is only read
	RepairLeaks               // space that nothing refers to is given back
	RepairAll                 // also all that can be repaired without guessing
)

// maxProblems is how many problems a CheckResult describes.
const maxProblems = 1000

// A Problem is one thing that is wrong with an image, for people to read.
type Problem struct {
	Offset int64 // bytes from the start of the file
	What   string
	Reason string
	// Mendable tells that no data depends on it: RepairAll makes it right.
	Mendable bool
}

func (p Problem) String() string {
	return fmt.Sprintf("offset %d: %s: %s", p.Offset, p.What, p.Reason)
}

// CheckResult counts what is wrong; after a repair, what remains. Blocks are those
// of the disk.
type CheckResult struct {
	Corruptions int64 // all but leaks
	Damage      int64 // those of them that no repair can make right
	Leaks       int64 // stretches of the file that take up space for nothing

	CorruptionsFixed, LeaksFixed int64
	Repaired                     []string // what was done

	ImageEndOffset   int64 // bytes
	TotalBlocks      int64
	AllocatedBlocks  int64
	FragmentedBlocks int64 // that do not follow the one before

	Problems     []Problem // the first 1000 of ProblemCount
	ProblemCount int64
}

// Check looks for inconsistencies in the image f, and repairs those that repair
// allows: the footer at the end and its copy at 0, each from the other; a change of
// the metadata that a crash has interrupted; the batmap, from the bitmaps. Blocks
// that overlap or are not within the file remain, and then nothing is repaired.
// The parent is not looked at.
//
// f is to be locked by the caller. Errors are those of ReadInfo and of f; what is
// wrong with the image is in the result.
func Check(f File, repair Repair) (CheckResult, error) {
	return check(vfs.Full(f), repair)
}

// CheckReader is Check of an image of size bytes that is only read.
func CheckReader(r io.ReaderAt, size int64) (CheckResult, error) {
	return check(vfs.FullReader(r, size), RepairNone)
}

func check(f vfs.File, repair Repair) (CheckResult, error) {
	before, err := examine(f)
	if err != nil || repair == RepairNone || before.res.ProblemCount == 0 || before.res.Damage > 0 {
		return before.result(), err
	}
	if err := before.mend(repair); err != nil {
		return before.result(), err
	}
	after, err := examine(f)
	if err != nil {
		return before.result(), err
	}
	after.res.CorruptionsFixed = max(before.res.Corruptions-after.res.Corruptions, 0)
	after.res.LeaksFixed = max(before.res.Leaks-after.res.Leaks, 0)
	for _, p := range before.res.Problems {
		if !slices.Contains(after.res.Problems, p) {
			after.res.Repaired = append(after.res.Repaired, p.String())
		}
	}
	return after.result(), nil
}

// A checker looks at one image.
type checker struct {
	f     vfs.File
	info  vfs.Info
	m     *meta
	image *Image // nil for fixed disks
	gaps  []region
	res   CheckResult
}

func (c *checker) result() CheckResult {
	if c == nil {
		return CheckResult{}
	}
	return c.res
}

func examine(f vfs.File) (*checker, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := load(f, info.Size)
	if err != nil {
		return nil, err
	}
	c := &checker{f: f, info: info, m: m}
	c.checkEnds()
	if m.foot.kind == Fixed {
		c.res.ImageEndOffset = m.size
		return c, nil
	}
	c.image = &Image{f: f, m: m, size: m.foot.size, bitmaps: map[int64][]byte{}, device: info.IsBlock}
	if c.image.bat, err = m.readTable(); err != nil {
		return nil, err
	}
	if err := c.checkTable(); err != nil || c.res.Damage > 0 {
		return c, err
	}
	if err := c.checkBatmap(); err != nil {
		return c, err
	}
	return c, c.checkGaps()
}

func (c *checker) note(p Problem) {
	c.res.ProblemCount++
	if len(c.res.Problems) < maxProblems {
		c.res.Problems = append(c.res.Problems, p)
	}
}

// wrong notes what RepairAll makes right.
func (c *checker) wrong(off int64, what, reason string) {
	c.res.Corruptions++
	c.note(Problem{off, what, reason, true})
}

// damaged notes what stays wrong. A hostile table has a million reasons: those that
// nobody reads are not put into words.
func (c *checker) damaged(off int64, what string, reason any) {
	c.res.Corruptions++
	c.res.Damage++
	if len(c.res.Problems) >= maxProblems {
		c.res.ProblemCount++
		return
	}
	c.note(Problem{off, what, fmt.Sprint(reason), false})
}

func (c *checker) leak(off int64, what, reason string) {
	c.res.Leaks++
	c.note(Problem{off, what, reason, true})
}

// checkEnds looks at the footers.
func (c *checker) checkEnds() {
	m := c.m
	end := m.size - footerLen
	switch {
	case m.pending != nil:
		c.wrong(m.pending.start, "header", "a change was interrupted; it is on record, and the image is read as if it had been carried out")
	case m.torn:
		c.wrong(m.size, "end of the file", "a change was interrupted before it counted")
	case m.end == endInUse:
		c.wrong(end, "footer", "marked as in use (0xC7): a tapdisk writes to the image, or has crashed; repair it only if no host uses it")
	case m.end == endMissing:
		c.wrong(end, "footer", "it is missing or damaged; the copy at 0 is read instead")
	case m.end == endShort && m.foot.kind != Fixed:
		c.wrong(m.size-shortFooterLen, "footer", "it has only 511 bytes, as old programs wrote it")
	}
	switch {
	case m.foot.kind == Fixed || m.agrees() || m.end == endMissing || m.end == endInUse:
	case !m.copied:
		c.wrong(0, "copy of the footer", "it is missing or damaged")
	case m.copy.size != m.foot.size:
		c.damaged(offCurrentSize, "copy of the footer", fmt.Sprintf("it says a size of %d bytes, the footer %d", m.copy.size, m.foot.size))
	default:
		c.wrong(0, "copy of the footer", "it is not as the footer")
	}
}

// checkTable looks at the blocks.
func (c *checker) checkTable() error {
	i := c.image
	end, err := c.m.checkBlocks(i.bat, func(bad badEntry) error {
		c.damaged(c.m.entry(bad.index), tableName, bad)
		return nil
	})
	for _, r := range c.m.regions() {
		end = max(end, r.to)
	}
	i.end = end
	c.res.ImageEndOffset = roundUp(end, sectorSize) + footerLen
	c.res.TotalBlocks = c.m.head.blocks(i.size)
	next := int64(-1)
	for n := range c.res.TotalBlocks {
		if i.bat[n] == unused {
			continue
		}
		c.res.AllocatedBlocks++
		if next >= 0 && i.data(n) != next {
			c.res.FragmentedBlocks++
		}
		next = roundUp(i.data(n)+c.m.head.blockSize+c.m.head.bitmapBytes(), dataAlign)
	}
	return err
}

// checkBatmap compares the batmap with the bitmaps.
func (c *checker) checkBatmap() error {
	b := c.m.batmap
	if b.at == 0 {
		return nil
	}
	if b.wrong != "" {
		c.wrong(b.at, "batmap header", b.wrong)
		return nil
	}
	bits, err := c.m.readBatmap()
	if err != nil {
		return err
	}
	if b.sum(bits) != b.checksum {
		c.wrong(b.at+offBatmapChecksum, "batmap", "its checksum does not match")
		return nil
	}
	for n := range min(int64(len(bits))*8, int64(len(c.image.bat))) {
		if !hasBit(bits, n) {
			continue
		}
		is, err := c.image.isFull(n)
		if err != nil {
			return err
		}
		if !is {
			c.wrong(b.offset+n/8, "batmap", fmt.Sprintf("it says that block %d is full, its bitmap does not", n))
		}
	}
	return nil
}

// checkGaps looks for data that nothing refers to, in stretches as long as a block.
// A device has what was there before, and so has a copy of one.
func (c *checker) checkGaps() error {
	if c.info.IsBlock {
		return nil
	}
	for _, g := range c.m.gaps(c.image.bat) {
		if g.to == c.m.limit() && c.m.isVolume() {
			continue
		}
		if err := c.checkGap(g.from, g.to); err != nil {
			return err
		}
	}
	return nil
}

// extentBytes is the unit of XenServer's logical volumes.
const extentBytes = 4 << 20

// isVolume tells whether the file is as long as a logical volume, with the footer at its
// end: XenServer makes those of leaves as large as the disk can become.
func (m *meta) isVolume() bool {
	return m.size%extentBytes == 0 && (m.end == endValid || m.end == endInUse)
}

// gaps are the stretches of the file, as long as a block at least, that nothing of the
// disk uses.
func (m *meta) gaps(bat []uint32) (gaps []region) {
	length := m.head.bitmapBytes() + m.head.blockSize
	used := m.regions()
	for n, e := range bat[:min(int64(len(bat)), m.head.blocks(m.foot.size))] {
		if e != unused {
			used = append(used, region{int64(e) * sectorSize, int64(e)*sectorSize + length, fmt.Sprint("block ", n)})
		}
	}
	used = append(used, region{m.limit(), m.size, "the footer"})
	slices.SortFunc(used, func(a, b region) int { return int(min(max(a.from-b.from, -1), 1)) })
	at := int64(0)
	for _, r := range used {
		if r.from-at >= length {
			gaps = append(gaps, region{at, r.from, ""})
		}
		at = max(at, r.to)
	}
	return gaps
}

// punchGap makes a hole of the whole blocks of a file system in a gap.
func punchGap(f vfs.File, g region) error {
	from, to := roundUp(g.from, dataAlign), g.to&^(dataAlign-1)
	if from >= to {
		return nil
	}
	return f.Punch(from, to-from)
}

func (c *checker) checkGap(from, to int64) error {
	start, end, err := c.f.NextData(roundUp(from, dataAlign))
	if err != nil || start >= to&^(dataAlign-1) || end <= from {
		return err
	}
	c.gaps = append(c.gaps, region{from, to, ""})
	c.leak(start, "free space", fmt.Sprintf("%d bytes that no block uses hold data", to-from))
	return nil
}

// release writes the footer over the mark of an image in use, where it is.
func (c *checker) release() error {
	if c.m.end != endInUse {
		return nil
	}
	b := c.m.foot.encode()
	if _, err := c.f.WriteAt(b[:], c.m.size-footerLen); err != nil {
		return err
	}
	c.m.end = endValid
	return c.f.Sync()
}

// mend repairs what was found.
func (c *checker) mend(repair Repair) error {
	if c.m.end != endInUse { // where others may be writing, nothing is cut or punched
		for _, g := range c.gaps {
			if err := punchGap(c.f, g); err != nil {
				return err
			}
		}
	}
	if repair == RepairLeaks || c.image == nil {
		return c.f.Sync()
	}
	i := c.image
	if err := c.release(); err != nil {
		return err
	}
	if err := i.start(); err != nil {
		return err
	}
	if i.m.batmap.at != 0 && i.m.batmap.wrong != "" {
		return i.rewrite(func(*layout) {})
	}
	return i.mendBatmap()
}
