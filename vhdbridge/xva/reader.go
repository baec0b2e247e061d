package xva

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // the format has it; it is against accidents
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// A Reader reads an export. It is not safe for concurrent use.
type Reader struct {
	in      *input
	archive *counter // the archive, decompressed
	tar     *tar.Reader
	undo    func() // of the decompressor
	vm      VM
	err     error // the end, or what went wrong: it stays

	seen map[string]bool // ids of disks that have begun
	disk *Disk           // the one that is being read
	last int64           // number of its last chunk; -1 before the first
	off  int64           // bytes of it that are known, holes included
	buf  []byte

	*salvage // nil: what is wrong is an error
}

// A Chunk is a piece of a disk. Between chunks there are zeros.
type Chunk struct {
	Disk   *Disk
	Offset int64  // bytes from the beginning of the disk
	Data   []byte // one byte at least; valid up to the next call of Next
}

// NewReader reads up to the end of ova.xml. Compression is told by its magic.
func NewReader(r io.Reader) (*Reader, error) {
	x := &Reader{in: &input{r: r}, seen: map[string]bool{}, last: -1, undo: func() {}}
	plain, err := x.decompress(bufio.NewReaderSize(x.in, 64<<10))
	if err == nil {
		x.archive = &counter{r: plain}
		x.tar = tar.NewReader(x.archive)
		err = x.readDescriptor()
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Close gives back memory; the input is the caller's.
func (x *Reader) Close() { x.undo() }

// VM is what ova.xml tells.
func (x *Reader) VM() VM { return x.vm }

// Plain tells whether the export is not compressed: then it holds no more data than
// it is long.
func (x *Reader) Plain() bool { return x.in.plain }

func (x *Reader) readDescriptor() error {
	h, err := x.tar.Next()
	if err != nil || h.Name != descriptor || h.Typeflag != tar.TypeReg {
		if x.in.err != nil {
			return x.in.err
		}
		return ErrNotXVA
	}
	if h.Size > maxDescriptor {
		return x.malformed(descriptor, "it has %d bytes, and more than %d are not read", h.Size, maxDescriptor)
	}
	b := make([]byte, h.Size)
	if _, err := io.ReadFull(x.tar, b); err != nil {
		return x.broken(descriptor, err)
	}
	x.vm, err = parseDescriptor(b)
	var unsupported *UnsupportedError
	if err != nil && !errors.As(err, &unsupported) {
		return x.malformed(descriptor, "%v", err)
	}
	return err
}

func (x *Reader) malformed(member, format string, args ...any) error {
	return &FormatError{Offset: x.archive.n, Member: member, Reason: fmt.Sprintf(format, args...)}
}

// broken tells an input that cannot be read from one that is wrong.
func (x *Reader) broken(member string, err error) error {
	switch {
	case x.in.err != nil && member != "":
		return fmt.Errorf("%s: %w", member, x.in.err)
	case x.in.err != nil:
		return x.in.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return x.of(x.disk, x.malformed(member, "the file ends here: it is cut off"), x.behind())
	}
	return x.of(x.disk, x.malformed(member, "%v", err), x.behind())
}

// behind tells how far the reading has come.
func (x *Reader) behind() string {
	if x.last < 0 {
		return "all of it is lost"
	}
	return fmt.Sprintf("what comes behind chunk %d is lost", x.last)
}

// of adds to an error which disk it is about, if any, and what of it is lost.
func (x *Reader) of(d *Disk, err error, lost string) error {
	var bad *FormatError
	if d != nil && errors.As(err, &bad) && bad.Disk == "" {
		if bad.Disk = d.who(); lost != "" {
			bad.Disk = lost + "; it is " + bad.Disk
		}
	}
	return err
}

// Next returns the next chunk, its checksum verified. At the end, once every disk was
// there in full, it returns io.EOF. After an error it returns that again.
func (x *Reader) Next() (Chunk, error) {
	for x.err == nil {
		var c Chunk
		if x.salvage != nil {
			c, x.err = x.nextWhole()
		} else {
			c, x.err = x.next()
		}
		if x.err == nil && len(c.Data) > 0 {
			return c, nil
		}
	}
	return Chunk{}, x.err
}

func (x *Reader) next() (Chunk, error) {
	h, err := x.tar.Next()
	if errors.Is(err, io.EOF) {
		return Chunk{}, x.end()
	}
	if err != nil {
		return Chunk{}, x.broken("", err)
	}
	dir, name, _ := strings.Cut(h.Name, "/")
	d := x.find(dir)
	switch {
	case d == nil:
		return Chunk{}, x.malformed(h.Name, "no disk of %s has that name", descriptor)
	case h.Typeflag == tar.TypeDir && name == "":
		return Chunk{}, nil // archives that were packed again may have them
	case h.Typeflag != tar.TypeReg:
		return Chunk{}, x.malformed(h.Name, "it is no plain file")
	case h.Size > chunkSize:
		return Chunk{}, x.malformed(h.Name, "it has %d bytes, and a chunk has 1 MiB at most", h.Size)
	}
	number, ok := parseNumber(name)
	if !ok {
		return Chunk{}, x.malformed(h.Name, "it is not named as a chunk is")
	}
	if err := x.begin(h.Name, d); err != nil {
		return Chunk{}, err
	}
	c, err := x.chunk(h, number)
	return c, x.of(d, err, "")
}

func (x *Reader) find(id string) *Disk {
	for i := range x.vm.Disks {
		if x.vm.Disks[i].ID == id {
			return &x.vm.Disks[i]
		}
	}
	return nil
}

// parseNumber reads the name of a chunk: eight decimal digits, more if need be.
func parseNumber(name string) (int64, bool) {
	if len(name) < minDigits || strings.Trim(name, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(name, 10, 64)
	return n, err == nil && n <= maxNumber
}

// begin sees that a disk ends before another one begins, and none begins twice.
func (x *Reader) begin(name string, d *Disk) error {
	if x.disk == d {
		return nil
	}
	if err := x.finish(); err != nil {
		return err
	}
	if x.seen[d.ID] {
		return x.malformed(name, "the disk %s has ended before", d.ID)
	}
	x.seen[d.ID] = true
	x.disk, x.last, x.off = d, -1, 0
	return nil
}

// finish sees that the disk that was read is there to its end.
func (x *Reader) finish() error {
	if x.disk == nil || x.off == x.disk.Size {
		return nil
	}
	return x.of(x.disk, x.malformed("", "the disk %s ends at byte %d of %d: it is cut off", x.disk.ID, x.off, x.disk.Size), "")
}

// chunk finds out where a chunk belongs, reads and verifies it.
func (x *Reader) chunk(h *tar.Header, number int64) (Chunk, error) {
	if err := x.checkOrder(h.Name, number, h.Size); err != nil {
		return Chunk{}, err
	}
	off := x.off + (number-x.last-1)*chunkSize
	end := off + h.Size
	switch {
	case end > x.disk.Size || h.Size == 0 && end == x.disk.Size:
		return Chunk{}, x.malformed(h.Name, "it is beyond the end of the disk, which has %d bytes", x.disk.Size)
	case h.Size > 0 && h.Size < chunkSize && end != x.disk.Size:
		return Chunk{}, x.malformed(h.Name, "it has %d bytes, and only the last chunk of a disk may be shorter than 1 MiB", h.Size)
	}
	b := x.room(h.Size)
	if _, err := io.ReadFull(x.tar, b); err != nil {
		return Chunk{}, x.broken(h.Name, err)
	}
	x.last, x.off = number, end
	if err := x.verify(h.Name, b); err != nil {
		return Chunk{}, x.of(x.disk, err, fmt.Sprintf("bytes %d to %d are lost", off, end-1))
	}
	return Chunk{x.disk, off, b}, nil
}

// room is n bytes that the next call overwrites; n was checked.
func (x *Reader) room(n int64) []byte {
	if int64(len(x.buf)) < n {
		x.buf = make([]byte, n)
	}
	return x.buf[:n]
}

func (x *Reader) checkOrder(name string, number, size int64) error {
	switch {
	case number == x.last:
		return x.malformed(name, "the chunk is there twice")
	case number < x.last:
		return x.malformed(name, "it comes after chunk %d: chunks are to be in order", x.last)
	case x.last < 0 && (number != 0 || size == 0):
		return x.malformed(name, "the disk does not begin with chunk 0, which is always there")
	}
	return nil
}

// verify reads the checksum that follows a chunk, and compares.
func (x *Reader) verify(name string, b []byte) error {
	h, err := x.tar.Next()
	if err != nil {
		return x.broken(name, err)
	}
	want, ok := sumFor(h, name, b)
	if !ok {
		return x.malformed(name, "its checksum does not follow, but %q", h.Name)
	}
	if h.Size > maxChecksum {
		return x.malformed(h.Name, "it has %d bytes: that is no checksum", h.Size)
	}
	got := make([]byte, h.Size)
	if _, err := io.ReadFull(x.tar, got); err != nil {
		return x.broken(h.Name, err)
	}
	if !strings.EqualFold(string(got), want) {
		return x.malformed(name, "wrong checksum: the data has %s, %s says %q", want, h.Name, got)
	}
	return nil
}

// sumFor is the checksum that b should have by the member h; false if h is not the
// checksum of the chunk of that name.
func sumFor(h *tar.Header, name string, b []byte) (sum string, ok bool) {
	switch {
	case h.Typeflag == tar.TypeReg && h.Name == name+xxhashSuffix:
		return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, xxhash.Sum64(b))), true
	case h.Typeflag == tar.TypeReg && h.Name == name+sha1Suffix:
		sum := sha1.Sum(b) //nolint:gosec // see above
		return hex.EncodeToString(sum[:]), true
	}
	return "", false
}

// end sees that nothing is missing and nothing follows. Reading on to the very end
// has a decompressor verify its own checksums.
func (x *Reader) end() error {
	if err := x.finish(); err != nil {
		return err
	}
	for _, d := range x.vm.Disks {
		if d.attached && !x.seen[d.ID] {
			return x.of(&d, x.malformed("", "the disk %s is missing: the archive is cut off, or it holds no disks", d.ID), "")
		}
	}
	b := x.room(32 << 10)
	for n := 0; n <= maxPadding; {
		got, err := x.archive.Read(b)
		if len(bytes.Trim(b[:got], "\x00")) > 0 {
			break
		}
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return x.broken("", err)
		}
		n += got
	}
	return x.malformed("", "more follows after the end of the archive")
}
