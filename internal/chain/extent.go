package chain

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Kind says what a layer has at a place of its disk.
type Kind uint8

// The kinds of extents.
const (
	Hole       Kind = iota // nothing: the layer below shows through
	Zero                   // zeros, whatever is below
	Data                   // bytes as they are, in the image's host file
	Compressed             // bytes that only ReadAt can get
)

func (k Kind) String() string {
	switch k {
	case Hole:
		return "hole"
	case Zero:
		return "zero"
	case Data:
		return "data"
	case Compressed:
		return "compressed"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// NoHost is the Host of an extent that has no place in the host file.
const NoHost = -1

// An Extent is a stretch of a layer's disk that is of one kind. Bytes.
type Extent struct {
	Offset, Length int64 // as the guest sees it
	Kind           Kind
	Host           int64 // Data: where the bytes are in the host file. Zero: where room is kept for them, or NoHost
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Cut returns the part of e before end.
func (e Extent) Cut(end int64) Extent {
	e.Length = min(e.Length, end-e.Offset)
	return e
}

// A Source is one open image, without what is below it. It is not safe for
// concurrent use, but for Host.
type Source interface {
	// Image is what the image says of itself.
	Image() Image
	// Extent returns the extent that begins at off and ends at end at the
	// latest: as long as it can be told without much reading, but possibly
	// shorter than it is. 0 ≤ off < end ≤ the virtual size.
	Extent(off, end int64) (Extent, error)
	// ReadAt fills p with what the layer itself has at off; holes and what is
	// beyond the virtual size are zeros.
	ReadAt(p []byte, off int64) (int, error)
	// Host is the file that Extent.Host refers to. What has nothing but Hole, Zero and
	// Compressed may return nil.
	Host() vfs.Plain
	// Close closes all files.
	Close() error
}

// hostOf is the host file with all that the engine asks of one.
func hostOf(l Source) vfs.File { return vfs.Full(l.Host()) }

// pathOf names a layer in messages.
func pathOf(l Source) string { return hostOf(l).Path() }

// A Piece is a stretch of a disk that a Target is to hold. Bytes.
type Piece struct {
	Offset, Length int64 // as the guest sees it
	Host           int64 // where its bytes go in the Target's host file
}

// A Target is an image that is written to. Nothing that is placed can be seen
// in the image before Flush; a crash before leaves the image as it was, but for
// space that is lost until a check gets it back. Several rounds of Place and Flush
// may follow each other.
type Target interface {
	Source
	// Granule is the unit of Place and Zero in bytes, a power of two: pieces
	// begin and end at multiples of it, or end where the disk ends.
	Granule() int64
	// Prepare gets the image ready to be written: it verifies the structure,
	// refuses what cannot be changed without loss, and takes back what a
	// program that does not know better must take back. Cancelling is up to the caller.
	Prepare() error
	// Reserve sees to it that so many bytes in so many pieces will find room, as
	// far as the file system can promise. It returns an error that wraps
	// syscall.ENOSPC.
	Reserve(bytes int64, pieces int) error
	// Relocate says that data copied to a new place in a row costs less than data
	// copied over what is there, as it is with shared extents.
	Relocate(yes bool)
	// Place finds room for the pieces, which are in the order in which they will
	// be written and do not overlap. It fills in Host, and splits pieces whose
	// bytes do not follow each other. Data that was there may be overwritten.
	Place(pieces []Piece) ([]Piece, error)
	// Zero makes [off, off+n) read as zeros.
	Zero(off, n int64) error
	// Flush makes what was placed and zeroed durable and visible, in this order.
	Flush() error
	// Resize sets the virtual size, durably. What is beyond the end is given up.
	// What is new reads as zeros before byte below, as holes after.
	Resize(size, below int64) error
	// SetBacking names another backing image, durably and at once: a crash
	// leaves the old name or the new one. No name makes it a base.
	SetBacking(name, format string) error
}

// A Packed extent is one compressed cluster as it is stored.
type Packed struct {
	Offset int64  // of the cluster, as the guest sees it
	Method string // equal methods can be unpacked by each other, as in "zlib/65536"
	Bytes  []byte
}

// A PackedSource can hand out compressed clusters without unpacking them.
type PackedSource interface {
	// Packed returns the cluster at the start of a Compressed extent.
	Packed(off int64) (Packed, error)
}

// A PackedTarget can take such clusters.
type PackedTarget interface {
	Target
	// Method is what Packed.Method must be.
	Method() string
	// PutPacked stores a cluster; it is visible after Flush.
	PutPacked(p Packed) error
}
