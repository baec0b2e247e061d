package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// vhdOptions are what only a new VHD has.
type vhdOptions struct {
	fixed    bool
	uuid     vhd.UUID // zero: a random one
	parentID string   // of the backing file, if it has an identity
}

func parseSubformat(v string) (fixed bool, err error) {
	switch v {
	case "dynamic":
		return false, nil
	case "fixed":
		return true, nil
	}
	return false, errors.New("want dynamic or fixed")
}

func openVHD(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) }

func inspectVHDFile(f vfs.File) (image chain.Image, err error) {
	err = steady(sizeOf(f), func(size int64) error {
		i, err := vhd.ReadInfo(f, size)
		image = i.Image()
		return err
	})
	return image, err
}

func createVHD(f vfs.File, o *createOptions) error {
	return vhd.Create(f, vhd.CreateOptions{Size: o.Size, Fixed: o.fixed, UUID: o.uuid,
		Backing: o.Backing, BackingFormat: o.BackingFormat, ParentID: o.parentID})
}

func vhdCreateText(o *createOptions) string {
	subformat := "dynamic"
	switch {
	case o.fixed:
		subformat = "fixed"
	case o.Backing != "":
		subformat = "differencing"
	}
	text := fmt.Sprintf("fmt=vhd subformat=%s size=%d", subformat, o.told)
	if o.Backing != "" {
		text += fmt.Sprintf(" backing_file=%s backing_fmt=%s", o.Backing, o.BackingFormat)
	}
	return text
}

// infoVHD is what only VHDs have. Fixed disks have no blocks.
type infoVHD struct {
	Subformat  string `json:"subformat"`
	UUID       string `json:"uuid"`
	Creator    string `json:"creator"`
	Hidden     bool   `json:"hidden"`
	InUse      bool   `json:"in-use"`
	BlockSize  int64  `json:"block-size,omitempty"`
	Blocks     int64  `json:"blocks,omitempty"`
	Allocated  int64  `json:"allocated-blocks,omitempty"`
	Batmap     bool   `json:"batmap"`
	ParentUUID string `json:"parent-uuid,omitempty"`
}

// vhdDetails fills in what is special to VHD.
func vhdDetails(r io.ReaderAt, size int64, to *imageInfo) error {
	i, err := vhd.ReadInfo(r, size)
	if err != nil {
		return err
	}
	data := &infoVHD{Subformat: i.Type.String(), UUID: i.UUID.String(), Hidden: i.Hidden, InUse: i.InUse, BlockSize: i.BlockSize,
		Creator: fmt.Sprintf("%s %d.%d", trimNUL(i.Creator), i.CreatorMajor, i.CreatorMinor), Batmap: i.HasBatmap}
	if i.BlockSize > 0 {
		data.Blocks = (i.Size + i.BlockSize - 1) / i.BlockSize
		if data.Allocated, err = vhd.ReadAllocated(r, size); err != nil {
			return err
		}
	}
	if i.Type == vhd.Differencing {
		data.ParentUUID = i.ParentUUID.String()
	}
	to.ClusterSize, to.Dirty = i.BlockSize, i.InUse
	to.Specific = &infoSpecific{"vhd", data}
	return nil
}

// trimNUL leaves out what fills up a name.
func trimNUL(s string) string {
	for len(s) > 0 && (s[len(s)-1] == 0 || s[len(s)-1] == ' ') {
		s = s[:len(s)-1]
	}
	return s
}

func vhdText(w io.Writer, i *infoVHD) {
	fields := []field{{1, "subformat", i.Subformat}, {1, "uuid", i.UUID}, {1, "creator", i.Creator},
		{1, "hidden", i.Hidden}, {1, "in use", i.InUse}}
	if i.BlockSize > 0 {
		fields = append(fields, field{1, "blocks", i.Blocks}, field{1, "allocated blocks", i.Allocated}, field{1, "batmap", i.Batmap})
	}
	if i.ParentUUID != "" {
		fields = append(fields, field{1, "parent uuid", i.ParentUUID})
	}
	fieldsText(w, fields)
}

// checkVHD tells the result of a check in qemu-img's terms: clusters are blocks.
func checkVHD(f vfs.File, r qcow2.Repair) (checkResult, error) {
	how := map[qcow2.Repair]vhd.Repair{qcow2.RepairLeaks: vhd.RepairLeaks, qcow2.RepairAll: vhd.RepairAll}[r]
	res, err := vhd.Check(f, how)
	out := checkResult{Repaired: res.Repaired}
	out.Corruptions, out.CorruptionsFixed = res.Corruptions, res.CorruptionsFixed
	out.Leaks, out.LeaksFixed = res.Leaks, res.LeaksFixed
	out.ImageEndOffset, out.TotalClusters = res.ImageEndOffset, res.TotalBlocks
	out.AllocatedClusters, out.FragmentedClusters = res.AllocatedBlocks, res.FragmentedBlocks
	out.ProblemCount = res.ProblemCount
	for _, p := range res.Problems {
		out.Problems = append(out.Problems, qcow2.Problem{Offset: p.Offset, What: p.What, Reason: p.Reason})
	}
	return out, err
}

// qemuReads refuses to let a qcow2 image build on a differencing VHD: QEMU reads
// that as if it had no parent, and a guest would see garbage.
func qemuReads(path, format string, below chain.Node) error {
	if format != "qcow2" || below.Image.Format != "vhd" || below.Image.Backing == "" {
		return nil
	}
	return &chain.RefusedError{Path: path, Reason: fmt.Sprintf("the backing file %s is a differencing VHD, which QEMU reads without its parent: convert the chain (image convert --chain)", below.Path)}
}
