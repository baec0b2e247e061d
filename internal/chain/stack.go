package chain

import (
	"fmt"
)

// A Stack is a chain of open images, read as one disk. It is not safe for
// concurrent use.
type Stack struct {
	layers []Source // base first
	seen   []Extent // the last extent of each layer
	sizes  []int64  // virtual sizes of the layers, in bytes
	size   int64    // that of the uppermost
	holes  []*holes // of layers whose files are asked for them; nil for all others
}

// NewStack returns the disk that the layers, base first, form. Encrypted ones
// cannot be read.
func NewStack(layers ...Source) (*Stack, error) {
	s := &Stack{layers: layers, seen: make([]Extent, len(layers)), sizes: make([]int64, len(layers))}
	for i, l := range layers {
		image := l.Image()
		if image.Encrypted {
			return nil, refused(pathOf(l), "it is encrypted: its data cannot be read without the key")
		}
		s.sizes[i], s.size = image.VirtualSize, image.VirtualSize
	}
	return s, nil
}

// Size is the virtual size of the uppermost layer, in bytes.
func (s *Stack) Size() int64 { return s.size }

// Depth is how many layers there are.
func (s *Stack) Depth() int { return len(s.layers) }

// Forget drops what was remembered of extents and of sizes: a layer has changed.
func (s *Stack) Forget() {
	clear(s.seen)
	for i, l := range s.layers {
		s.sizes[i] = l.Image().VirtualSize
	}
}

// NoLayer is the layer of what no layer has.
const NoLayer = -1

// A Found is an extent with the layer that it was found in, counted from the
// base; NoLayer for a Hole through all layers. Beyond the end of a layer that is
// shorter than those above, it is Zero, whatever is below: so QEMU reads it.
type Found struct {
	Extent
	Layer int
}

// Find returns what the disk has at off, up to end at most.
func (s *Stack) Find(off, end int64) (Found, error) {
	for i := len(s.layers) - 1; i >= 0; i-- {
		size := s.sizes[i]
		if off >= size {
			return Found{Extent{off, end - off, Zero, NoHost}, i}, nil
		}
		x, err := s.extent(i, off, min(end, size))
		if err != nil {
			return Found{}, fmt.Errorf("%s: %w", pathOf(s.layers[i]), err)
		}
		end = x.End()
		if x.Kind == Data && s.holes != nil && s.holes[i] != nil {
			if x, err = s.holes[i].divide(x); err != nil {
				return Found{}, fmt.Errorf("%s: %w", pathOf(s.layers[i]), err)
			}
		}
		if x.Kind != Hole {
			return Found{x, i}, nil
		}
	}
	return Found{Extent{off, end - off, Hole, NoHost}, NoLayer}, nil
}

// extent asks layer i, or remembers what it said last.
func (s *Stack) extent(i int, off, end int64) (Extent, error) {
	last := s.seen[i]
	if last.Length == 0 || off < last.Offset || off >= last.End() || last.Kind == Compressed {
		x, err := s.layers[i].Extent(off, s.sizes[i])
		if err != nil {
			return Extent{}, err
		}
		s.seen[i], last = x, x
	}
	return last.from(off).Cut(end), nil
}

// from returns the part of e from off on.
func (e Extent) from(off int64) Extent {
	skip := off - e.Offset
	e.Offset, e.Length = off, e.Length-skip
	if e.Host != NoHost {
		e.Host += skip
	}
	return e
}

// ReadAt fills p with what the disk has at off; beyond its end that is zeros.
func (s *Stack) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= s.size {
			clear(p[done:])
			break
		}
		f, err := s.Find(at, min(s.size, off+int64(len(p))))
		if err != nil {
			return done, err
		}
		if err := s.read(p[done:done+int(f.Length)], f); err != nil {
			return done, err
		}
		done += int(f.Length)
	}
	return len(p), nil
}

func (s *Stack) read(p []byte, f Found) error {
	if f.Kind == Hole || f.Kind == Zero {
		clear(p)
		return nil
	}
	_, err := s.layers[f.Layer].ReadAt(p, f.Offset)
	if err != nil {
		return fmt.Errorf("%s: %w", pathOf(s.layers[f.Layer]), err)
	}
	return nil
}
