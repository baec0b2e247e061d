package chain

import (
	"context"
	"errors"
)

// Occupied counts the bytes of the clusters of that size that a copy of the disk has to have
// data in, by what tables and holes say.
func (s *Store) Occupied(ctx context.Context, nodes []Node, c ConvertOptions, cluster int64) (bytes int64, err error) {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return 0, err
	}
	layers, err := c.of(o.of(nodes...))
	if err == nil {
		bytes, err = occupied(ctx, layers, cluster)
	}
	return bytes, errors.Join(err, o.Close())
}

func occupied(ctx context.Context, layers []Source, cluster int64) (bytes int64, err error) {
	stack, err := NewStack(layers...)
	if err == nil {
		err = stack.LookForHoles(stack.Depth())
	}
	for off := int64(0); err == nil && off < stack.Size(); {
		if err = ctx.Err(); err != nil {
			break
		}
		var x Found
		if x, err = stack.Find(off, stack.Size()); err != nil {
			break
		}
		off = x.End()
		if x.Kind == Data || x.Kind == Compressed {
			off = roundUp(off, cluster)
			bytes += off - x.Offset&^(cluster-1)
		}
	}
	return bytes, err
}
