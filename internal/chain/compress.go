package chain

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// A Packer is a PackedTarget that can compress.
type Packer interface {
	PackedTarget
	// Packer returns a function that compresses one cluster of Granule bytes, and
	// tells whether that saves space. Several of them may run at once.
	Packer() func(cluster []byte) (Packed, bool)
}

// Bounds of compressing: what is in memory at once, and what is flushed together.
const (
	packBytes    = 16 << 20
	packGranules = 64 << 10
)

// Compress is Convert into compressed clusters. What does not get smaller is
// stored as it is; what the source has compressed in the same way is taken over.
// Nothing is reserved, since nobody knows how much it will be.
func (s *Store) Compress(ctx context.Context, nodes []Node, to Packer, c ConvertOptions, done func(n int64)) error {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return err
	}
	return errors.Join(s.compress(ctx, o.of(nodes...), to, c, done), o.Close())
}

func (s *Store) compress(ctx context.Context, layers []Source, to Packer, c ConvertOptions, done func(int64)) error {
	f, err := newConvert(layers, to, c)
	if err != nil {
		return err
	}
	f.wanted, f.done = nil, done
	if err := to.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(to), err)
	}
	p := &packing{fill: f, to: to, end: to.Image().VirtualSize, sparse: c.Sparse}
	for range runtime.GOMAXPROCS(0) {
		p.packers = append(p.packers, to.Packer())
	}
	if err := p.run(ctx); err != nil {
		return err
	}
	return f.copyBitmaps()
}

// A packing compresses what a fill finds.
type packing struct {
	*fill
	to      Packer
	end     int64 // of the disk
	sparse  bool
	packers []func([]byte) (Packed, bool)
	units   int64 // granules since the last flush
}

// A parcel is one granule on its way.
type parcel struct {
	off, n int64  // n is less than a granule where the disk ends
	bytes  []byte // a whole granule, or nil if packed is there already
	packed Packed
	ok     bool // packed is what to store
}

func (p *packing) run(ctx context.Context) error {
	for off := int64(0); off < p.end; {
		parcels, next, err := p.read(ctx, off)
		if err != nil {
			return err
		}
		if err := p.pack(ctx, parcels); err != nil {
			return err
		}
		if err = p.store(parcels); err == nil {
			err = p.flushMany()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", pathOf(p.to), err)
		}
		off = next
	}
	return p.to.Flush()
}

// read takes in granules from off on until memory is used up, and returns where
// it got. What reads as zeros is done with here.
func (p *packing) read(ctx context.Context, off int64) (parcels []parcel, next int64, err error) {
	g := p.to.Granule()
	for read := int64(0); off < p.end && read < packBytes && p.units < packGranules; {
		if err := ctx.Err(); err != nil {
			return nil, off, err
		}
		n, err := p.skip(off)
		if err != nil {
			return nil, off, err
		}
		if n == 0 {
			one, err := p.take(off)
			if err != nil {
				return nil, off, err
			}
			if one.n > 0 {
				parcels = append(parcels, one)
			}
			n = min(g, p.end-off)
			read += n
		}
		off += n
	}
	return parcels, off, nil
}

// skip tells how many bytes of whole granules from off on are holes or zeros.
func (p *packing) skip(off int64) (int64, error) {
	x, err := p.from.Find(off, p.end)
	if err != nil || x.Kind != Hole && x.Kind != Zero {
		return 0, err
	}
	n := x.Length
	if x.End() < p.end {
		n &^= p.to.Granule() - 1
	}
	if n == 0 || x.Kind == Hole {
		return n, nil
	}
	n = min(n, packGranules*p.to.Granule())
	return n, p.zero(off, n)
}

// zero makes zeros where something would show through a hole.
func (p *packing) zero(off, n int64) error {
	if off >= p.below {
		return nil
	}
	p.units += (n + p.to.Granule() - 1) / p.to.Granule()
	return p.to.Zero(off, n)
}

// take reads one granule; without a length if there is nothing to store.
func (p *packing) take(off int64) (one parcel, err error) {
	g := p.to.Granule()
	n := min(g, p.end-off)
	if want, err := p.any(off, off+n); err != nil || !want {
		return one, err
	}
	x, err := p.from.Find(off, off+n)
	if err != nil {
		return one, err
	}
	if x.Kind == Compressed && x.Length == n && p.packs(x, n) {
		packed, err := p.from.layers[x.Layer].(PackedSource).Packed(off)
		return parcel{off, n, nil, packed, true}, err
	}
	b := make([]byte, g)
	if _, err := p.view.ReadAt(b[:n], off); err != nil {
		return one, err
	}
	if p.sparse && AllZero(b) {
		p.told(n)
		return one, p.zero(off, n)
	}
	return parcel{off: off, n: n, bytes: b}, nil
}

// pack compresses the parcels side by side.
func (p *packing) pack(ctx context.Context, parcels []parcel) error {
	g, ctx := errgroup.WithContext(ctx)
	for first, pack := range p.packers {
		g.Go(func() error {
			for i := first; i < len(parcels) && ctx.Err() == nil; i += len(p.packers) {
				if one := &parcels[i]; one.bytes != nil {
					one.packed, one.ok = pack(one.bytes)
					one.packed.Offset = one.off
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// store writes the parcels in their order.
func (p *packing) store(parcels []parcel) error {
	for i := range parcels {
		if err := p.storeOne(&parcels[i]); err != nil {
			return err
		}
		p.told(parcels[i].n)
	}
	p.units += int64(len(parcels))
	return nil
}

// flushMany flushes when there is much to be flushed.
func (p *packing) flushMany() error {
	if p.units < packGranules {
		return nil
	}
	p.units = 0
	return p.to.Flush()
}

func (p *packing) storeOne(one *parcel) error {
	if one.ok {
		return p.to.PutPacked(one.packed)
	}
	placed, err := p.to.Place([]Piece{{Offset: one.off, Length: one.n}})
	if err != nil {
		return err
	}
	_, err = p.to.Host().WriteAt(one.bytes[:one.n], placed[0].Host)
	return err
}
