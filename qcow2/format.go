// Package qcow2 reads, writes, checks and repairs QEMU's copy-on-write image format,
// versions 2 and 3, as QEMU docs/interop/qcow2 specifies it.
//
// # Reading
//
// An image is read from any io.ReaderAt. NewReader opens it, without what it builds on;
// Extents lists what it has itself. OpenDisk puts a chain together and reads it as the
// guest does:
//
//	top, err := qcow2.NewReader(f, size, nil)
//	…
//	disk, err := qcow2.OpenDisk(top, func(name, format string) (qcow2.Source, error) {
//		// open the backing file, if its name may be followed
//	})
//	…
//	n, err := disk.ReadAt(b, off)
//
// No file is opened by this package, no name followed and no format guessed: all of
// that is up to the functions that the caller gives. An image of another format can be
// a layer as well; raw ones are here, VHDs in package vhd.
//
// ReadHeader, ReadSnapshots, ReadBitmaps and ReadLUKS tell of an image without opening
// it. CheckReader looks for what is wrong with it. Image.At is an internal snapshot, to be
// read as an image, and Image.MemoryAt the memory that it holds.
//
// # Writing
//
// What is written to is a File: five methods, which *os.File has with OSFile. Create
// makes an image, Open opens one to be changed, and a Writer fills a new one.
// Disk.Commit merges overlays into their base, and Check repairs. Compact gives back what
// an image has no use for, and keeps its internal snapshots; CompactTo writes it anew.
//
// At a crash, whenever it comes, an image holds its old data or its new data, wherever
// it was being written to. It may lose space until a check gives that back.
//
// # Errors
//
// Three kinds are told apart, the same for all formats: ErrNotThisFormat (here
// ErrNotQcow2), *FormatError (malformed) and *UnsupportedError. A *RefusedError says why
// something would not be safe. All others come from files, or say that an argument makes
// no sense.
//
// # Invariants
//
//   - a Header that ReadHeader returned is within QEMU's limits, and the tables
//     that it names lie within the file, cluster-aligned and outside cluster 0;
//   - no field sizes an allocation or a loop before it has been checked;
//   - nothing of an image is changed before its whole structure was verified, but by a
//     repair and by SetBacking;
//   - an Image has no goroutines and no locks: one call at a time.
package qcow2

// The fixed header ("Header"; fields from 72 on exist in version 3 only, those
// from 104 on only as far as header_length reaches). Big endian.
//
//	  0 magic                     4 version                 8 backing_file_offset
//	 16 backing_file_size        20 cluster_bits           24 size
//	 32 crypt_method             36 l1_size                40 l1_table_offset
//	 48 refcount_table_offset    56 refcount_table_clusters
//	 60 nb_snapshots             64 snapshots_offset
//	 72 incompatible_features    80 compatible_features    88 autoclear_features
//	 96 refcount_order          100 header_length
//	104 compression_type        105 padding               112
const (
	magic = 0x514649fb // "QFI\xfb"

	offMagic             = 0
	offVersion           = 4
	offBackingOffset     = 8
	offBackingLength     = 16
	offClusterBits       = 20
	offSize              = 24
	offCryptMethod       = 32
	offL1Size            = 36
	offL1Table           = 40
	offRefcountTable     = 48
	offRefcountClusters  = 56
	offSnapshots         = 60
	offSnapshotsTable    = 64
	offIncompatible      = 72
	offCompatible        = 80
	offAutoclear         = 88
	offRefcountOrder     = 96
	offHeaderLength      = 100
	offCompressionType   = 104
	headerLen            = 112 // all fields known here, padding included
	headerLenV2          = 72
	minHeaderLenV3       = 104
	defaultRefcountOrder = 4 // version 2: 16 bits
)

// Feature bits ("Header", bytes 72 to 95).
const (
	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = 1<<5 - 1

	compatLazyRefcounts = 1 << 0

	autoclearBitmaps     = 1 << 0
	autoclearDataFileRaw = 1 << 1
)

// Values of crypt_method and compression_type.
const (
	CryptNone = 0
	CryptAES  = 1
	CryptLUKS = 2

	CompressionZlib = 0
	CompressionZstd = 1
)

// Types of header extensions ("Header extensions").
const (
	ExtensionEnd           = 0
	ExtensionBackingFormat = 0xe2792aca
	ExtensionFeatureNames  = 0x6803f857
	ExtensionBitmaps       = 0x23852875
	ExtensionCrypt         = 0x0537be77
	ExtensionDataFile      = 0x44415441
)

// An extension: type, length, data, padding to a multiple of 8.
//
//	0 type    4 length    8 data
const (
	offExtLength  = 4
	extHeaderLen  = 8
	extAlign      = 8
	maxExtensions = 256 // ours; QEMU writes at most six
)

// The bitmaps extension ("Bitmaps extension").
//
//	0 nb_bitmaps    4 reserved    8 bitmap_directory_size    16 bitmap_directory_offset
const (
	offBitmapsReserved  = 4
	offBitmapsDirSize   = 8
	offBitmapsDirOffset = 16
	bitmapsLen          = 24
)

// The encryption extension ("Full disk encryption header pointer").
//
//	0 offset    8 length
const (
	offCryptLength = 8
	cryptLen       = 16
)

// Limits of QEMU block/qcow2.h; bytes unless told otherwise.
const (
	minClusterBits           = 9
	maxClusterBits           = 21
	minClusterBitsExtendedL2 = 14
	maxRefcountOrder         = 6
	maxL1Bytes               = 32 << 20
	maxRefcountTableBytes    = 8 << 20
	maxSnapshots             = 65536
	minSnapshotLen           = 40 // fixed part of a snapshot table entry
	maxBackingName           = 1023
	maxBackingFormat         = 15
	maxDataFileName          = 4095 // PATH_MAX without its NUL; QEMU: one cluster
	maxBitmaps               = 65535
	maxBitmapDirectory       = 1024 * maxBitmaps
	minBitmapEntryLen        = 24       // fixed part of a bitmap directory entry
	minCryptHeader           = 592      // LUKS partition header
	maxCryptHeader           = 64 << 20 // ours; 2 MiB as QEMU writes it

	sectorSize     = 512
	l1EntryLen     = 8
	l2EntryBits    = 3 // log2 of the length of an L2 entry
	extL2EntryBits = 4 // the same with extended L2 entries
)
