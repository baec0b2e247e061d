package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// The tools that merge VHDs on a XenServer cannot be shipped. A merge in the order of their
// writes stands for them: block after block, each piece written to the device before the next,
// the bitmap of the block, its entry in the table, and the footer where the file has grown. It
// knows just the VHDs of this benchmark: blocks of 2 MiB, a table at byte 1536.

const (
	refBlock  = 2 << 20
	refBitmap = 512
	refTable  = 1536
	refFooter = 512
	refAlign  = 4096 // of data
)

// againstReference compares a commit of VHDs with that merge, in turn, each on fresh copies.
func (b *imageBench) againstReference(ctx context.Context, dir, where string, aim float64) error {
	t := task{name: "VHD: commit of 1 GiB in random 64 KiB pieces, against a merge block by block in direct writes" + where,
		inputs: []string{"empty.vhd", "top.vhd"}, ours: []string{"commit", "top.vhd"}, result: "."}
	if !strings.Contains(t.name, b.only) {
		return nil
	}
	var ours, theirs []time.Duration
	for range imageRounds {
		took, _, err := b.round(ctx, t, dir, [][]string{append([]string{b.binary, "image"}, t.ours...)})
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if err := b.prepare(ctx, t, dir); err != nil {
			return err
		}
		if took, err = referenceCommit(dir); err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	if err := b.run(ctx, dir, b.binary, "image", "compare", "top.vhd", "empty.vhd"); err != nil {
		return fmt.Errorf("the reference has not merged: %w", err)
	}
	mine, other := median(ours), median(theirs)
	fmt.Printf("| %s | %d ms | %d ms (the merge) | %.2f | %.2f | |\n", t.name, mine.Milliseconds(), other.Milliseconds(), float64(mine)/float64(other), aim)
	return nil
}

// A reference merges a VHD into its parent.
type reference struct {
	child, parent *os.File
	source        vhd.Source
	table         []uint32
	end           int64 // where the footer is
	footer        []byte
	buffer        []byte // aligned, as direct writes want it
}

// referenceCommit merges dir/top.vhd into dir/empty.vhd and returns how long that took.
func referenceCommit(dir string) (time.Duration, error) {
	began := time.Now()
	r, err := openReference(filepath.Join(dir, "top.vhd"), filepath.Join(dir, "empty.vhd"))
	if err != nil {
		return 0, err
	}
	err = errors.Join(r.merge(), r.parent.Sync(), r.child.Close(), r.parent.Close())
	return time.Since(began), err
}

func openReference(child, parent string) (*reference, error) {
	c, err := os.Open(child)
	if err != nil {
		return nil, err
	}
	p, err := os.OpenFile(parent, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	r := &reference{child: c, parent: p, buffer: aligned(refBlock)}
	return r, r.load()
}

// aligned is a buffer that direct writes take.
func aligned(n int) []byte {
	b := make([]byte, n+refAlign)
	skip := refAlign - int(uintptr(unsafe.Pointer(&b[0]))%refAlign)
	return b[skip:][:n]
}

func (r *reference) load() error {
	info, err := r.child.Stat()
	if err != nil {
		return err
	}
	if r.source, err = vhd.NewReader(r.child, info.Size()); err != nil {
		return err
	}
	if info, err = r.parent.Stat(); err != nil {
		return err
	}
	r.end = info.Size() - refFooter
	head := aligned(refAlign)
	if _, err := r.parent.ReadAt(head[:1024+refFooter], 0); err != nil {
		return err
	}
	blocks := int(binary.BigEndian.Uint32(head[512+28:]))
	r.footer = slices.Clone(head[:refFooter])
	raw := aligned((blocks*4 + refAlign - 1) / refAlign * refAlign)
	if _, err := r.parent.ReadAt(raw, refTable); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for i := range blocks {
		r.table = append(r.table, binary.BigEndian.Uint32(raw[i*4:]))
	}
	return nil
}

// merge goes over the blocks of the child.
func (r *reference) merge() error {
	size := r.source.Image().VirtualSize
	for block := int64(0); block*refBlock < size; block++ {
		var pieces []vhd.Extent
		for off, end := block*refBlock, min((block+1)*refBlock, size); off < end; {
			x, err := r.source.Extent(off, end)
			if err != nil {
				return err
			}
			if x.Kind == vhd.Data {
				pieces = append(pieces, x)
			}
			off += x.Length
		}
		if len(pieces) > 0 {
			if err := r.block(block, pieces); err != nil {
				return fmt.Errorf("block %d: %w", block, err)
			}
		}
	}
	return nil
}

func (r *reference) block(n int64, pieces []vhd.Extent) error {
	fresh := r.table[n] == ^uint32(0)
	at := int64(r.table[n]) * 512
	if fresh {
		data := (r.end + refBitmap + refAlign - 1) / refAlign * refAlign
		at = data - refBitmap
		r.end = data + refBlock
	}
	bits := make([]byte, refBitmap)
	for _, x := range pieces {
		b := r.buffer[:x.Length]
		if _, err := r.child.ReadAt(b, x.Host); err != nil {
			return err
		}
		if err := r.write(b, at+refBitmap+x.Offset%refBlock); err != nil {
			return err
		}
		for s := x.Offset % refBlock / 512; s < (x.Offset%refBlock+x.Length)/512; s++ {
			bits[s/8] |= 0x80 >> (s % 8)
		}
	}
	if err := r.write(bits, at); err != nil || !fresh {
		return err
	}
	r.table[n] = uint32(at / 512)
	return errors.Join(r.write(r.footer, r.end), r.entry(n))
}

// entry writes the sector of the table that has the entry of the block.
func (r *reference) entry(n int64) error {
	const each = 512 / 4
	b := make([]byte, 512)
	for i, first := 0, n/each*each; i < each && int(first)+i < len(r.table); i++ {
		binary.BigEndian.PutUint32(b[i*4:], r.table[int(first)+i])
	}
	return r.write(b, refTable+n/each*512)
}

// write writes directly, from memory that is aligned.
func (r *reference) write(b []byte, off int64) error {
	if uintptr(unsafe.Pointer(&b[0]))%refAlign != 0 {
		copied := aligned(len(b))
		copy(copied, b)
		b = copied
	}
	_, err := r.parent.WriteAt(b, off)
	return err
}
