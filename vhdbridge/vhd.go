package vhdbridge

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// ReadVHD is the Reader of VHDs: footers, header, parent and table, no data.
func ReadVHD(f vfs.File) (Facts, error) {
	info, err := f.Stat()
	if err != nil {
		return Facts{}, err
	}
	i, err := vhd.Look(f, info.Size)
	if err != nil && i.Size == 0 { // what is left of a damaged one
		return remains(&i), err
	}
	facts := Facts{Image: i.Image(), Hidden: i.Hidden, InUse: i.InUse, Created: i.Created,
		NoEnd: i.Type != vhd.Fixed && !i.EndFooter && !i.InUse, Allocated: i.Allocated * i.BlockSize, Blocks: i.Blocks}
	if i.Type == vhd.Fixed {
		facts.Allocated = i.Size
	}
	if err != nil && facts.NoEnd { // its last block may end where nothing was written yet
		if needed, tail := vhd.NeedsRelease(f, info.Size); needed && tail == nil {
			facts.InUse, err = true, nil
		}
	}
	if err == nil && i.Type == vhd.Dynamic && !i.Hidden && i.Allocated > 0 {
		if image, err := vhd.NewReader(f, info.Size); err == nil {
			facts.Memory = isMemory(image)
		}
	}
	return facts, err
}

// remains are what a damaged image is called by others, and what it builds on.
func remains(i *vhd.Survey) (facts Facts) {
	if !i.UUID.IsZero() {
		facts.Image.ID = i.UUID.String()
	}
	if facts.Image.Backing = i.ParentPath; i.ParentPath != "" && !i.ParentUUID.IsZero() {
		facts.Image.BackingID, facts.Image.BackingFormat = i.ParentUUID.String(), formatVHD
	}
	return facts
}

// ReadRaw is the Reader of raw disks.
func ReadRaw(f vfs.File) (Facts, error) {
	info, err := f.Stat()
	return Facts{Image: chain.Image{Format: formatRaw, VirtualSize: info.Size}, Allocated: info.Size, Memory: err == nil && isMemory(f)}, err
}

// blockOverhead is what a block takes besides its data: a bitmap, and what keeps the
// data aligned. Bytes.
const blockOverhead = 4096

// growth is the most by which base can grow when the nodes above are merged into it,
// in bytes: by the blocks that it lacks.
func (b *planner) growth(base *Node, above []*Node) (int64, error) {
	if base.Format != formatVHD {
		return roughGrowth(base, above), nil
	}
	have, err := b.blocksOf(base)
	if err != nil {
		return 0, err
	}
	have.Bits = slices.Clone(have.Bits)
	before := have.Count()
	for _, n := range above {
		more, err := b.blocksOf(n)
		if err != nil || n.Format != formatVHD || more.Size != have.Size {
			return roughGrowth(base, above), err
		}
		have.Or(more)
	}
	return (have.Count() - before) * (have.Size + blockOverhead), nil
}

// roughGrowth takes every byte for new; a raw disk has room for all already.
func roughGrowth(base *Node, above []*Node) int64 {
	n := int64(0)
	for _, a := range above {
		n += a.Allocated
	}
	if base.Format == formatRaw {
		return max(0, above[len(above)-1].VirtualSize-base.VirtualSize)
	}
	return n
}

// blocksOf reads the table of a node once for all steps of a tree.
func (b *planner) blocksOf(n *Node) (vhd.Blocks, error) {
	if known, ok := b.blocks[n]; ok || n.Format != formatVHD {
		return known, nil
	}
	if n.blocks.Size > 0 {
		return n.blocks, nil
	}
	f, err := b.fsys.Open(n.Path, false)
	if err != nil {
		return vhd.Blocks{}, err
	}
	defer f.Close()
	blocks, err := vhd.ReadBlocks(f, n.PhysicalSize)
	if err == nil {
		b.blocks[n] = blocks
	}
	return blocks, err
}

// HideVHD sets or takes back XenServer's flag of a VHD that is open and locked for
// writing; it closes nothing but what the image itself opened.
func HideVHD(f vfs.File, yes bool) error {
	s, err := vhd.Open(keptOpen{f})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.(interface{ SetHidden(yes bool) error }).SetHidden(yes)
}

// keptOpen is a file that the caller closes.
type keptOpen struct{ vfs.File }

func (keptOpen) Close() error { return nil }
