package xva

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// A Hole is a stretch of a disk of which the export has nothing that is right. It reads
// as zeros.
type Hole struct {
	Disk           Disk
	Offset, Length int64  // bytes
	Chunk          string // member of the archive; "" where it is not about one
	Reason         string
	// Whole tells that nothing of the disk is to be used: all of it is missing, or its
	// chunks cannot be told where they belong.
	Whole bool
}

// A salvage is what a Reader goes on with after damage.
type salvage struct {
	hole    func(Hole)
	pending *tar.Header // that was read in the place of a checksum
	gap     string      // why what follows x.off is not known, until the next chunk; "" for known
	torn    bool        // chunks of this disk are missing, and with them how they were counted
}

// Salvage lets Next and Extract go on where the export is damaged, and tells hole of all
// that is missing. A chunk is handed out only if its checksum is right, still. Errors of
// the input remain errors.
func (x *Reader) Salvage(hole func(Hole)) { x.salvage = &salvage{hole: hole} }

// nextWhole is next of a Reader that salvages.
func (x *Reader) nextWhole() (Chunk, error) {
	h, err := x.header()
	if errors.Is(err, io.EOF) {
		x.leave()
		x.missing()
		return Chunk{}, io.EOF
	}
	if err != nil {
		return Chunk{}, err
	}
	dir, name, _ := strings.Cut(h.Name, "/")
	number, ok := parseNumber(name)
	d := x.find(dir)
	if d == nil || !ok || h.Typeflag != tar.TypeReg || h.Size > chunkSize {
		return Chunk{}, nil // no chunk; the checksum of one that was lost, perhaps
	}
	if d != x.disk && !x.enter(d) || number <= x.last {
		return Chunk{}, nil
	}
	return x.wholeChunk(h, number)
}

// header finds the next member that can be read.
func (x *Reader) header() (*tar.Header, error) {
	if h := x.pending; h != nil {
		x.pending = nil
		return h, nil
	}
	before := x.archive.n
	h, err := x.tar.Next()
	if err == nil {
		return h, nil
	}
	if x.in.err != nil {
		return nil, x.in.err
	}
	ended := errors.Is(err, io.EOF) && x.archive.n-before >= endBlocks
	switch {
	case ended:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		x.gap = "the file ends here: it is cut off"
	default:
		x.gap = "the archive is damaged here"
	}
	return x.resync()
}

// resync looks for the next header of a chunk, from block to block.
func (x *Reader) resync() (*tar.Header, error) {
	block := make([]byte, blockSize)
	_, _ = io.CopyN(io.Discard, x.archive, -x.archive.n&(blockSize-1)) // the end comes again
	for {
		if _, err := io.ReadFull(x.archive, block); err != nil {
			if x.in.err != nil {
				return nil, x.in.err
			}
			return nil, io.EOF // of a stream that is damaged there is no more
		}
		if !x.isHeader(block) {
			continue
		}
		x.gap = "the archive is damaged here"
		x.tar = tar.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(block)), x.archive))
		if h, err := x.tar.Next(); err == nil {
			return h, nil
		}
	}
}

// Of a header in tar (POSIX.1, "ustar Interchange Format"): 0 name, 148 checksum, octal: the
// sum of all bytes with blanks in the checksum's place.
const (
	blockSize = 512
	endBlocks = 2 * blockSize // of zeros, at the end of an archive
	nameLen   = 100
	offSum    = 148
	sumLen    = 8
)

// isHeader tells whether a block is the header of a chunk.
func (x *Reader) isHeader(b []byte) bool {
	name, _, _ := bytes.Cut(b[:nameLen], []byte{0})
	dir, _, chunk := strings.Cut(string(name), "/")
	if !chunk || x.find(dir) == nil {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(b[offSum:offSum+sumLen]), " \x00"), 8, 64)
	sum := int64(sumLen * ' ')
	for i, c := range b {
		if i < offSum || i >= offSum+sumLen {
			sum += int64(c)
		}
	}
	return err == nil && sum == want
}

// enter begins a disk, if it has not been there before.
func (x *Reader) enter(d *Disk) bool {
	if x.seen[d.ID] {
		return false
	}
	gap := x.gap
	x.leave()
	x.seen[d.ID] = true
	x.disk, x.last, x.off, x.gap, x.torn = d, -1, 0, gap, false
	return true
}

// leave ends a disk: what is known of it ends at x.off.
func (x *Reader) leave() {
	switch {
	case x.disk == nil || x.off == x.disk.Size:
	case x.torn && x.gap == "":
		x.hole(Hole{*x.disk, 0, x.disk.Size, "", "its chunks are not as many as they should be: where those after the damage belong cannot be told", true})
	case x.gap == "":
		x.hole(Hole{*x.disk, x.off, x.disk.Size - x.off, "", "it is cut off", false})
	case x.torn:
		x.gap += "; the last chunk, which would tell whether those after the first damage are in their places, is missing"
		fallthrough
	default:
		x.hole(Hole{*x.disk, x.off, x.disk.Size - x.off, "", x.gap, false})
	}
	x.disk, x.gap = nil, ""
}

// missing tells of disks that never began.
func (x *Reader) missing() {
	for _, d := range x.vm.Disks {
		if d.attached && !x.seen[d.ID] {
			x.hole(Hole{d, 0, d.Size, "", "the export has nothing of it", true})
		}
	}
}

// wholeChunk reads a chunk, and hands it out if it is right.
func (x *Reader) wholeChunk(h *tar.Header, number int64) (Chunk, error) {
	off := x.off + (number-x.last-1)*chunkSize
	end := off + h.Size
	if end > x.disk.Size || h.Size > 0 && h.Size < chunkSize && end != x.disk.Size {
		x.torn = true
		return Chunk{}, nil
	}
	x.close(off)
	b := x.room(h.Size)
	if _, err := io.ReadFull(x.tar, b); err != nil {
		if x.in.err != nil {
			return Chunk{}, x.in.err
		}
		x.gap = "the file ends here: it is cut off"
		return Chunk{}, nil
	}
	x.last, x.off = number, end
	reason, err := x.wrongSum(h.Name, b)
	if err != nil || reason == "" {
		return Chunk{x.disk, off, b}, err
	}
	x.hole(Hole{*x.disk, off, h.Size, h.Name, reason, false})
	return Chunk{}, nil
}

// close tells of what was lost up to the chunk at off.
func (x *Reader) close(off int64) {
	if x.gap == "" && (x.last >= 0 || off == 0) {
		return
	}
	if x.gap == "" {
		x.gap = "chunk 0, which is always there, is missing"
	}
	if off > x.off {
		x.hole(Hole{*x.disk, x.off, off - x.off, "", x.gap, false})
		x.torn = true
	}
	x.gap = ""
}

// wrongSum tells what is wrong with a chunk by the checksum that follows; "" if nothing is.
func (x *Reader) wrongSum(name string, b []byte) (reason string, err error) {
	h, err := x.header()
	if errors.Is(err, io.EOF) {
		return "its checksum is missing", nil
	}
	if err != nil {
		return "", err
	}
	want, ok := sumFor(h, name, b)
	if !ok {
		x.pending = h
		return "its checksum does not follow", nil
	}
	if is, whole := x.text(); !whole || !strings.EqualFold(is, want) {
		reason = "wrong checksum: the data has " + want
	}
	return reason, x.in.err
}

// text is what a small member has, unless the archive is damaged within it.
func (x *Reader) text() (text string, whole bool) {
	b, err := io.ReadAll(io.LimitReader(x.tar, maxChecksum+1))
	return string(b), err == nil
}
