package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// sparseGranule is how many zeros in a row are worth being left out, in bytes.
const sparseGranule = 4096

// sampleBytes is how much of a granule is looked at before all of it is read.
const sampleBytes = 512

// ConvertOptions say how an image is copied into a new one.
type ConvertOptions struct {
	// Sparse looks for zeros in data and leaves them out; with RawOnly only in data
	// of raw layers. The others have flags for zeros.
	Sparse  bool
	RawOnly bool
	// Own copies what the layer itself has, zeros included, and not what it
	// builds on.
	Own bool
	// State is the one of the uppermost image that is copied; nil: what the guest sees now.
	State func(image Source) (Source, error)
	// Layers is how many of the highest layers Own copies; 0 means one.
	Layers int
	// Bitmaps lets the new image have the persistent bitmaps of the uppermost one, as they are, or of the
	// layers that Own copies.
	Bitmaps bool
}

// of puts the state that is copied in the place of its image.
func (c *ConvertOptions) of(layers []Source) ([]Source, error) {
	if c.State == nil {
		return layers, nil
	}
	top := len(layers) - 1
	state, err := c.State(layers[top])
	return append(slices.Clone(layers[:top]), state), err
}

func (c *ConvertOptions) layers() int { return max(1, c.Layers) }

// Convert copies the disk that nodes, base first, form into a fresh Target,
// which is of the same size and empty. It closes nothing.
func (s *Store) Convert(ctx context.Context, nodes []Node, to Target, c ConvertOptions, done func(n int64)) error {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return err
	}
	return errors.Join(s.convert(ctx, o.of(nodes...), to, c, done), o.Close())
}

func (s *Store) convert(ctx context.Context, layers []Source, to Target, c ConvertOptions, done func(int64)) error {
	f, err := newConvert(layers, to, c)
	if err != nil {
		return err
	}
	return f.fresh(ctx, done)
}

// fresh fills a target that is empty, to the end.
func (f *fill) fresh(ctx context.Context, done func(int64)) error {
	f.done = done
	if err := f.to.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(f.to), err)
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	if err := f.to.Flush(); err != nil {
		return err
	}
	return f.copyBitmaps()
}

func newConvert(layers []Source, to Target, c ConvertOptions) (*fill, error) {
	layers, err := c.of(layers)
	if err != nil {
		return nil, err
	}
	view, err := NewStack(layers...)
	if err != nil {
		return nil, err
	}
	from := view
	f := &fill{to: to, from: from, except: NoLayer, view: view}
	if c.Bitmaps {
		f.merged = layers[len(layers)-c.layers():]
	}
	if c.Own {
		if f.from, err = NewStack(layers[len(layers)-c.layers():]...); err != nil {
			return nil, err
		}
		if len(layers) > c.layers() {
			f.below = view.Size() // where there is nothing below, zeros need not be stored
		}
	}
	if err := f.from.LookForHoles(f.from.Depth()); err != nil {
		return nil, err
	}
	if c.Sparse && !c.Own { // left out of an overlay, zeros would uncover what is below
		f.wanted = (&sparse{from: f.from, granule: max(to.Granule(), sparseGranule), rawOnly: c.RawOnly}).at
	}
	return f, nil
}

// A sparse leaves zeros out.
type sparse struct {
	from    *Stack
	granule int64
	rawOnly bool
	buf     []byte
}

// at tells whether the first n bytes of x hold anything but zeros.
func (s *sparse) at(x Found) (want bool, n int64, err error) {
	if x.Kind != Data || s.rawOnly && s.from.layers[x.Layer].Image().Format != "raw" {
		return true, x.Length, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, max(1<<20, s.granule))
	}
	if n, err := s.sampled(x); n > 0 || err != nil {
		return true, n, err
	}
	b := s.buf[:min(int64(len(s.buf)), x.Length)]
	if _, err := s.from.layers[x.Layer].ReadAt(b, x.Offset); err != nil {
		return false, 0, err
	}
	return s.split(b)
}

// sampled tells how much from the beginning of x on is not zeros, by the first bytes of each
// granule: most data need not be read for that. It may be more that is not.
func (s *sparse) sampled(x Found) (n int64, err error) {
	for n < x.Length {
		b := s.buf[:min(sampleBytes, x.Length-n)]
		if _, err := s.from.layers[x.Layer].ReadAt(b, x.Offset+n); err != nil {
			return 0, err
		}
		if AllZero(b) {
			break
		}
		n += min(s.granule, x.Length-n)
	}
	return n, nil
}

// mark is fill.zeroed.
func (s *sparse) mark(x *Found) error {
	want, n, err := s.at(*x)
	if x.Length = n; !want {
		x.Kind, x.Host = Zero, NoHost
	}
	return err
}

// split finds out how far b is of one kind, in granules.
func (s *sparse) split(b []byte) (want bool, n int64, err error) {
	g := min(s.granule, int64(len(b)))
	want = !AllZero(b[:g])
	for n = g; n < int64(len(b)); n += g {
		if next := b[n:min(n+g, int64(len(b)))]; AllZero(next) == want {
			return want, n, nil
		}
	}
	return want, int64(len(b)), nil
}
