// Package xva reads XVA files, which XenServer and XCP-ng write when a VM is exported
// ("xe vm-export"): a tar archive, possibly compressed by gzip or zstd, that is read
// once from beginning to end. The facts are those of the exporter and importer of xapi.
//
//	r, err := xva.NewReader(f) // any io.Reader; compression is told by itself
//	…
//	defer r.Close()
//	for {
//		c, err := r.Next()
//		if errors.Is(err, io.EOF) {
//			break // all disks of r.VM() were there to their last byte
//		}
//		…
//		// c.Data is what c.Disk has at c.Offset; what does not come is zeros
//	}
//
// A Writer of package qcow2 or vhd takes the chunks of a disk as they come.
//
// Three kinds of errors are told apart, the same for all formats: ErrNotThisFormat (here
// ErrNotXVA), *FormatError (malformed, or cut off) and *UnsupportedError. All others come
// from reading.
//
// Invariants:
//   - no byte of a disk is handed out before its checksum is right;
//   - chunks are handed out in order, none twice and none beyond the disk's end, and
//     io.EOF comes only after every disk was there to its last byte;
//   - no field sizes an allocation or a loop before it has been checked;
//   - names are compared, never used as paths;
//   - no goroutines, no locks.
package xva

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/imgerr"
)

// The archive:
//
//	ova.xml                  the VM, its disks and what they are attached to; first of all
//	Ref:4/00000000           the first MiB of the disk Ref:4 in ova.xml
//	Ref:4/00000000.xxhash    its checksum: xxHash64, or .checksum: SHA-1, in hex
//	Ref:4/00000003           chunks 1 and 2 are zeros
//	…                        one disk after the other; first and last chunk are always there
//
// An empty chunk is written while there is nothing to send, so that no firewall takes
// the connection for idle. It has a number and is no part of the disk: what follows is
// numbered one too high.
const (
	descriptor = "ova.xml"
	chunkSize  = 1 << 20

	xxhashSuffix = ".xxhash"
	sha1Suffix   = ".checksum"

	minDigits = 8
	maxNumber = 1 << 40 // in bytes still far from overflow

	maxDescriptor = 8 << 20
	maxChecksum   = 64      // bytes of a checksum's member
	maxPadding    = 1 << 20 // zeros after the end of the archive
	maxDiskSize   = 1 << 50
	sectorSize    = 512
)

// ErrNotThisFormat is what ErrNotXVA and its like of all formats are.
var ErrNotThisFormat = imgerr.ErrNotThisFormat

// ErrNotXVA says that the input is no export, compressed or not. It is an
// ErrNotThisFormat.
var ErrNotXVA = imgerr.Not("not an XVA: no tar archive that begins with " + descriptor)

// A FormatError says what is wrong with an export. For errors.As it is a FormatError of
// the packages qcow2 and vhd as well, with the member as the field.
type FormatError struct {
	Offset int64  // in the archive after decompression, in bytes: where the member's data begins, or reading ended
	Member string // "" where it is not about one
	Reason string
	Disk   string // which one it is about and what of it is lost, in words; "" where it is about none
}

func (e *FormatError) Error() string {
	text := fmt.Sprintf("xva: at byte %d: %s", e.Offset, e.Reason)
	if e.Member != "" {
		text = fmt.Sprintf("xva: %s (at byte %d): %s", e.Member, e.Offset, e.Reason)
	}
	if e.Disk != "" {
		text += "; " + e.Disk
	}
	return text
}

// As makes it one of the kinds that all formats share.
func (e *FormatError) As(target any) bool {
	t, ok := target.(**imgerr.FormatError)
	if ok {
		*t = &imgerr.FormatError{Format: "xva", Offset: e.Offset, Field: e.Member, Reason: e.Reason}
	}
	return ok
}

// An UnsupportedError names something that this package does not read. For errors.As it
// is an UnsupportedError of the packages qcow2 and vhd as well.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string { return "xva: " + e.What + " is not supported" }

// As makes it one of the kinds that all formats share.
func (e *UnsupportedError) As(target any) bool {
	t, ok := target.(**imgerr.UnsupportedError)
	if ok {
		*t = &imgerr.UnsupportedError{Format: "xva", Feature: e.What}
	}
	return ok
}
