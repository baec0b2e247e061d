package vhd

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// A UUID is the identity of a disk, in the order of the file.
type UUID [16]byte

func (u UUID) String() string {
	text := make([]byte, 0, 36)
	for i, part := range [][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}

// IsZero tells that there is none: so a differencing disk names a raw parent.
func (u UUID) IsZero() bool { return u == UUID{} }

// parseUUID is the inverse of String.
func parseUUID(text string) (u UUID, err error) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return u, fmt.Errorf("vhd: %q is not a UUID", text)
	}
	_, err = hex.Decode(u[:], []byte(text[:8]+text[9:13]+text[14:18]+text[19:23]+text[24:]))
	return u, err
}

// epoch is when the time stamps of VHD begin, in seconds of Unix.
const epoch = 946684800

// A footer is what the 512 bytes at the end say. Sizes are bytes.
type footer struct {
	features       uint32
	dataOffset     int64 // of the header, or -1 in a fixed disk
	stamp          uint32
	creator        uint32
	creatorVersion uint32
	creatorHost    uint32
	originalSize   int64
	size           int64
	geometry       uint32
	kind           Type
	uuid           UUID
	saved          byte
	hidden         byte
	reserved       [footerLen - offFooterReserved]byte
}

func (f *footer) created() time.Time { return time.Unix(epoch+int64(f.stamp), 0).UTC() }

// oldTap are the versions of XenServer's tools that set the hidden flag without
// making the checksum anew, and looked for it in the copy at 0 only.
func (f *footer) oldTap() bool {
	return f.creator>>8 == creatorTap>>8 && (f.creatorVersion == 0x00000001 || f.creatorVersion == 0x00010001)
}

// checksum is the one's complement of the sum of all bytes but those of the field.
func checksum(b []byte, field int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < field || i >= field+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// decodeFooter checks each field that it decodes; at is where it was found. It
// returns ErrNotVHD, a *FormatError or an *UnsupportedError.
func decodeFooter(b *[footerLen]byte, at int64) (footer, error) {
	be := binary.BigEndian
	switch string(b[:cookieLen]) {
	case footerCookie:
	case poisonCookie:
		return footer{}, errPoisoned
	default:
		return footer{}, ErrNotVHD
	}
	f := footer{
		features: be.Uint32(b[offFeatures:]), dataOffset: int64(be.Uint64(b[offDataOffset:])),
		stamp: be.Uint32(b[offTime:]), creator: be.Uint32(b[offCreator:]),
		creatorVersion: be.Uint32(b[offCreatorVersion:]), creatorHost: be.Uint32(b[offCreatorHost:]),
		originalSize: int64(be.Uint64(b[offOriginalSize:])), size: int64(be.Uint64(b[offCurrentSize:])),
		geometry: be.Uint32(b[offGeometry:]), kind: Type(be.Uint32(b[offType:])),
		uuid: UUID(b[offUUID:]), saved: b[offSaved], hidden: b[offHidden],
	}
	copy(f.reserved[:], b[offFooterReserved:])
	if !f.checksumIs(b, be.Uint32(b[offChecksum:])) {
		return footer{}, malformed(at+offChecksum, "footer checksum", "does not match: the footer is damaged")
	}
	return f, f.check(be.Uint32(b[offVersion:]), at)
}

var errPoisoned = unsupported("a resize of the image was interrupted (v_poison): undo it with the tools and the journal of the XenServer host")

func (f *footer) checksumIs(b *[footerLen]byte, want uint32) bool {
	if checksum(b[:], offChecksum) == want {
		return true
	}
	without := *b
	without[offHidden] = 0
	return f.hidden != 0 && f.oldTap() && checksum(without[:], offChecksum) == want
}

func (f *footer) check(version uint32, at int64) error {
	switch {
	case version>>16 != formatVersion>>16:
		return unsupported(fmt.Sprintf("file format version %d.%d", version>>16, version&0xFFFF))
	case f.kind != Fixed && f.kind != Dynamic && f.kind != Differencing:
		return unsupported(fmt.Sprintf("disks of type %d", uint32(f.kind)))
	case f.creator == creatorTap && f.creatorVersion == 0x00000001 && f.kind != Fixed:
		return unsupported("bitmaps in the order of the first version of XenServer's tools (0.1)")
	case f.size < 0 || f.size > maxSize:
		return malformed(at+offCurrentSize, "current size", "more than 2040 GiB")
	case f.size%sectorSize != 0:
		return malformed(at+offCurrentSize, "current size", "not a multiple of 512")
	case f.kind != Fixed && (f.dataOffset < footerLen || f.dataOffset%sectorSize != 0):
		return malformed(at+offDataOffset, "data offset", "no place for the header")
	}
	return nil
}

// encode is the inverse of decodeFooter.
func (f *footer) encode() (b [footerLen]byte) {
	be := binary.BigEndian
	copy(b[:], footerCookie)
	be.PutUint32(b[offFeatures:], f.features)
	be.PutUint32(b[offVersion:], formatVersion)
	be.PutUint64(b[offDataOffset:], uint64(f.dataOffset))
	be.PutUint32(b[offTime:], f.stamp)
	be.PutUint32(b[offCreator:], f.creator)
	be.PutUint32(b[offCreatorVersion:], f.creatorVersion)
	be.PutUint32(b[offCreatorHost:], f.creatorHost)
	be.PutUint64(b[offOriginalSize:], uint64(f.originalSize))
	be.PutUint64(b[offCurrentSize:], uint64(f.size))
	be.PutUint32(b[offGeometry:], f.geometry)
	be.PutUint32(b[offType:], uint32(f.kind))
	copy(b[offUUID:], f.uuid[:])
	b[offSaved], b[offHidden] = f.saved, f.hidden
	copy(b[offFooterReserved:], f.reserved[:])
	be.PutUint32(b[offChecksum:], checksum(b[:], offChecksum))
	return b
}

// geometry is cylinders, heads and sectors of a disk of so many bytes, rounded
// down ("Appendix: CHS Calculation").
func geometry(size int64) uint32 {
	const maxCylinders, maxHeads, maxSectors = 65535, 16, 255
	sectors := min(max(size/sectorSize, 1), maxCylinders*maxHeads*maxSectors)
	perTrack, heads := int64(17), int64(0)
	tracks := sectors / perTrack
	if sectors >= maxCylinders*maxHeads*63 {
		perTrack, heads = maxSectors, maxHeads
	} else {
		heads = max((tracks+1023)/1024, 4)
		if tracks >= heads*1024 || heads > maxHeads {
			perTrack, heads = 31, maxHeads
			tracks = sectors / perTrack
		}
		if tracks >= heads*1024 {
			perTrack, heads = 63, maxHeads
		}
	}
	return uint32(sectors/perTrack/heads)<<16 | uint32(heads)<<8 | uint32(perTrack)
}
