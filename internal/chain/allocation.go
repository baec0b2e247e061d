package chain

import (
	"context"
	"errors"
	"iter"
	"math"
)

// AllocationDiffers tells where the disk a first has something that b has not, or has
// otherwise, in bytes. Both are of one size.
func (s *Store) AllocationDiffers(ctx context.Context, a, b []Node) (off int64, differs bool, err error) {
	next, stop := iter.Pull2(s.mappings(ctx, b))
	defer stop()
	var y Mapping
	for x, err := range s.mappings(ctx, a) {
		if err != nil {
			return 0, false, err
		}
		for off = x.Start; off < x.Start+x.Length; off = min(x.Start+x.Length, y.Start+y.Length) {
			if off >= y.Start+y.Length {
				if y, err, _ = next(); err != nil {
					return 0, false, err
				}
			}
			if !sameStatus(x, y) {
				return off, true, nil
			}
		}
	}
	return 0, false, nil
}

func sameStatus(x, y Mapping) bool {
	return x.Present == y.Present && x.Zero == y.Zero && x.Data == y.Data && (x.Host == NoHost) == (y.Host == NoHost)
}

var errEnough = errors.New("enough")

// mappings goes over a disk; an error comes last.
func (s *Store) mappings(ctx context.Context, nodes []Node) iter.Seq2[Mapping, error] {
	return func(yield func(Mapping, error) bool) {
		err := s.Map(ctx, nodes, 0, math.MaxInt64, func(m Mapping) error {
			if !yield(m, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Mapping{}, err)
		}
	}
}
