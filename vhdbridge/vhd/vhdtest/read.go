// Package vhdtest reads VHD chains for tests, straight from Microsoft's
// specification, and unpacks the samples. It shares no code with package vhd, so
// that both can be held against each other, and it takes the whole disk into memory.
package vhdtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// hdFooter is "Hard Disk Footer Format".
type hdFooter struct {
	Cookie      [8]byte
	Features    uint32
	Version     uint32
	DataOffset  uint64
	TimeStamp   uint32
	Creator     [4]byte
	CreatorVer  uint32
	CreatorOS   uint32
	OrigSize    uint64
	CurrentSize uint64
	Geometry    uint32
	DiskType    uint32
	Checksum    uint32
	UniqueID    [16]byte
	SavedState  uint8
	Reserved    [427]byte
}

// ddHeader is "Dynamic Disk Header Format".
type ddHeader struct {
	Cookie      [8]byte
	DataOffset  uint64
	TableOffset uint64
	Version     uint32
	MaxEntries  uint32
	BlockSize   uint32
	Checksum    uint32
	ParentID    [16]byte
	ParentStamp uint32
	Reserved    uint32
	ParentName  [256]uint16
	Locators    [8]struct {
		Code       [4]byte
		DataSpace  uint32
		DataLength uint32
		Reserved   uint32
		DataOffset uint64
	}
	Reserved2 [256]byte
}

// A Disk is one VHD, all of it in memory.
type Disk struct {
	file []byte
	foot hdFooter
	head ddHeader
}

// sum is the checksum of a structure of which the field at off is left out.
func sum(b []byte, off int) uint32 {
	total := uint32(0)
	for i := range b {
		if i/4 != off/4 {
			total += uint32(b[i])
		}
	}
	return ^total
}

// Load reads the file at path. The footer at the end has to be there, and to be the
// same as its copy.
func Load(path string) (*Disk, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(file)
}

// Parse is Load of a file in memory.
func Parse(file []byte) (*Disk, error) {
	d := &Disk{file: file}
	if len(file) < 512 {
		return nil, fmt.Errorf("%d bytes", len(file))
	}
	last := file[len(file)-512:]
	if err := d.decode(last, &d.foot, 64); err != nil || string(d.foot.Cookie[:]) != "conectix" {
		return nil, fmt.Errorf("footer %q: %w", d.foot.Cookie, err)
	}
	if d.foot.DiskType == 2 {
		return d, nil
	}
	if !bytes.Equal(last, file[:512]) {
		return nil, fmt.Errorf("the copy of the footer differs")
	}
	at := d.foot.DataOffset
	if err := d.decode(file[at:at+1024], &d.head, 36); err != nil || string(d.head.Cookie[:]) != "cxsparse" {
		return nil, fmt.Errorf("header %q: %w", d.head.Cookie, err)
	}
	return d, nil
}

func (d *Disk) decode(b []byte, to any, checksum int) error {
	if have := binary.BigEndian.Uint32(b[checksum:]); have != sum(b, checksum) {
		return fmt.Errorf("checksum %#x, want %#x", have, sum(b, checksum))
	}
	return binary.Read(bytes.NewReader(b), binary.BigEndian, to)
}

// Size is that of the disk, in bytes.
func (d *Disk) Size() int64 { return int64(d.foot.CurrentSize) }

// Hidden is XenServer's flag.
func (d *Disk) Hidden() bool { return d.foot.Reserved[0] == 1 }

