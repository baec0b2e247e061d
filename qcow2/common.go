package qcow2

import (
	"io"
	"iter"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// The types here are the same for all formats of this module: a vhd.Image is a
// Source too, and a chain can be of both.

// A File is what an image is written to: anything that has bytes.
//
//	ReadAt, WriteAt               as in io.ReaderAt and io.WriterAt; writing beyond the end grows the file
//	Size() (int64, error)         the length in bytes
//	Truncate(size int64) error    sets it; what is new reads as zeros
//	Sync() error                  puts all on stable storage; once it has failed, it fails for ever
//
// What else it has is used: Close; Name, in messages; Punch(off, n int64) error, which
// makes n bytes at off read as zeros and gives their space back; Reserve(off, n int64)
// error, which sees to it that they can be written. OSFile has all of that. There is
// one call at a time.
type File = vfs.Plain

// OSFile returns an open regular file or block device as a File that makes use of what
// the operating system can do: holes, room that is reserved, extents that are shared.
// Closing it closes f.
func OSFile(f *os.File) (File, error) { return vfs.OfOS(f) }

// A Source is one open image, without what is below it: Image, Extent, ReadAt, Host
// and Close. It is not safe for concurrent use. Anybody can implement one, as the
// backing file of an image in another format.
//
//	Image() Summary                               what the image says of itself
//	Extent(off, end int64) (Extent, error)        the extent that begins at off and ends at end at the latest; 0 ≤ off < end ≤ the virtual size
//	ReadAt(p []byte, off int64) (int, error)      what the layer itself has; holes, and what is beyond the end, are zeros
//	Host() File                                   the file that Extent.Host refers to; nil if there are only Hole, Zero and Compressed
//	Close() error                                 closes all files
type Source = chain.Source

// A Target is a Source that can be written to, in this order:
//
//	Prepare() error                              verifies the image, and refuses what cannot be changed without loss
//	Reserve(bytes int64, pieces int) error       sees to it that there will be room, as far as File can promise
//	Place(pieces []Piece) ([]Piece, error)       finds room for stretches of whole granules: the caller writes their bytes into Host at Piece.Host
//	Zero(off, n int64) error                     makes a stretch of whole granules read as zeros
//	Flush() error                                makes all of it durable, then visible
//
// Before Flush nothing can be seen of it in the image, after a crash neither. Granule
// is the unit in bytes; only the end of the disk may cut one. Relocate(true) says that
// a new place in a row is better than the one that data had. Resize(size, below int64)
// sets the virtual size, and SetBacking(name, format string) the backing file, both
// durably and at once; what Resize adds reads as zeros before byte below, as holes after.
//
// A Writer does all of that for a new image.
type Target = chain.Target

// A Summary is what an image says of itself, whatever its format.
//
//	Format                 string  "qcow2", "vhd", "raw"
//	VirtualSize            int64   bytes that the guest sees
//	Backing, BackingFormat string  as in the header: not to be trusted; "" for none, or if it is not told
//	Snapshots, Bitmaps     int     internal snapshots, valid persistent bitmaps
//	Encrypted, DataFile    bool    guest data is encrypted, or in another file
//	Corrupt                bool    the program that last wrote the image has found it corrupt
//	Blank                  bool    it holds no guest data of its own; false if nobody has looked
//	ID, BackingID          string  its identity, and that of the image it was made on, where the format has them
type Summary = chain.Image

// An Extent is a stretch of an image that is of one kind, in bytes.
//
//	Offset, Length int64  as the guest sees it; End() is the first byte after it
//	Kind           Kind
//	Host           int64  Data: where the bytes are in the host file. Zero: where room is kept for them. Else NoHost
//
// Cut(end) is the part before end.
type Extent = chain.Extent

// A Kind says what an image has at a place of its disk: Hole, Zero, Data or Compressed.
type Kind = chain.Kind

// The kinds of extents.
const (
	Hole       = chain.Hole       // nothing: what is below shows through
	Zero       = chain.Zero       // zeros, whatever is below
	Data       = chain.Data       // bytes as they are, in the host file
	Compressed = chain.Compressed // bytes that only ReadAt can get
)

// NoHost is the Host of an extent without a place in the host file; NoLayer the Layer
// of a hole through all layers.
const (
	NoHost  = chain.NoHost
	NoLayer = chain.NoLayer
)

// A Found is an Extent of a Disk with the Layer that has it, counted from the base at 0,
// or NoLayer.
type Found = chain.Found

// A Piece is a stretch of a disk that a Target is to hold, in bytes: Offset and Length,
// as the guest sees it, and Host, where Place says that its bytes go in the host file.
type Piece = chain.Piece

// Extents goes through what one image has, without what is below it: each Extent begins
// where the one before ended, and may be of the same kind. After an error there is no more.
func Extents(image Source) iter.Seq2[Extent, error] { return chain.Extents(image) }

// NewRawReader is a raw disk of size bytes that is only to be read. A size that is not
// a multiple of 512 is rounded up, with zeros.
func NewRawReader(r io.ReaderAt, size int64) (Source, error) {
	raw, err := chain.OpenRaw(vfs.FullReader(r, size))
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// OpenRaw is a raw disk that is to be written to. Close closes f, if it is an io.Closer.
func OpenRaw(f File) (Target, error) {
	raw, err := chain.OpenRaw(f)
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// A Disk is an image with all that it builds on, read as what the guest sees.
//
//	Size() int64                                             in bytes
//	ReadAt(p []byte, off int64) (int, error)                 as io.ReaderAt has it; safe for concurrent use
//	Extents() iter.Seq2[Found, error]                        which layer has what, from the beginning to the end; neighbours may be alike
//	Layers() []Source                                        the images, base first
//	Commit(ctx, into int, done func(n int64)) error          merges all layers above the one of that number into it
//	Close() error                                            closes all layers
//
// Commit wants that layer to be opened by Open, and gives it the size of the top. Done,
// if it is not nil, is told of progress in bytes; it must not use the disk. A crash, an
// error, or the end of ctx leaves the whole chain reading as before, and the commit can
// be done again with the images opened anew. After it, the Disk is without the merged
// layers, and reads the same.
//
// What is around a Commit is up to the caller. Nobody else may have the images open.
// No other image may build on a merged layer, or on the one that they are merged into:
// it would read other data from then on. What built on the top has to be told before the
// merged files are removed: by Target.SetBacking or, for a VHD on a VHD, SetParent. And
// once something has written to the base, a commit that had come to its end must not be
// done again. virt-rotate itself has locks and a journal for these.
//
// A *RefusedError of Commit has changed nothing: the layer is not open for writing, or
// cannot be changed without loss, or one above it is corrupt or has bitmaps. Internal
// snapshots of merged layers do not get into the base.
type Disk = chain.Disk

// A BackingOpener opens the image that another one names as its backing file. It is a
// func(name, format string) (Source, error). Name and format are as the header has them,
// and so not to be trusted: it is up to the opener which names it follows, and to where.
// Format is "" if the header does not tell; do not guess it from the content, which a
// guest can have written.
//
// OpenDisk calls it for one layer after the other, from the top down, so that it can
// remember where the image was that a relative name is relative to.
type BackingOpener = chain.BackingOpener

// OpenDisk opens what top builds on down to the base, and nothing but what open opens;
// nil will do for an image without a backing file. The Disk takes over top and what open
// has returned. After an error top is still the caller's, and the others are closed.
//
// It is a *RefusedError if a backing file has another identity than the image above it
// was made on, a layer is encrypted, or there are more than 200 layers.
func OpenDisk(top Source, open BackingOpener) (*Disk, error) { return chain.OpenDisk(top, open) }

// A RefusedError says why something is not done that would not be safe: Path of the
// image, as far as File has a Name, and Reason. Nothing was changed.
type RefusedError = chain.RefusedError

// A Writer fills a new image from the beginning of the disk to its end. What is not
// written, and granules of nothing but zeros, take no space.
//
//	WriteAt(b []byte, off int64) (int, error)    off must not be before the end of what came last
//	Write(off int64, b []byte) error             the same
//	Flush() error                                all that came is durable and visible
//
// With io.NewOffsetWriter it is an io.Writer. A crash before Flush leaves the image
// valid, with a part of the data.
type Writer = chain.Sink

// NewWriter prepares an image that is empty. It stays the caller's to close.
func NewWriter(to Target) (*Writer, error) { return chain.NewSink(to) }
