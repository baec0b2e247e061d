package chain

import (
	"context"
	"errors"
	"io"
)

// Stream writes the disk that nodes, base first, form to w, all bytes in a row.
func (s *Store) Stream(ctx context.Context, nodes []Node, w io.Writer, done func(n int64)) error {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return err
	}
	view, err := NewStack(o.of(nodes...)...)
	if err == nil {
		err = view.stream(ctx, w, done)
	}
	return errors.Join(err, o.Close())
}

func (s *Stack) stream(ctx context.Context, w io.Writer, done func(int64)) error {
	buf := make([]byte, bounceChunk)
	for off := int64(0); off < s.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), s.Size()-off)]
		if _, err := s.ReadAt(b, off); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		done(int64(len(b)))
		off += int64(len(b))
	}
	return nil
}
