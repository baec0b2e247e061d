package chain

import (
	"context"
	"fmt"
)

// A bitmapKeeper is a target that has persistent bitmaps, or could have some.
type bitmapKeeper interface {
	// CanKeepBitmaps tells what KeepBitmaps would refuse, while the disk gets so many bytes.
	// Unless it refuses, Writable and Prepare allow for bitmaps from then on.
	CanKeepBitmaps(size int64, others []Source) error
	// KeepBitmaps marks in all enabled bitmaps what is about to be written, and brings in
	// the bitmaps of others, durably.
	KeepBitmaps(dirty []Piece, others []Source) error
}

// hasBitmaps tells whether the target, or a layer whose data it gets, has bitmaps.
func (f *fill) hasBitmaps() bool {
	for _, s := range append([]Source{f.to}, f.merged...) {
		if s.Image().Bitmaps > 0 {
			return true
		}
	}
	return false
}

// canKeepBitmaps refuses a merge after which a bitmap would be lost, or say too little.
func (f *fill) canKeepBitmaps(size int64) error {
	if !f.hasBitmaps() {
		return nil
	}
	reason := "it cannot keep the persistent bitmaps, which incremental backups need, of the layers that are merged"
	to, ok := f.to.(bitmapKeeper)
	if !ok {
		return refused(pathOf(f.to), "%s", reason)
	}
	if err := to.CanKeepBitmaps(size, f.merged); err != nil {
		return because(refused(pathOf(f.to), "%s", reason), err)
	}
	return nil
}

// keepBitmaps comes before anything is written: at a crash the bitmaps say too much, never
// too little.
func (f *fill) keepBitmaps(ctx context.Context) error {
	to, ok := f.to.(bitmapKeeper)
	if !ok || !f.hasBitmaps() {
		return nil
	}
	var dirty []Piece
	err := f.rounds(ctx, func(r *round) error {
		for _, s := range r.data {
			dirty = appendPiece(dirty, s.Piece)
		}
		for _, s := range r.packed {
			dirty = appendPiece(dirty, s.Piece)
		}
		for _, p := range append(r.read, r.zeros...) {
			dirty = appendPiece(dirty, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := to.KeepBitmaps(dirty, f.merged); err != nil {
		return fmt.Errorf("%s: bitmaps: %w", pathOf(f.to), err)
	}
	return nil
}

// copyBitmaps lets a copy that has all of the data have the bitmaps as they are.
func (f *fill) copyBitmaps() error {
	if len(f.merged) == 0 || !f.hasBitmaps() {
		return nil
	}
	to, ok := f.to.(bitmapKeeper)
	if !ok {
		return refused(pathOf(f.to), "images of format %s have no persistent bitmaps", f.to.Image().Format)
	}
	if err := to.KeepBitmaps(nil, f.merged); err != nil {
		return fmt.Errorf("%s: bitmaps: %w", pathOf(f.to), err)
	}
	return nil
}

// appendPiece joins neighbours: only where they are counts.
func appendPiece(list []Piece, p Piece) []Piece {
	if k := len(list) - 1; k >= 0 && list[k].Offset+list[k].Length == p.Offset {
		list[k].Length += p.Length
		return list
	}
	return append(list, p)
}
