package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Header is what cluster 0 of an image says. Offsets and sizes are bytes,
// offsets count from the start of the file.
type Header struct {
	Version     uint32 // 2 or 3
	ClusterBits uint32 // 9..21
	Size        int64  // of the virtual disk, a multiple of 512
	oddSize     int64  // what the file says, if that is no multiple of 512

	// BackingFile is the name as stored, "" for none. It is not trustworthy:
	// whoever wrote the image chose it.
	BackingFile       string
	BackingFormat     string // "" if the image does not tell
	BackingFileOffset int64  // 0 for no backing file
	BackingFileLength uint32 // without meaning if the offset is 0

	CryptMethod       uint32 // CryptNone, CryptAES or CryptLUKS
	CryptHeaderOffset int64  // of the LUKS header, else 0
	CryptHeaderLength int64

	L1Size                uint32 // entries
	L1TableOffset         int64
	RefcountTableOffset   int64
	RefcountTableClusters uint32
	RefcountOrder         uint32 // a refcount has 1<<RefcountOrder bits
	Snapshots             uint32 // internal ones
	SnapshotsOffset       int64

	Incompatible, Compatible, Autoclear uint64 // feature bits

	HeaderLength    uint32 // 72 in version 2
	CompressionType uint8  // CompressionZlib or CompressionZstd

	// DataFile is the name as stored, "" for none; see BackingFile. An image
	// can have a data file without naming it: see HasDataFile.
	DataFile string

	// Bitmaps counts the persistent bitmaps that are valid. Stale ones, which a
	// program without bitmap support left behind, are not counted: QEMU drops
	// them.
	Bitmaps               uint32
	BitmapDirectoryOffset int64
	BitmapDirectorySize   int64

	Extensions []Extension // in the order of the file, without the end mark
}

// Dirty tells that refcounts may be wrong; the data is not affected.
func (h Header) Dirty() bool { return h.Incompatible&incompatDirty != 0 }

// Corrupt tells that a program found the image corrupt and gave up writing.
func (h Header) Corrupt() bool { return h.Incompatible&incompatCorrupt != 0 }

// HasDataFile tells that guest data is in another file.
func (h Header) HasDataFile() bool { return h.Incompatible&incompatDataFile != 0 }

// DataFileRaw tells that the data file alone is the whole disk.
func (h Header) DataFileRaw() bool { return h.Autoclear&autoclearDataFileRaw != 0 }

// ExtendedL2 tells that L2 entries have 128 bits and clusters subclusters.
func (h Header) ExtendedL2() bool { return h.Incompatible&incompatExtendedL2 != 0 }

// LazyRefcounts tells that writers may set Dirty instead of updating refcounts.
func (h Header) LazyRefcounts() bool { return h.Compatible&compatLazyRefcounts != 0 }

// HasBitmaps tells that there are valid persistent bitmaps.
func (h Header) HasBitmaps() bool { return h.Bitmaps > 0 }

// Encrypted tells that guest data is encrypted, by whatever method.
func (h Header) Encrypted() bool { return h.CryptMethod != CryptNone }

// ClusterSize is in bytes.
func (h Header) ClusterSize() int64 { return 1 << h.ClusterBits }

// Probe tells whether r starts with the magic. A guest can write the magic into
// a raw disk: only ask where the format is known to be an image format.
func Probe(r io.ReaderAt) (bool, error) {
	var b [4]byte
	n, err := r.ReadAt(b[:], 0)
	if n == len(b) || errors.Is(err, io.EOF) {
		return n == len(b) && binary.BigEndian.Uint32(b[:]) == magic, nil
	}
	return false, err
}

// ReadHeader reads the header of an image whose file has size bytes. It returns
// ErrNotQcow2, a *FormatError, an *UnsupportedError or an error of r.
//
// While a guest runs, QEMU may grow the file and switch to tables beyond the
// size that the caller saw: take the size again before believing that a table
// is outside the file.
func ReadHeader(r io.ReaderAt, size int64) (Header, error) {
	size = max(size, 0)
	r = io.NewSectionReader(r, 0, size)
	var b [headerLen]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	if binary.BigEndian.Uint32(b[offMagic:]) != magic {
		return Header{}, ErrNotQcow2
	}
	if n < headerLen {
		return Header{}, malformed(int64(n), "header", "the file ends here")
	}
	h, err := decodeHeader(&b)
	if err != nil {
		return Header{}, err
	}
	if err := h.readRest(r, size); err != nil {
		return Header{}, err
	}
	return h, nil
}

// readRest completes h with what is outside the fixed header.
func (h *Header) readRest(r io.ReaderAt, size int64) error {
	for _, t := range h.tables() {
		if err := t.checkWithin(size); err != nil {
			return err
		}
	}
	if err := h.readExtensions(r); err != nil {
		return err
	}
	if err := h.checkExtensions(size); err != nil {
		return err
	}
	return h.readBackingFile(r)
}

