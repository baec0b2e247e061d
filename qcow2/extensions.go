package qcow2

import (
	"encoding/binary"
	"io"
)

// Extension is a header extension, known or not.
type Extension struct {
	Type   uint32
	Offset int64  // of the data, bytes from the start of the file
	Length uint32 // of the data, bytes, without padding
}

// readExtensions reads all extensions and decodes the known ones. They end with
// an end mark, at the backing file's name or with cluster 0.
func (h *Header) readExtensions(r io.ReaderAt) error {
	end := h.ClusterSize()
	if h.BackingFileOffset != 0 {
		end = h.BackingFileOffset
	}
	for off := int64(h.HeaderLength); off < end; {
		e, err := readExtension(r, off, end)
		if err != nil || e.Type == ExtensionEnd {
			return err
		}
		if err := h.addExtension(r, e); err != nil {
			return err
		}
		off = e.Offset + (int64(e.Length)+extAlign-1)/extAlign*extAlign
	}
	return nil
}

// readExtension reads type and length of the extension at off.
func readExtension(r io.ReaderAt, off, end int64) (Extension, error) {
	var b [extHeaderLen]byte
	if end-off < extHeaderLen {
		return Extension{}, malformed(off, "header extension", "no room for it")
	}
	if err := readFull(r, b[:], off, "header extension"); err != nil {
		return Extension{}, err
	}
	e := Extension{
		Type:   binary.BigEndian.Uint32(b[:]),
		Length: binary.BigEndian.Uint32(b[offExtLength:]),
		Offset: off + extHeaderLen,
	}
	if int64(e.Length) > end-e.Offset {
		return Extension{}, malformed(off+offExtLength, "header extension", "longer than the room for it")
	}
	return e, nil
}

// addExtension decodes e and appends it to h.Extensions.
func (h *Header) addExtension(r io.ReaderAt, e Extension) error {
	decode := h.decoder(e.Type)
	if decode != nil && h.hasExtension(e.Type) {
		return malformed(e.Offset-extHeaderLen, "header extension", "a second one of its type")
	}
	if len(h.Extensions) == maxExtensions {
		return malformed(e.Offset-extHeaderLen, "header extension", "more than 256 of them")
	}
	h.Extensions = append(h.Extensions, e)
	if decode == nil {
		return nil
	}
	return decode(r, e)
}

// decoder is nil for types that are only listed.
func (h *Header) decoder(typ uint32) func(io.ReaderAt, Extension) error {
	switch typ {
	case ExtensionBackingFormat:
		return h.decodeBackingFormat
	case ExtensionBitmaps:
		return h.decodeBitmaps
	case ExtensionCrypt:
		return h.decodeCrypt
	case ExtensionDataFile:
		return h.decodeDataFile
	}
	return nil
}

func (h *Header) hasExtension(typ uint32) bool {
	for _, e := range h.Extensions {
		if e.Type == typ {
			return true
		}
	}
	return false
}

func (h *Header) decodeBackingFormat(r io.ReaderAt, e Extension) (err error) {
	if e.Length > maxBackingFormat {
		return malformed(e.Offset, "backing format", "longer than 15")
	}
	h.BackingFormat, err = readString(r, e.Offset, e.Length, "backing format")
	return err
}

func (h *Header) decodeDataFile(r io.ReaderAt, e Extension) (err error) {
	if e.Length > maxDataFileName {
		return malformed(e.Offset, "data file name", "longer than 4095")
	}
	h.DataFile, err = readString(r, e.Offset, e.Length, "data file name")
	return err
}

// decodeBitmaps takes the fields only if the bitmaps are valid: without its
// autoclear bit the extension may say anything.
func (h *Header) decodeBitmaps(r io.ReaderAt, e Extension) error {
	var b [bitmapsLen]byte
	if e.Length != bitmapsLen {
		return malformed(e.Offset, "bitmaps", "length is not 24")
	}
	if h.Autoclear&autoclearBitmaps == 0 {
		return nil
	}
	if err := readFull(r, b[:], e.Offset, "bitmaps"); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(b[offBitmapsReserved:]) != 0 {
		return malformed(e.Offset+offBitmapsReserved, "bitmaps", "reserved bytes are not 0")
	}
	h.Bitmaps = binary.BigEndian.Uint32(b[:])
	h.BitmapDirectorySize = int64(binary.BigEndian.Uint64(b[offBitmapsDirSize:]))
	h.BitmapDirectoryOffset = int64(binary.BigEndian.Uint64(b[offBitmapsDirOffset:]))
	if h.Bitmaps == 0 || h.Bitmaps > maxBitmaps {
		return malformed(e.Offset, "nb_bitmaps", "not in 1..65535")
	}
	if h.BitmapDirectorySize < int64(h.Bitmaps)*minBitmapEntryLen {
		return malformed(e.Offset+offBitmapsDirSize, "bitmap_directory_size", "too small for the bitmaps")
	}
	return nil
}

func (h *Header) decodeCrypt(r io.ReaderAt, e Extension) error {
	var b [cryptLen]byte
	if h.CryptMethod != CryptLUKS {
		return malformed(e.Offset, "encryption header", "present without LUKS")
	}
	if e.Length != cryptLen {
		return malformed(e.Offset, "encryption header", "length is not 16")
	}
	if err := readFull(r, b[:], e.Offset, "encryption header"); err != nil {
		return err
	}
	h.CryptHeaderOffset = int64(binary.BigEndian.Uint64(b[:]))
	h.CryptHeaderLength = int64(binary.BigEndian.Uint64(b[offCryptLength:]))
	if h.CryptHeaderLength < minCryptHeader {
		return malformed(e.Offset+offCryptLength, "encryption header", "shorter than 592")
	}
	return nil
}

// checkExtensions tests what the extensions say against the fixed header and
// a file of size bytes.
func (h *Header) checkExtensions(size int64) error {
	if h.Autoclear&autoclearBitmaps != 0 && h.Bitmaps == 0 {
		return malformed(offAutoclear, "autoclear_features", "bitmaps bit without bitmaps extension")
	}
	if h.CryptMethod == CryptLUKS && !h.hasExtension(ExtensionCrypt) {
		return malformed(offCryptMethod, "crypt_method", "LUKS without encryption header")
	}
	for _, e := range h.Extensions {
		t := h.areaOf(e)
		if err := t.check(h.ClusterSize()); err != nil {
			return err
		}
		if err := t.checkWithin(size); err != nil {
			return err
		}
	}
	return nil
}

// areaOf is the part of the file that extension e points to; an empty one, which
// passes all checks, if it points to none.
func (h *Header) areaOf(e Extension) table {
	switch {
	case e.Type == ExtensionBitmaps && h.Bitmaps > 0:
		return table{"bitmap directory", e.Offset, h.BitmapDirectoryOffset,
			h.BitmapDirectorySize, 1, maxBitmapDirectory}
	case e.Type == ExtensionCrypt:
		return table{"encryption header", e.Offset, h.CryptHeaderOffset,
			h.CryptHeaderLength, 1, maxCryptHeader}
	}
	return table{}
}
