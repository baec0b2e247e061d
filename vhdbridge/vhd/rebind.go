package vhd

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Rebind lets the differencing disk in f, which nobody uses yet, build on another VHD: name
// is its path, relative to the directory of f, and id its identity. What the image itself
// says of its parent is not looked at: a stream that a XenServer host exports as what has
// changed since another disk names a device of that host, and has nothing where its locator
// says that the name is. A crash in the midst leaves an image that is damaged.
//
// It returns ErrNotVHD, a *FormatError or an *UnsupportedError, and takes f over as Open
// does only if it returns an Image.
func Rebind(p File, name, id string) (*Image, error) {
	f := vfs.Full(p)
	uuid, err := parseUUID(id)
	if err != nil {
		return nil, err
	}
	if err := forgetParent(f, name, uuid); err != nil {
		return nil, err
	}
	s, err := Open(p)
	if err != nil {
		return nil, err
	}
	i, ok := s.(*Image)
	if !ok {
		return nil, errors.New("vhd: a fixed disk has no parent")
	}
	return i, i.SetParent(name, "vhd", id)
}

// forgetParent takes the locators out of the header: with none, its own name of the parent
// counts.
func forgetParent(f vfs.File, name string, id UUID) error {
	var b [footerLen]byte
	if err := readFull(f, b[:], 0, "copy of the footer"); err != nil {
		return err
	}
	foot, err := decodeFooter(&b, 0)
	if err != nil {
		return err
	}
	if foot.kind != Differencing {
		return malformed(offType, "disk type", fmt.Sprintf("%s, and not differencing", foot.kind))
	}
	var h [headerLen]byte
	if err := readFull(f, h[:], foot.dataOffset, "header"); err != nil {
		return err
	}
	head, err := decodeHeader(&h, foot.dataOffset)
	if err != nil {
		return err
	}
	head.locators, head.parentUUID, head.parentName = [locatorCount]locator{}, id, name
	h = head.encode()
	_, err = f.WriteAt(h[:], foot.dataOffset)
	return err
}

// TypeOf is the type of a disk by its footer alone. Errors are those of ReadInfo.
func TypeOf(b *[512]byte) (Type, error) {
	f, err := decodeFooter(b, 0)
	return f.kind, err
}