// decodeHeader checks each field of the fixed header as far as that is possible
// without knowing the file.
func decodeHeader(b *[headerLen]byte) (Header, error) {
	be := binary.BigEndian
	if be.Uint32(b[offMagic:]) != magic {
		return Header{}, ErrNotQcow2
	}
	h := Header{
		Version:               be.Uint32(b[offVersion:]),
		BackingFileOffset:     int64(be.Uint64(b[offBackingOffset:])),
		BackingFileLength:     be.Uint32(b[offBackingLength:]),
		ClusterBits:           be.Uint32(b[offClusterBits:]),
		Size:                  int64(be.Uint64(b[offSize:])),
		CryptMethod:           be.Uint32(b[offCryptMethod:]),
		L1Size:                be.Uint32(b[offL1Size:]),
		L1TableOffset:         int64(be.Uint64(b[offL1Table:])),
		RefcountTableOffset:   int64(be.Uint64(b[offRefcountTable:])),
		RefcountTableClusters: be.Uint32(b[offRefcountClusters:]),
		Snapshots:             be.Uint32(b[offSnapshots:]),
		SnapshotsOffset:       int64(be.Uint64(b[offSnapshotsTable:])),
		RefcountOrder:         defaultRefcountOrder,
		HeaderLength:          headerLenV2,
	}
	h.roundSize()
	if h.Version == 3 {
		h.decodeV3(b)
	}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

// roundSize takes a size that is no multiple of 512 for the next one that is, as for a raw
// disk. QEMU rounds it down, and so hides the end of the disk.
func (h *Header) roundSize() {
	if h.Size > 0 && h.Size%sectorSize != 0 && h.Size <= math.MaxInt64-sectorSize {
		h.oddSize, h.Size = h.Size, roundUp(h.Size, sectorSize)
	}
}

// storedSize is what the file is to say: an odd size stays while the disk has it.
func (h *Header) storedSize() int64 {
	if h.oddSize != 0 && roundUp(h.oddSize, sectorSize) == h.Size {
		return h.oddSize
	}
	return h.Size
}

func (h *Header) decodeV3(b *[headerLen]byte) {
	be := binary.BigEndian
	h.Incompatible = be.Uint64(b[offIncompatible:])
	h.Compatible = be.Uint64(b[offCompatible:])
	h.Autoclear = be.Uint64(b[offAutoclear:])
	h.RefcountOrder = be.Uint32(b[offRefcountOrder:])
	h.HeaderLength = be.Uint32(b[offHeaderLength:])
	if h.HeaderLength > offCompressionType {
		h.CompressionType = b[offCompressionType]
	}
}

// encode is the inverse of decodeHeader. Bytes that the version or the header
// length do not cover are left alone: extensions start there.
func (h *Header) encode(b *[headerLen]byte) {
	be := binary.BigEndian
	be.PutUint32(b[offMagic:], magic)
	be.PutUint32(b[offVersion:], h.Version)
	be.PutUint64(b[offBackingOffset:], uint64(h.BackingFileOffset))
	be.PutUint32(b[offBackingLength:], h.BackingFileLength)
	be.PutUint32(b[offClusterBits:], h.ClusterBits)
	be.PutUint64(b[offSize:], uint64(h.storedSize()))
	be.PutUint32(b[offCryptMethod:], h.CryptMethod)
	be.PutUint32(b[offL1Size:], h.L1Size)
	be.PutUint64(b[offL1Table:], uint64(h.L1TableOffset))
	be.PutUint64(b[offRefcountTable:], uint64(h.RefcountTableOffset))
	be.PutUint32(b[offRefcountClusters:], h.RefcountTableClusters)
	be.PutUint32(b[offSnapshots:], h.Snapshots)
	be.PutUint64(b[offSnapshotsTable:], uint64(h.SnapshotsOffset))
	if h.Version == 3 {
		h.encodeV3(b)
	}
}

func (h *Header) encodeV3(b *[headerLen]byte) {
	be := binary.BigEndian
	be.PutUint64(b[offIncompatible:], h.Incompatible)
	be.PutUint64(b[offCompatible:], h.Compatible)
	be.PutUint64(b[offAutoclear:], h.Autoclear)
	be.PutUint32(b[offRefcountOrder:], h.RefcountOrder)
	be.PutUint32(b[offHeaderLength:], h.HeaderLength)
	if h.HeaderLength > offCompressionType {
		b[offCompressionType] = h.CompressionType
	}
}

// readBackingFile reads the name. QEMU takes a name of length 0 for none.
func (h *Header) readBackingFile(r io.ReaderAt) error {
	if h.BackingFileOffset == 0 {
		return nil
	}
	name, err := readString(r, h.BackingFileOffset, h.BackingFileLength, "backing_file")
	h.BackingFile = name
	return err
}

// readString reads a name whose length has been checked. A NUL would end the
// name for QEMU, but not for others: no honest writer puts one there.
func readString(r io.ReaderAt, off int64, length uint32, field string) (string, error) {
	b := make([]byte, length)
	if err := readFull(r, b, off, field); err != nil {
		return "", err
	}
	if i := strings.IndexByte(string(b), 0); i >= 0 {
		return "", malformed(off+int64(i), field, "NUL in a name")
	}
	return string(b), nil
}

// readFull takes a file that ends too early for malformed.
func readFull(r io.ReaderAt, b []byte, off int64, field string) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return malformed(off+int64(n), field, "the file ends here")
	}
	return fmt.Errorf("qcow2: read %s at offset %d: %w", field, off, err)
}
