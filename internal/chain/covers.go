package chain

import (
	"context"
	"errors"
)

// Covers tells whether the lower image has something of its own wherever the upper
// one has: what a merge that moved all data leaves. It compares no data. Both paths
// are of images that build on each other; formats may not be empty.
func (s *Store) Covers(ctx context.Context, lower, upper Node) (bool, error) {
	o, err := s.openAll([]Node{lower, upper}, func(Node) access { return toRead })
	if err != nil {
		return false, err
	}
	all, err := covers(ctx, o.sources[lower.Info.ID], o.sources[upper.Info.ID])
	return all, errors.Join(err, o.Close())
}

func covers(ctx context.Context, lower, upper Source) (bool, error) {
	if lower.Image().VirtualSize < upper.Image().VirtualSize {
		return false, nil
	}
	end := upper.Image().VirtualSize
	for off := int64(0); off < end; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		x, err := upper.Extent(off, end)
		if err != nil {
			return false, err
		}
		off = x.End()
		if x.Kind == Hole {
			continue
		}
		if all, err := filled(lower, x.Offset, x.End()); !all || err != nil {
			return false, err
		}
	}
	return true, nil
}

// filled tells whether the image has no holes in [off, end). A hole of a raw disk is zeros.
func filled(s Source, off, end int64) (bool, error) {
	for off < end {
		x, err := s.Extent(off, end)
		if err != nil || x.Kind == Hole && s.Image().Format != "raw" {
			return false, err
		}
		off = x.End()
	}
	return true, nil
}
