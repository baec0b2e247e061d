package vhd

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// CreateOptions say what a new image is to be.
type CreateOptions struct {
	Size  int64 // of the disk, bytes; a multiple of 512
	Fixed bool
	// BlockSize is in bytes; 0 means 2 MiB, and XenServer knows no other.
	BlockSize int64
	// Backing is the parent's path, relative to the directory of the image or
	// absolute; "" for none. BackingFormat is vhd or raw; ParentID the ID of a vhd.
	Backing, BackingFormat, ParentID string
	UUID                             UUID      // zero: a random one
	Time                             time.Time // zero: now
}

// NewUUID returns a random one.
func NewUUID() (u UUID) {
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0F|0x40, u[8]&0x3F|0x80
	return u
}

// Create writes an empty image into p, which is empty, as XenServer would, and makes
// it durable. The size is kept as it is; XenServer itself only makes disks of
// multiples of 2 MiB.
func Create(p File, o CreateOptions) error {
	f := vfs.Full(p)
	if o.Size < 0 || o.Size%sectorSize != 0 {
		return fmt.Errorf("size %d: not a multiple of 512", o.Size)
	}
	if o.Size > maxSize {
		return unsupported(fmt.Sprintf("a disk of %d bytes; VHD has at most 2040 GiB", o.Size))
	}
	foot := o.footer()
	if o.Fixed {
		return o.createFixed(f, foot)
	}
	l := &layout{foot: foot, version: batmapVersion}
	if l.head.blockSize = o.BlockSize; o.BlockSize == 0 {
		l.head.blockSize = defaultBlockSize
	}
	l.head.table = tableStart
	if err := l.head.check(headerStart); err != nil {
		return err
	}
	l.head.entries = uint32(l.head.blocks(o.Size))
	l.bits = make([]byte, max(sectorSize, batmapBytes(int64(l.head.entries))))
	l.bat = fresh(nil, l.head.entries)
	if o.Backing != "" {
		names, id, err := parentOf(f.Path(), o.Backing, o.BackingFormat, o.ParentID)
		if err != nil {
			return err
		}
		l.setParent(names, o.Backing, id, foot.stamp)
	}
	l.place()
	return l.create(f)
}

// fresh is bat with so many entries.
func fresh(bat []uint32, entries uint32) []uint32 {
	next := make([]uint32, entries)
	for i := copy(next, bat); i < len(next); i++ {
		next[i] = unused
	}
	return next
}

func (o *CreateOptions) footer() footer {
	f := footer{features: features, dataOffset: -1, creator: creatorTap, creatorVersion: creatorTapVersion,
		originalSize: o.Size, size: o.Size, geometry: geometry(o.Size), kind: Dynamic, uuid: o.UUID}
	if f.uuid.IsZero() {
		f.uuid = NewUUID()
	}
	f.stamp = stampOf(o.Time)
	return f
}

// stampOf is a time as VHD has it; now for none.
func stampOf(t time.Time) uint32 {
	if t.IsZero() {
		t = time.Now()
	}
	return uint32(t.Unix() - epoch)
}

func (o *CreateOptions) createFixed(f vfs.File, foot footer) error {
	if o.Backing != "" {
		return unsupported("a parent of a fixed disk")
	}
	foot.kind = Fixed
	b := foot.encode()
	if _, err := f.WriteAt(b[:], o.Size); err != nil {
		return err
	}
	return f.Sync()
}

func (l *layout) create(f vfs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := l.end
	if info.IsBlock {
		if end = info.Size - footerLen; end < l.end {
			return fmt.Errorf("the device has %d bytes, and %d are needed: %w", info.Size, l.end+footerLen, errNoRoom)
		}
	}
	if _, err := f.WriteAt(l.bytes(), 0); err != nil {
		return err
	}
	b := l.foot.encode()
	if _, err := f.WriteAt(b[:], end); err != nil {
		return err
	}
	return f.Sync()
}

// parentOf checks what SetParent and Create are told of the parent of an image at path.
func parentOf(path, name, format, id string) ([]parentName, UUID, error) {
	var u UUID
	switch format {
	case "vhd", "vpc":
		if id == "" {
			return nil, u, fmt.Errorf("vhd: the identity of the parent %q is not known: it has to be there", name)
		}
		var err error
		if u, err = parseUUID(id); err != nil {
			return nil, u, err
		}
		if u.IsZero() {
			return nil, u, unsupported(fmt.Sprintf("the parent %q without an identity: that would mean a raw disk", name))
		}
	case "raw":
	default:
		return nil, u, unsupported(fmt.Sprintf("a parent of format %q: vhd and raw can be", format))
	}
	names, err := encodeParent(filepath.Dir(path), name)
	return names, u, err
}
