package vhd

import (
	"io"
	"math/bits"
)

// Blocks tells which blocks of a disk an image has, a bit each.
type Blocks struct {
	Size int64 // of a block, in bytes of the disk
	Bits []uint64
}

// ReadBlocks reads the table of r, which has size bytes. A fixed disk has all blocks,
// of 2 MiB. Errors are those of ReadInfo.
func ReadBlocks(r io.ReaderAt, size int64) (Blocks, error) {
	m, err := load(r, size)
	if err != nil {
		return Blocks{}, err
	}
	if m.foot.kind == Fixed {
		b := Blocks{Size: defaultBlockSize}
		b.fill((m.foot.size + b.Size - 1) / b.Size)
		return b, nil
	}
	table, err := m.readTable()
	if err != nil {
		return Blocks{}, err
	}
	return m.blocksOf(table), nil
}

// blocksOf are the blocks of the disk that the table has.
func (m *meta) blocksOf(bat []uint32) Blocks {
	b := Blocks{Size: m.head.blockSize}
	for i, e := range bat[:m.head.blocks(m.foot.size)] {
		if e != unused {
			b.set(int64(i))
		}
	}
	return b
}

func (b *Blocks) set(i int64) {
	for int64(len(b.Bits)) <= i/64 {
		b.Bits = append(b.Bits, 0)
	}
	b.Bits[i/64] |= 1 << (i % 64)
}

func (b *Blocks) fill(n int64) {
	for i := range n {
		b.set(i)
	}
}

// Count is the number of blocks that are there.
func (b *Blocks) Count() int64 {
	n := 0
	for _, w := range b.Bits {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

// Or adds the blocks of another image with blocks of the same size.
func (b *Blocks) Or(o Blocks) {
	for i, w := range o.Bits {
		if i == len(b.Bits) {
			b.Bits = append(b.Bits, 0)
		}
		b.Bits[i] |= w
	}
}
