package main

import (
	"fmt"
	"io"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// inspect is the chain.Inspector of all formats that libvirt's chains have.
// Without a format a file is taken for what its magic says, else for raw.
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
		if yes, err := qcow2.Probe(f); err != nil {
			return chain.Image{}, err
		} else if !yes {
			return chain.Image{Format: "raw", VirtualSize: info.Size}, chain.RefuseForeign(path, f)
		}
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
