package formats

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

func vhdFormat() Format {
	return Format{
		Format: chain.Format{
			Name:    "vhd", // Probe knows dynamic disks only: a fixed one has to be named
			Probe:   vhd.Probe,
			Open:    func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) },
			Inspect: inspectVHD,
		},
		Extension: ".vhd",
		Overlays:  true,
		Details:   vhdDetails,
		Check:     checkVHD,
		New:       func() Maker { return &vhdMaker{} },
		Options:   []string{"size", "subformat", "force_size", "backing_file", "backing_fmt"},
		NewID:     func() string { return vhd.NewUUID().String() },
		Glance:    glanceVHD,
	}
}

func inspectVHD(f vfs.File) (image chain.Image, err error) {
	err = ReadSteady(f, func(size int64) error {
		i, err := vhd.ReadInfo(f, size)
		image = i.Image()
		return err
	})
	return image, err
}

// glanceVHD tells of a VHD whether it builds on a raw disk, as those of XenServer can. One
// that is damaged has no names that could be read.
func glanceVHD(r io.ReaderAt, size int64) chain.Image {
	i, err := vhd.ReadInfo(r, size)
	if image := i.Image(); err == nil && image.BackingFormat == "raw" {
		return image
	}
	return chain.Image{Format: "vhd"}
}

// A vhdMaker says what only a new VHD is to be.
type vhdMaker struct{ fixed bool }

func (m *vhdMaker) Set(key, value string) error {
	switch {
	case key == "force_size" && value == "on": // the size is always kept to the byte
		return nil
	case key == "force_size":
		return errors.New("want on: sizes are always kept, and not rounded to a geometry")
	case key != "subformat":
		return errors.New("VHDs have no " + key)
	case value != "dynamic" && value != "fixed":
		return errors.New("want dynamic or fixed")
	}
	m.fixed = value == "fixed"
	return nil
}

func (m *vhdMaker) Create(f vfs.File, n New) error {
	o := vhd.CreateOptions{Size: n.Size, Fixed: m.fixed, Backing: n.Backing, BackingFormat: n.BackingFormat, ParentID: n.ParentID}
	if n.ID != "" {
		id, err := hex.DecodeString(strings.ReplaceAll(n.ID, "-", ""))
		if err != nil || len(id) != len(o.UUID) {
			return fmt.Errorf("%q is no UUID", n.ID)
		}
		copy(o.UUID[:], id)
	}
	return vhd.Create(f, o)
}

func (m *vhdMaker) Text(n New, size int64) string {
	subformat := "dynamic"
	switch {
	case m.fixed:
		subformat = "fixed"
	case n.Backing != "":
		subformat = "differencing"
	}
	return fmt.Sprintf("fmt=vhd subformat=%s size=%d", subformat, size) + backingText(n)
}

// A vhdData is what only VHDs have. Fixed disks have no blocks.
type vhdData struct {
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

func vhdDetails(r io.ReaderAt, size int64) (Details, error) {
	i, err := vhd.ReadInfo(r, size)
	if err != nil {
		return Details{}, err
	}
	data := &vhdData{Subformat: i.Type.String(), UUID: i.UUID.String(), Hidden: i.Hidden, InUse: i.InUse, BlockSize: i.BlockSize,
		Creator: fmt.Sprintf("%s %d.%d", strings.TrimRight(i.Creator, "\x00 "), i.CreatorMajor, i.CreatorMinor), Batmap: i.HasBatmap}
	if i.BlockSize > 0 {
		data.Blocks = (i.Size + i.BlockSize - 1) / i.BlockSize
		if data.Allocated, err = vhd.ReadAllocated(r, size); err != nil {
			return Details{}, err
		}
	}
	if i.Type == vhd.Differencing {
		data.ParentUUID = i.ParentUUID.String()
	}
	return Details{ClusterSize: i.BlockSize, Dirty: i.InUse, Specific: &Specific{"vhd", data}}, nil
}

// Fields is for people.
func (i *vhdData) Fields() []Field {
	fields := []Field{{1, "subformat", i.Subformat}, {1, "uuid", i.UUID}, {1, "creator", i.Creator},
		{1, "hidden", i.Hidden}, {1, "in use", i.InUse}}
	if i.BlockSize > 0 {
		fields = append(fields, Field{1, "blocks", i.Blocks}, Field{1, "allocated blocks", i.Allocated}, Field{1, "batmap", i.Batmap})
	}
	if i.ParentUUID != "" {
		fields = append(fields, Field{1, "parent uuid", i.ParentUUID})
	}
	return fields
}

// checkVHD tells of blocks as clusters.
func checkVHD(f vfs.File, r Repair) (CheckResult, error) {
	how := vhd.RepairNone
	switch r {
	case RepairLeaks:
		how = vhd.RepairLeaks
	case RepairAll:
		how = vhd.RepairAll
	}
	res, err := vhd.Check(f, how)
	out := CheckResult{
		Corruptions: res.Corruptions, Leaks: res.Leaks, CorruptionsFixed: res.CorruptionsFixed, LeaksFixed: res.LeaksFixed,
		ImageEndOffset: res.ImageEndOffset, TotalClusters: res.TotalBlocks, AllocatedClusters: res.AllocatedBlocks,
		FragmentedClusters: res.FragmentedBlocks, ProblemCount: res.ProblemCount, Repaired: res.Repaired,
	}
	for _, p := range res.Problems {
		out.Problems = append(out.Problems, Problem{p.Offset, p.What, p.Reason})
	}
	return out, err
}