// Parents are the names in the locators, by code, as paths with slashes.
func (d *Disk) Parents() map[string]string {
	names := map[string]string{}
	for _, l := range d.head.Locators {
		if d.foot.DiskType != 4 || l.Code == [4]byte{} {
			continue
		}
		b := d.file[l.DataOffset : l.DataOffset+uint64(l.DataLength)]
		text := string(b)
		if l.Code[0] == 'W' {
			units := make([]uint16, len(b)/2)
			for i := range units {
				units[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
			}
			text = strings.ReplaceAll(string(utf16.Decode(units)), `\`, "/")
		}
		names[string(l.Code[:])] = strings.TrimPrefix(strings.TrimPrefix(text, "file://"), "./")
	}
	return names
}

// Layout returns where each block of the disk is, in sectors, or 0xFFFFFFFF.
func (d *Disk) Layout() []uint32 {
	blocks := (d.foot.CurrentSize + uint64(d.head.BlockSize) - 1) / uint64(max(d.head.BlockSize, 1))
	table := make([]uint32, blocks)
	for i := range table {
		table[i] = binary.BigEndian.Uint32(d.file[d.head.TableOffset+uint64(i)*4:])
	}
	return table
}

// Over returns what a guest reads from the disk above what it reads below. A parent
// that is shorter goes on with zeros.
func (d *Disk) Over(below []byte) []byte {
	size := int(d.foot.CurrentSize)
	view := make([]byte, size)
	if d.foot.DiskType == 2 {
		copy(view, d.file)
		return view
	}
	if d.foot.DiskType == 4 {
		copy(view, below)
	}
	perBlock := int(d.head.BlockSize) / 512
	bitmap := (perBlock + 4095) / 4096 * 512
	for n, sector := range d.Layout() {
		if sector == 0xFFFFFFFF {
			continue
		}
		at := int(sector) * 512
		for s := range perBlock {
			from := n*perBlock*512 + s*512
			if from < size && d.file[at+s/8]>>(7-s%8)&1 == 1 {
				copy(view[from:min(from+512, size)], d.file[at+bitmap+s*512:])
			}
		}
	}
	return view
}

// Full lists the blocks that XenServer's batmap calls full; nil without a batmap.
// The map has to match its checksum.
func (d *Disk) Full() (map[int]bool, error) {
	at := (d.head.TableOffset + uint64(d.head.MaxEntries)*4 + 511) / 512 * 512
	if string(d.foot.Creator[:3]) != "tap" || string(d.file[at:at+8]) != "tdbatmap" {
		return nil, nil
	}
	off, n := binary.BigEndian.Uint64(d.file[at+8:]), uint64(binary.BigEndian.Uint32(d.file[at+16:]))*512
	bits := d.file[off : off+n]
	total := uint32(0)
	for _, b := range bits {
		total += uint32(b)
	}
	if have := binary.BigEndian.Uint32(d.file[at+24:]); have != ^total {
		return nil, fmt.Errorf("batmap checksum %#x, want %#x", have, ^total)
	}
	full := map[int]bool{}
	for i := range int(n) * 8 {
		if bits[i/8]>>(7-i%8)&1 == 1 {
			full[i] = true
		}
	}
	return full, nil
}

// IsFull tells by the bitmap whether a block has all its sectors.
func (d *Disk) IsFull(n int) bool {
	sector := d.Layout()[n]
	if sector == 0xFFFFFFFF {
		return false
	}
	for k := range int(d.head.BlockSize) / 512 {
		if d.file[int(sector)*512+k/8]>>(7-k%8)&1 == 0 {
			return false
		}
	}
	return true
}

// View returns what a guest reads from the disk at path, through all its parents. A
// name that ends in .raw is a raw disk.
func View(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".raw") {
		return os.ReadFile(path)
	}
	d, err := Load(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := d.Consistent(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if d.foot.DiskType != 4 {
		return d.Over(nil), nil
	}
	parent := filepath.Join(filepath.Dir(path), d.Parents()["W2ru"])
	if err := d.builtOn(parent); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	below, err := View(parent)
	if err != nil {
		return nil, err
	}
	return d.Over(below), nil
}

// builtOn compares the parent's identity. A raw one has none.
func (d *Disk) builtOn(path string) error {
	if strings.HasSuffix(path, ".raw") {
		if d.head.ParentID != [16]byte{} {
			return fmt.Errorf("a raw parent with the identity %x", d.head.ParentID)
		}
		return nil
	}
	p, err := Load(path)
	if err == nil && p.foot.UniqueID != d.head.ParentID {
		err = fmt.Errorf("the parent is %x, want %x", p.foot.UniqueID, d.head.ParentID)
	}
	return err
}

// Consistent holds the image against what XenServer's tools check and rely on: no
// locator disagrees, blocks are apart, aligned and behind all metadata, and the batmap
// calls no block full that is not.
func (d *Disk) Consistent() error {
	if d.foot.DiskType == 2 {
		return nil
	}
	names := d.Parents()
	for code, name := range names {
		if name != names["W2ru"] {
			return fmt.Errorf("locator %s says %q, W2ru %q", code, name, names["W2ru"])
		}
	}
	full, err := d.Full()
	if err != nil {
		return err
	}
	for n := range full {
		if n >= len(d.Layout()) || !d.IsFull(n) {
			return fmt.Errorf("the batmap calls block %d full", n)
		}
	}
	return d.apart()
}

// apart looks at where blocks and metadata are.
func (d *Disk) apart() error {
	end := int64(d.head.TableOffset) + int64(d.head.MaxEntries)*4
	for _, l := range d.head.Locators {
		if d.foot.DiskType == 4 {
			end = max(end, int64(l.DataOffset)+int64(l.DataLength))
		}
	}
	bitmap := (int64(d.head.BlockSize)/512 + 4095) / 4096 * 512
	length := bitmap + int64(d.head.BlockSize)
	for n, a := range d.Layout() {
		at := int64(a) * 512
		switch {
		case a == 0xFFFFFFFF:
			continue
		case at < end:
			return fmt.Errorf("block %d at %d begins in the metadata, which ends at %d", n, at, end)
		case at+length > int64(len(d.file))-512:
			return fmt.Errorf("block %d at %d ends behind the file", n, at)
		case (at+bitmap)%4096 != 0:
			return fmt.Errorf("the data of block %d at %d is not aligned", n, at)
		}
		for k, b := range d.Layout()[:n] {
			if other := int64(b) * 512; b != 0xFFFFFFFF && at < other+length && other < at+length {
				return fmt.Errorf("blocks %d and %d overlap", k, n)
			}
		}
	}
	return nil
}
