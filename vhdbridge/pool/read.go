package pool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// mostBytes bounds what a source may hold, decompressed.
const mostBytes = 1 << 30

// headBytes is how much is looked at to tell what a source is: as far as the mark of an ext
// file system reaches.
const headBytes = extMark + 2

// Read adds a source: a pool's database ("xe pool-dump-database", /var/lib/xcp/state.db, or
// POOL.db of a metadata backup), what "xe vm-list params=all", vdi-list, vbd-list, vif-list and
// snapshot-list print, or metadata of a guest ("xe vm-export metadata=true", .vmmeta), any of
// them packed by gzip. Errors tell the place.
func (p *Pool) Read(r io.Reader) error {
	in := bufio.NewReaderSize(io.LimitReader(r, mostBytes), 64<<10)
	head, err := peek(in)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) { // RFC 1952, 2.3.1
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = bufio.NewReaderSize(io.LimitReader(z, mostBytes), 64<<10)
		if head, err = peek(in); err != nil {
			return err
		}
	}
	source, err := read(in, head)
	if err != nil {
		return err
	}
	if !knows(source, classVDI) && !knows(source, classVM) && !knows(source, classVBD) && !knows(source, classVIF) {
		return errors.New("no VDI and no VM is in it: want a pool's database (xe pool-dump-database), or the output of xe vm-list, vdi-list, vbd-list or snapshot-list with params=all")
	}
	p.add(source)
	return nil
}

func peek(in *bufio.Reader) ([]byte, error) {
	head, err := in.Peek(headBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return head, nil
}

// read tells by its beginning what a source is.
func read(in *bufio.Reader, head []byte) ([]*record, error) {
	if what := image(head); what != "" {
		return nil, &ImageError{what, formatOf(head)}
	}
	if bytes.HasPrefix(head, []byte("ova.xml\x00")) {
		return readExport(in)
	}
	if bytes.HasPrefix(bytes.TrimSpace(head), []byte("<")) {
		return readDatabase(in)
	}
	return readList(in)
}

// extMark is where the superblock of an ext file system has its magic number, 0xEF53
// (kernel documentation, filesystems/ext4/super).
const extMark = 1024 + 0x38

// formatOf is the format of such a disk.
func formatOf(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("conectix")):
		return "vhd"
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return "qcow2"
	}
	return "raw"
}

// image tells that a source is a disk, and what it begins with.
func image(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("conectix")):
		return "a VHD"
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return "a qcow2 image"
	case IsExt(head):
		return "a disk with an ext file system"
	}
	return ""
}

// IsExt tells by its first 1082 bytes whether a disk has an ext file system.
func IsExt(head []byte) bool {
	return len(head) >= extMark+2 && binary.LittleEndian.Uint16(head[extMark:]) == 0xEF53
}

// An ImageError means that a source is a disk, such as the one that xe-backup-metadata writes
// its dumps to (POOL.db, older ones POOL.db.1 …), and not one of the files on it.
type ImageError struct {
	What   string
	Format string // of the image: vhd, qcow2 or raw
}

func (e *ImageError) Error() string {
	return fmt.Sprintf("it is %s: of disks, only that of a metadata backup has names, in files on it", e.What)
}

// readExport reads the objects of ova.xml, as a .vmmeta has them, too.
func readExport(in io.Reader) ([]*record, error) {
	x, err := xva.NewReader(in)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	return ofObjects(x.VM().Objects), nil
}

// OfExport is what an export tells.
func OfExport(vm xva.VM) *Pool {
	p := &Pool{}
	p.add(ofObjects(vm.Objects))
	return p
}

func ofObjects(objects []xva.Object) (source []*record) {
	for _, o := range objects {
		r := newRecord(o.Class, o.ID)
		for _, name := range o.Fields() {
			if m := o.Map(name); m != nil {
				r.maps[name] = m
			} else {
				r.fields[name] = o.Field(name)
			}
		}
		source = append(source, r)
	}
	return source
}
