package main

import (
	"fmt"
	"io"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// inspect is the chain.Inspector of all formats that libvirt's chains have. Without a
// format only what the image builds on is told, by what its magic says it is.
func inspect(path, format string) (chain.Image, error) {
	info, err := vfs.Stat(path)
	if err != nil {
		return chain.Image{}, err
	}
	if format == "raw" {
		return chain.Image{Format: "raw", VirtualSize: info.Size}, nil
	}
	if format != "qcow2" && format != "" {
		return chain.Image{}, fmt.Errorf("%s: format %q is not one that virt-rotate reads", path, format)
	}
	f, err := os.Open(path)
	if err != nil {
		return chain.Image{}, err
	}
	defer f.Close()
	if format == "" {
		return glance(path, f, info.Size)
	}
	var image chain.Image
	size := func() (int64, error) {
		now, err := vfs.Stat(path)
		return now.Size, err
	}
	err = steady(size, func(size int64) (err error) {
		image, err = inspectQcow2(f, size)
		return err
	})
	if err != nil {
		return image, fmt.Errorf("%s: %w", path, err)
	}
	return image, nil
}

func inspectQcow2(r io.ReaderAt, size int64) (chain.Image, error) {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil {
		return chain.Image{}, err
	}
	image := h.Image()
	image.Blank, err = qcow2.Blank(r, h, size)
	return image, err
}

// glance tells what any file builds on, as far as that can be raw or qcow2. One without
// a magic is taken for raw.
func glance(path string, r io.ReaderAt, size int64) (chain.Image, error) {
	g, err := chain.GlanceAt(r)
	if err != nil {
		return chain.Image{}, fmt.Errorf("%s: %w", path, err)
	}
	image := chain.Image{Format: g.Format, Backing: g.Backing, BackingFormat: g.BackingFormat}
	switch g.Format {
	case "":
		return chain.Image{Format: "raw", VirtualSize: size}, nil
	case "vhd":
		return rawParent(r, size), nil
	}
	return image, nil
}

// rawParent tells of a VHD whether it builds on a raw disk, as those of XenServer can. One
// that is damaged has no names that could be read.
func rawParent(r io.ReaderAt, size int64) chain.Image {
	i, err := vhd.ReadInfo(r, size)
	if image := i.Image(); err == nil && image.BackingFormat == "raw" {
		return image
	}
	return chain.Image{Format: "vhd"}
}
