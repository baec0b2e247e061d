package chain

import (
	"bytes"
	"context"
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Comparison says how two disks differ.
type Comparison struct {
	Same   bool
	Offset int64 // the first byte that differs, if the contents do
	Longer bool  // one is longer, and what it has more is not all zeros: Offset is there
	Sizes  bool  // the sizes differ
}

// Compare compares what two guests would read. With strict, a stretch that one
// has and the other has not is a difference, too, and so is another size.
func (s *Store) Compare(ctx context.Context, a, b []Node, strict bool, done func(n int64)) (c Comparison, err error) {
	return s.compare(ctx, a, b, func(p *pairing) { p.strict, p.done = strict, done })
}

// CompareShared is a Compare that does not read what both have in extents that they
// share: it reads what was copied, and nothing else. It tells how much that was.
func (s *Store) CompareShared(ctx context.Context, a, b []Node, strict bool) (c Comparison, read int64, err error) {
	var p *pairing
	c, err = s.compare(ctx, a, b, func(q *pairing) { p, q.strict, q.trust = q, strict, true })
	if p != nil {
		read = p.bytes
	}
	return c, read, err
}

func (s *Store) compare(ctx context.Context, a, b []Node, set func(*pairing)) (c Comparison, err error) {
	nodes := append([]Node(nil), a...)
	for _, n := range b {
		if !containsID(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return c, err
	}
	x, err := NewStack(o.of(a...)...)
	if err == nil {
		var y *Stack
		if y, err = NewStack(o.of(b...)...); err == nil {
			p := &pairing{x: x, y: y}
			set(p)
			c, err = p.run(ctx)
		}
	}
	return c, errors.Join(err, o.Close())
}

func containsID(nodes []Node, n Node) bool {
	for _, o := range nodes {
		if o.Info.ID == n.Info.ID {
			return true
		}
	}
	return false
}

func (p *pairing) run(ctx context.Context) (Comparison, error) {
	x, y := p.x, p.y
	c := Comparison{Sizes: x.Size() != y.Size()}
	if c.Sizes && p.strict {
		return c, nil
	}
	end := max(x.Size(), y.Size())
	for off := int64(0); off < end; {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		at, n, err := p.next(off, end)
		if err != nil {
			return c, err
		}
		if at >= 0 {
			c.Offset, c.Longer = at, at >= min(x.Size(), y.Size())
			return c, nil
		}
		if p.done != nil {
			p.done(n)
		}
		off += n
	}
	c.Same = true
	return c, nil
}

// A pairing compares two disks stretch by stretch.
type pairing struct {
	x, y   *Stack
	strict bool
	trust  bool  // what lies in shared extents is not read
	bytes  int64 // that were read of each
	done   func(n int64)
	a, b   []byte
}

// next compares from off on, for n bytes; at is where they differ, or -1.
func (p *pairing) next(off, end int64) (at, n int64, err error) {
	f, err := find(p.x, off, end)
	if err != nil {
		return -1, 0, err
	}
	g, err := find(p.y, off, f.End())
	if err != nil {
		return -1, 0, err
	}
	n = g.Length
	switch {
	case p.strict && (f.Kind == Hole) != (g.Kind == Hole):
		return off, n, nil
	case reads0(f) && reads0(g):
		return -1, n, nil
	case f.Kind == Data && g.Kind == Data && f.Host == g.Host && p.x.layers[f.Layer] == p.y.layers[g.Layer]:
		return -1, n, nil
	}
	if k := p.shared(f, g, n); k > 0 {
		return -1, k, nil
	}
	n = min(n, bounceChunk)
	at, err = p.read(off, n)
	return at, n, err
}

// shared tells how many of the n bytes both have in one extent of the file system.
func (p *pairing) shared(f, g Found, n int64) int64 {
	if !p.trust || f.Kind != Data || g.Kind != Data {
		return 0
	}
	host, ok := p.x.layers[f.Layer].Host().(vfs.Sharer)
	if !ok {
		return 0
	}
	return host.Shares(f.Host, hostOf(p.y.layers[g.Layer]), g.Host, n)
}

// find is Stack.Find, with zeros beyond the end of the disk.
func find(s *Stack, off, end int64) (Found, error) {
	if off >= s.Size() {
		return Found{Extent{off, end - off, Hole, NoHost}, NoLayer}, nil
	}
	return s.Find(off, min(end, s.Size()))
}

func (p *pairing) read(off, n int64) (int64, error) {
	if p.a == nil {
		p.a, p.b = make([]byte, bounceChunk), make([]byte, bounceChunk)
	}
	a, b := p.a[:n], p.b[:n]
	p.bytes += n
	if err := readBoth(p.x, a, p.y, b, off); err != nil {
		return -1, err
	}
	if bytes.Equal(a, b) {
		return -1, nil
	}
	for i := range a {
		if a[i] != b[i] {
			return off + int64(i), nil
		}
	}
	return -1, nil
}
