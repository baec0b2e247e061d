// Package vhd reads, writes, checks and repairs Microsoft's Virtual Hard Disk format,
// version 1.0 of the "Virtual Hard Disk Image Format Specification", with the additions
// of XenServer and XCP-ng (blktap): the batmap, the hidden flag, raw parents.
//
// # Reading
//
// An image is read from any io.ReaderAt. NewReader opens it, without its parent; Extents
// lists what it has itself. OpenDisk puts a chain together and reads it as the guest
// does:
//
//	top, err := vhd.NewReader(f, size)
//	…
//	disk, err := vhd.OpenDisk(top, func(name, format string) (vhd.Source, error) {
//		// open the parent, if its name may be followed
//	})
//	…
//	n, err := disk.ReadAt(b, off)
//
// No file is opened by this package, no name followed and no format guessed: all of that
// is up to the functions that the caller gives. A parent has to have the UUID that its
// child notes. An image of another format can be a layer as well; raw ones are here,
// qcow2 is in package qcow2.
//
// ReadInfo, ReadAllocated and ReadBlocks tell of an image without opening it.
// CheckReader looks for what is wrong with it.
//
// # Writing
//
// What is written to is a File: five methods, which *os.File has with OSFile. Create
// makes an image, Open opens one to be changed, and a Writer fills a new one.
// Disk.Commit merges children into their parent, and Check repairs. Names of parents are
// written relative to the directory of File's Name.
//
// At a crash, whenever it comes, an image holds its old data or its new data, sector by
// sector, wherever it was being written to.
//
// # Errors
//
// Three kinds are told apart, the same for all formats: ErrNotThisFormat (here
// ErrNotVHD), *FormatError (malformed) and *UnsupportedError. A *RefusedError says why
// something would not be safe. All others come from files, or say that an argument makes
// no sense.
//
// # Invariants
//
//   - an image that Open or NewReader returned has all its blocks within the file, none
//     of them over another one or over metadata;
//   - no field sizes an allocation or a loop before it has been checked;
//   - the sector bitmaps alone say what a block has: the batmap is a hint, which
//     is kept right and never believed;
//   - what changes in several places at once (footers, header, locators, tables
//     that move) goes through a record at the end of the file that is durable
//     before the first of them: a crash leaves all as it was or all as it is to be;
//   - an image has no goroutines and no locks: one call at a time.
package vhd

import (
	"fmt"
	"math"
)

// The footer ("Hard Disk Footer Format"), at the end of the file and, but for
// fixed disks, once more at its beginning. Big endian.
//
//	 0 cookie             8 features          12 file format version
//	16 data offset       24 time stamp        28 creator application
//	32 creator version   36 creator host OS   40 original size
//	48 current size      56 disk geometry     60 disk type
//	64 checksum          68 unique id         84 saved state
//	85 hidden (XenServer)                     86 reserved          512
const (
	footerCookie = "conectix"
	poisonCookie = "v_poison" // XenServer: a resize with a journal was interrupted

	offFeatures       = 8
	offVersion        = 12
	offDataOffset     = 16
	offTime           = 24
	offCreator        = 28
	offCreatorVersion = 32
	offCreatorHost    = 36
	offOriginalSize   = 40
	offCurrentSize    = 48
	offGeometry       = 56
	offType           = 60
	offChecksum       = 64
	offUUID           = 68
	offSaved          = 84
	offHidden         = 85
	offFooterReserved = 86
	footerLen         = 512
	shortFooterLen    = 511 // as versions before Virtual PC 2004 wrote it

	cookieLen     = 8
	features      = 2 // a reserved bit that is always set
	formatVersion = 0x00010000
	inUseByte     = 0xC7 // what a tapdisk fills the end footer with while it writes
)

// The dynamic disk header ("Dynamic Disk Header Format").
//
//	 0 cookie            8 data offset     16 table offset    24 header version
//	28 max table entries 32 block size     36 checksum        40 parent unique id
//	56 parent time stamp 60 reserved       64 parent name, UTF-16
//	576 eight parent locators              768 reserved       1024
const (
	headerCookie = "cxsparse"

	offHeaderNext      = 8
	offTable           = 16
	offHeaderVersion   = 24
	offMaxEntries      = 28
	offBlockSize       = 32
	offHeaderChecksum  = 36
	offParentUUID      = 40
	offParentTime      = 56
	offParentName      = 64
	parentNameLen      = 512
	offLocators        = 576
	locatorLen         = 24
	locatorCount       = 8
	offHeaderReserved  = 768
	headerLen          = 1024
	headerVersion      = 0x00010000
	noNext             = math.MaxUint64
	offLocatorSpace    = 4
	offLocatorLength   = 8
	offLocatorReserved = 12
	offLocatorData     = 16
)

// The batmap of XenServer, in the first sector after the table: a bit for each
// block, set if all sectors of the block are there.
//
//	0 cookie    8 offset of the map   16 its sectors   20 version   24 checksum
//	28 marker   29 key hash: 1 if the data is encrypted
const (
	batmapCookie       = "tdbatmap"
	offBatmapMap       = 8
	offBatmapSectors   = 16
	offBatmapVersion   = 20
	offBatmapChecksum  = 24
	offBatmapKeyHash   = 29
	batmapVersion      = 0x00010002
	batmapVersionSigns = 0x00010001 // its checksum took the bytes as signed
)

// Codes of parent locators ("Parent Locator Entries").
const (
	codeNone = 0
	codeMacX = 0x4D616358 // a file URL, UTF-8
	codeW2ku = 0x57326B75 // an absolute Windows path, UTF-16LE; XenServer: relative
	codeW2ru = 0x57327275 // a relative Windows path, UTF-16LE
)

// A Type is the type of a disk ("Disk Type").
type Type uint32

// The types in use.
const (
	Fixed        Type = 2
	Dynamic      Type = 3
	Differencing Type = 4
)

func (t Type) String() string {
	switch t {
	case Fixed:
		return "fixed"
	case Dynamic:
		return "dynamic"
	case Differencing:
		return "differencing"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// What XenServer writes as creator.
const (
	creatorTap        = 0x74617000 // "tap\0"
	creatorTapVersion = 0x00010003
)

// Limits. Bytes unless told otherwise.
const (
	sectorSize       = 512
	defaultBlockSize = 2 << 20
	minBlockSize     = sectorSize
	maxBlockSize     = 256 << 20
	maxSize          = 2040 << 30 // "Disk Geometry": no more can be addressed
	maxTableBytes    = 32 << 20   // ours: 4 MiB for the largest disk with usual blocks
	maxLocatorBytes  = 64 << 10   // ours: of one name
	unused           = math.MaxUint32
	dataAlign        = 4096 // XenServer: of the first data byte of a block
	headerStart      = 512  // where XenServer has the header, and
	tableStart       = 1536 // the table
)

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
