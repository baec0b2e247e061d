package vhd

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// Probe tells whether r begins with a footer, as dynamic and differencing disks do.
// Fixed disks have theirs at the end only, where the guest of a raw disk can write
// one: they have to be named. A guest can write one at the beginning, too: only ask
// where the format is known to be an image format.
func Probe(r io.ReaderAt) (bool, error) {
	var b [cookieLen]byte
	n, err := r.ReadAt(b[:], 0)
	if n == len(b) || errors.Is(err, io.EOF) {
		return n == len(b) && (string(b[:]) == footerCookie || string(b[:]) == poisonCookie), nil
	}
	return false, err
}

// An Info is what footer and header of an image say. Sizes are bytes.
type Info struct {
	Type         Type
	UUID         UUID
	Size         int64 // of the disk
	OriginalSize int64
	Created      time.Time
	Creator      string // four characters, as in "tap\x00"
	CreatorMajor int
	CreatorMinor int
	Hidden       bool // XenServer: nobody needs its own content
	InUse        bool // XenServer: a tapdisk writes to it, or has crashed
	Encrypted    bool // XenServer: the batmap has a key hash
	EndFooter    bool // there is a valid footer at the end of the file
	BlockSize    int64
	Entries      int64 // of the table; more than the disk has blocks if it was made to grow
	TableOffset  int64
	HasBatmap    bool

	// Of differencing disks. The parent's path is relative to the directory of the
	// image, or absolute; it is not trustworthy.
	ParentPath string
	ParentName string // as in the header
	ParentUUID UUID   // zero: the parent is a raw disk
	ParentTime time.Time
}

// ReadInfo reads footers, header and the parent's names from r, which has size
// bytes, but not the table. It returns ErrNotVHD, a *FormatError, an
// *UnsupportedError (also for v_poison) or an error of r.
func ReadInfo(r io.ReaderAt, size int64) (Info, error) {
	m, err := load(r, size)
	if err != nil {
		return Info{}, err
	}
	return m.info(), nil
}

func (m *meta) info() Info {
	f := &m.foot
	i := Info{Type: f.kind, UUID: f.uuid, Size: f.size, OriginalSize: f.originalSize, Created: f.created(),
		Creator:      string(binary.BigEndian.AppendUint32(nil, f.creator)),
		CreatorMajor: int(f.creatorVersion >> 16), CreatorMinor: int(f.creatorVersion & 0xFFFF),
		Hidden: f.hidden != 0, InUse: m.end == endInUse, EndFooter: m.end == endValid || m.end == endShort}
	if f.kind == Fixed {
		return i
	}
	h := &m.head
	i.BlockSize, i.Entries, i.TableOffset = h.blockSize, int64(h.entries), h.table
	i.HasBatmap, i.Encrypted = m.batmap.at != 0, m.batmap.encrypted
	if f.kind == Differencing {
		i.ParentPath, i.ParentName, i.ParentUUID = m.parent, h.parentName, h.parentUUID
		i.ParentTime = time.Unix(epoch+int64(h.parentTime), 0).UTC()
	}
	return i
}

// Image is what an image of this format says of itself, as all formats put it.
func (i Info) Image() Summary {
	c := Summary{Format: "vhd", VirtualSize: i.Size, Encrypted: i.Encrypted, ID: i.UUID.String()}
	if i.Type != Differencing {
		return c
	}
	c.Backing, c.BackingFormat = i.ParentPath, "raw"
	if !i.ParentUUID.IsZero() {
		c.BackingFormat, c.BackingID = "vhd", i.ParentUUID.String()
	}
	return c
}

// ReadAllocated counts the blocks that the table of r, which has size bytes, has
// for the disk. A fixed disk has no table: 0. Errors are those of ReadInfo.
func ReadAllocated(r io.ReaderAt, size int64) (blocks int64, err error) {
	m, err := load(r, size)
	if err != nil || m.foot.kind == Fixed {
		return 0, err
	}
	bat, err := m.readTable()
	if err != nil {
		return 0, err
	}
	return m.allocated(bat), nil
}

// readTable returns the block allocation table, which is within the limit.
func (m *meta) readTable() ([]uint32, error) {
	bat := make([]uint32, m.head.entries)
	b := make([]byte, min(m.head.tableBytes(), 1<<20))
	for i := 0; i < len(bat); {
		n := min(len(b)/4, len(bat)-i)
		if err := readFull(m.r, b[:n*4], m.entry(i), tableName); err != nil {
			return nil, err
		}
		for k := range n {
			bat[i+k] = binary.BigEndian.Uint32(b[k*4:])
		}
		i += n
	}
	return bat, nil
}
