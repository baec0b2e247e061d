package vhd

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A change of metadata in several places is written down before it is carried
// out: all that will be written, in one piece behind the end of the file, and
// behind it a footer that says so in bytes that the specification reserves.
//
//	footer 0 … old end footer | record | footer with the mark
//
// From the moment when both are durable the change counts: whoever opens the image
// reads it as if it had been carried out, and whoever writes carries it out first.
// Before, a torn record does not match its checksum, and everything is as it was.
// Guests cannot forge a record: the mark is in a footer, where they cannot write.
//
// On a device, which cannot grow, the record lies in the free space before the
// end footer.

// The mark, in the reserved part of the footer.
//
//	0 cookie   8 offset of the record   16 its length   24 size of the file before
//	32 size of the file afterwards      40 CRC-32C of the record
const (
	markCookie   = "vrotredo"
	markPlace    = 256 - offFooterReserved // in the reserved part
	offMarkStart = 8
	offMarkLen   = 16
	offMarkOld   = 24
	offMarkNew   = 32
	offMarkSum   = 40
	patchHead    = 16       // offset and length before the bytes of a patch
	maxRecord    = 96 << 20 // two tables of the greatest length, and more
)

// A patch is a stretch of the file as it is to be.
type patch struct {
	off  int64
	data []byte
}

// A record is a change. Sizes are of the file, in bytes.
type record struct {
	patches          []patch
	end              [footerLen]byte // the end footer afterwards
	start            int64
	oldSize, newSize int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body is the record as it is stored. The end footer comes first, out of step with
// sectors: a file that a crash has cut behind it must not seem to end with a footer.
func (c *record) body() []byte {
	b := append(make([]byte, patchHead), c.end[:]...)
	for _, p := range c.patches {
		b = binary.BigEndian.AppendUint64(b, uint64(p.off))
		b = binary.BigEndian.AppendUint64(b, uint64(len(p.data)))
		b = append(b, p.data...)
	}
	return append(b, make([]byte, roundUp(int64(len(b)), sectorSize)-int64(len(b)))...)
}

// marked is old with a mark for the record.
func (c *record) marked(old footer, body []byte) [footerLen]byte {
	be, m := binary.BigEndian, old.reserved[markPlace:]
	copy(m, markCookie)
	be.PutUint64(m[offMarkStart:], uint64(c.start))
	be.PutUint64(m[offMarkLen:], uint64(len(body)))
	be.PutUint64(m[offMarkOld:], uint64(c.oldSize))
	be.PutUint64(m[offMarkNew:], uint64(c.newSize))
	be.PutUint32(m[offMarkSum:], crc32.Checksum(body, castagnoli))
	return old.encode()
}

// hasMark tells whether the footer is one behind a record.
func (f *footer) hasMark() bool {
	return string(f.reserved[markPlace:][:cookieLen]) == markCookie
}

// withoutMark is the footer as it was before.
func (f footer) withoutMark() footer {
	if f.hasMark() {
		clear(f.reserved[markPlace:][:offMarkSum+4])
	}
	return f
}

// readRecord returns the record of a footer with a mark that was found at the end
// of r, which has size bytes; without patches and end if it is torn. The mark says
// how large the file was.
func readRecord(r io.ReaderAt, size int64, f *footer) (c *record, whole bool, err error) {
	be, m := binary.BigEndian, f.reserved[markPlace:]
	c = &record{start: int64(be.Uint64(m[offMarkStart:])), oldSize: int64(be.Uint64(m[offMarkOld:])), newSize: int64(be.Uint64(m[offMarkNew:]))}
	n := int64(be.Uint64(m[offMarkLen:]))
	at := size - footerLen + offFooterReserved + markPlace
	if n < patchHead+footerLen || n > maxRecord || c.start < footerLen || c.start != size-footerLen-n ||
		c.oldSize < footerLen || c.newSize < footerLen || c.oldSize > size || c.newSize > size {
		return nil, false, malformed(at, "mark of a record", "it makes no sense")
	}
	b := make([]byte, n)
	if err := readFull(r, b, c.start, "record"); err != nil {
		return nil, false, err
	}
	if crc32.Checksum(b, castagnoli) != be.Uint32(m[offMarkSum:]) {
		return c, false, nil
	}
	if !c.decode(b) {
		return nil, false, malformed(c.start, "record", "it makes no sense")
	}
	return c, true, nil
}

// decode takes a body apart. The zeros at the end are patches without length.
func (c *record) decode(b []byte) bool {
	copy(c.end[:], b[patchHead:])
	for b = b[patchHead+footerLen:]; len(b) >= patchHead; {
		off, n := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		if n == 0 {
			return true
		}
		if n > uint64(len(b)-patchHead) || off > uint64(c.start) || off+n > uint64(c.start) {
			return false
		}
		c.patches = append(c.patches, patch{int64(off), b[patchHead:][:n]})
		b = b[patchHead+n:]
	}
	return true
}

// A patchedReader reads a file as if a record had been carried out.
type patchedReader struct {
	io.ReaderAt
	size    int64
	patches []patch
}

func newPatched(r io.ReaderAt, c *record) *patchedReader {
	end := patch{c.newSize - footerLen, c.end[:]}
	return &patchedReader{r, c.newSize, append(c.patches[:len(c.patches):len(c.patches)], end)}
}

// ReadAt implements io.ReaderAt.
func (p *patchedReader) ReadAt(b []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(b)), p.size-off)))
	got, err := p.ReaderAt.ReadAt(b[:n], off)
	if got < n && !errors.Is(err, io.EOF) {
		return got, err
	}
	clear(b[got:n])
	for _, c := range p.patches {
		from, to := max(off, c.off), min(off+int64(n), c.off+int64(len(c.data)))
		if from < to {
			copy(b[from-off:to-off], c.data[from-c.off:])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// begin makes a record of a file durable, behind its end. When that fails the file
// is cut again.
func (c *record) begin(f vfs.File, old footer) error {
	body := c.body()
	c.start = max(c.oldSize, c.newSize)
	mark := c.marked(old, body)
	_, err := f.WriteAt(append(body, mark[:]...), c.start)
	if err != nil {
		return errors.Join(err, f.Truncate(c.oldSize))
	}
	return f.Sync()
}

// finish carries a durable record out, and cuts it off. Until the cut is durable the
// record says once more what is there already.
func (c *record) finish(f vfs.File) error {
	if err := c.write(f); err != nil {
		return err
	}
	if _, err := f.WriteAt(c.end[:], c.newSize-footerLen); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Truncate(c.newSize); err != nil {
		return err
	}
	return f.Sync()
}

func (c *record) write(f vfs.File) error {
	for _, p := range c.patches {
		if _, err := f.WriteAt(p.data, p.off); err != nil {
			return err
		}
	}
	return nil
}

// beginDevice is begin for a device of which the bytes from free on are not in use.
func (c *record) beginDevice(f vfs.File, old footer, free int64) error {
	body := c.body()
	c.start = c.oldSize - footerLen - int64(len(body))
	if c.start < free {
		return unsupported("changing the header of an image on a device that is full: make the device larger")
	}
	if _, err := f.WriteAt(body, c.start); err != nil {
		return err
	}
	mark := c.marked(old, body)
	if _, err := f.WriteAt(mark[:], c.oldSize-footerLen); err != nil {
		return err
	}
	return f.Sync()
}

// finishDevice is finish for a device: the mark goes last.
func (c *record) finishDevice(f vfs.File) error {
	if err := c.write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(c.end[:], c.newSize-footerLen); err != nil {
		return err
	}
	return f.Sync()
}
