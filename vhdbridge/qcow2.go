package vhdbridge

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// extHidden is XCP-ng's header extension of qcow2 nodes: one byte of its data is not 0
// in hidden ones.
const extHidden = 0x76617465

// ReadQcow2 is the Reader of the qcow2 nodes of XCP-ng: the header, the flag and the
// tables.
func ReadQcow2(f vfs.File) (Facts, error) {
	info, err := f.Stat()
	if err != nil {
		return Facts{}, err
	}
	h, err := qcow2.ReadHeader(f, info.Size)
	if err != nil {
		return Facts{}, err
	}
	facts := Facts{Image: h.Image()}
	facts.Allocated = min(info.Allocated, facts.Image.VirtualSize)
	if flag := hiddenFlag(&h); flag != 0 {
		var b [1]byte
		if _, err := f.ReadAt(b[:], flag); err != nil {
			return facts, err
		}
		facts.Hidden = b[0] != 0
	}
	return facts, readTables(f, info.Size)
}

// readTables goes through all tables of the image, in which anything can be wrong.
func readTables(f vfs.File, size int64) error {
	image, err := qcow2.NewReader(f, size, nil)
	if err != nil {
		return err
	}
	for _, err := range qcow2.Extents(image) {
		if err != nil {
			return err
		}
	}
	return nil
}

// hiddenFlag is where the flag is in the file; 0: it has none.
func hiddenFlag(h *qcow2.Header) int64 {
	for _, x := range h.Extensions {
		if x.Type == extHidden && x.Length > 0 {
			return x.Offset
		}
	}
	return 0
}

// HideQcow2 sets or takes back the flag of a node that has it.
func HideQcow2(f vfs.File, yes bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := qcow2.ReadHeader(f, info.Size)
	if err != nil {
		return err
	}
	flag := hiddenFlag(&h)
	if flag == 0 {
		return errors.New("the image has no header extension for the flag")
	}
	b := [1]byte{}
	if yes {
		b[0] = 1
	}
	if _, err := f.WriteAt(b[:], flag); err != nil {
		return err
	}
	return f.Sync()
}

// Readers are those of all formats that nodes can have.
func Readers() map[string]Reader {
	return map[string]Reader{formatVHD: ReadVHD, formatRaw: ReadRaw, formatQcow2: ReadQcow2}
}

// Hiders set or take back the flag of hidden nodes, in the formats that have one.
func Hiders() map[string]func(vfs.File, bool) error {
	return map[string]func(vfs.File, bool) error{formatVHD: HideVHD, formatQcow2: HideQcow2}
}
