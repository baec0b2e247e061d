package chain

import (
	"context"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Room is what of a disk that nobody has written to takes space all the same.
type Room int

// The kinds of room, as qemu-img's preallocation has them.
const (
	RoomNone     Room = iota
	RoomMetadata      // places are given, and are holes of the file
	RoomFalloc        // the file system keeps space for them
	RoomFull          // zeros are written there
)

// roomRound bounds what is placed and flushed together, in granules.
const roomRound = 64 << 10

// MakeRoom gives all that to has not as data, from byte from on, the places that it would
// get when it is written to. It reads as zeros before and after, and at every crash point.
func MakeRoom(ctx context.Context, to Target, room Room, from int64, done func(n int64)) error {
	if room == RoomNone {
		return nil
	}
	end := to.Image().VirtualSize
	for off := roundUp(from, to.Granule()); off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		pieces, next, err := roomless(to, off, end)
		if err == nil && len(pieces) > 0 {
			err = placeRoom(ctx, to, room, pieces, done)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", pathOf(to), err)
		}
		off = next
	}
	return nil
}

// roomless lists what is not data in the granules from off on, and tells how far it has looked.
func roomless(to Target, off, end int64) (pieces []Piece, next int64, err error) {
	g := to.Granule()
	stop := min(end, off+roomRound*g)
	for off < stop {
		x, err := to.Extent(off, stop)
		if err != nil {
			return nil, off, err
		}
		n := x.Length
		if x.End() < end {
			n &^= g - 1
		}
		if n == 0 { // a granule with data in it has its place
			off += min(g, end-off)
			continue
		}
		if x.Kind == Hole || x.Kind == Zero {
			pieces = append(pieces, Piece{Offset: off, Length: n})
		}
		off += n
	}
	return joinPieces(pieces), off, nil
}

// placeRoom makes zeros of what is placed before the image shows it.
func placeRoom(ctx context.Context, to Target, room Room, pieces []Piece, done func(int64)) error {
	placed, err := to.Place(pieces)
	if err != nil {
		return err
	}
	host := hostOf(to)
	for _, p := range placed {
		if err := clearRoom(ctx, host, room, p); err != nil {
			return err
		}
		if done != nil {
			done(p.Length)
		}
	}
	return to.Flush()
}

func clearRoom(ctx context.Context, host vfs.File, room Room, p Piece) error {
	if room == RoomFull {
		return writeZeros(ctx, host, p.Host, p.Length)
	}
	if err := host.Punch(p.Host, p.Length); err != nil {
		return err
	}
	size, err := host.Size()
	if err == nil && p.Host+p.Length > size { // tables name nothing beyond the end of a file
		_, err = host.WriteAt(zeros[:1], p.Host+p.Length-1)
	}
	if err == nil && room == RoomFalloc {
		err = host.Reserve(p.Host, p.Length)
	}
	return err
}

func writeZeros(ctx context.Context, host vfs.File, off, n int64) error {
	b := make([]byte, min(n, bounceChunk))
	for end := off + n; off < end; off += int64(len(b)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := host.WriteAt(b[:min(int64(len(b)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}
