package chain

import (
	"context"
	"errors"
)

// A Mapping is a stretch of a disk as qemu-img map tells it. Bytes.
type Mapping struct {
	Start, Length int64
	Depth         int   // of the layer that decides: 0 is the uppermost
	Present       bool  // that layer has it; else it is zeros because nothing has it
	Zero          bool  // reads as zeros; together with Data: never written, in a hole of the file
	Data          bool  // has clusters
	Host          int64 // where in the layer's file, or NoHost
}

// goesOn tells whether b says the same as m right after it.
func (m Mapping) goesOn(b Mapping) bool {
	if m.Depth != b.Depth || m.Present != b.Present || m.Zero != b.Zero || m.Data != b.Data {
		return false
	}
	if m.Host == NoHost || b.Host == NoHost {
		return m.Host == b.Host
	}
	return m.Host+m.Length == b.Host
}

// Map visits what the disk that nodes, base first, form has in [from, to), in
// order and as long as it is alike. To may be beyond the end of the disk.
func (s *Store) Map(ctx context.Context, nodes []Node, from, to int64, visit func(Mapping) error) error {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return err
	}
	m, err := newMapper(o.of(nodes...))
	if err == nil {
		err = m.run(ctx, from, min(to, m.stack.Size()), visit)
	}
	return errors.Join(err, o.Close())
}

// A mapper goes over a stack.
type mapper struct {
	stack  *Stack
	layers []Source
	sparse []bool // layers with data in holes of their files
	length []int64
}

// newMapper asks the layers that can tell whether they have data in holes.
func newMapper(layers []Source) (*mapper, error) {
	stack, err := NewStack(layers...)
	if err != nil {
		return nil, err
	}
	m := &mapper{stack, layers, make([]bool, len(layers)), make([]int64, len(layers))}
	for i, l := range layers {
		info, err := hostOf(l).Stat()
		if err != nil {
			return nil, err
		}
		m.length[i] = info.Size
		if p, ok := l.(interface{ Preallocated() (bool, error) }); ok {
			if m.sparse[i], err = p.Preallocated(); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func (m *mapper) run(ctx context.Context, from, end int64, visit func(Mapping) error) error {
	var last Mapping
	for off := from; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		next, err := m.at(off, end)
		if err != nil {
			return err
		}
		off += next.Length
		if last.Length > 0 && last.goesOn(next) {
			last.Length += next.Length
			continue
		}
		if last.Length > 0 {
			if err := visit(last); err != nil {
				return err
			}
		}
		last = next
	}
	if last.Length == 0 {
		return nil
	}
	return visit(last)
}

// at returns what begins at off.
func (m *mapper) at(off, end int64) (Mapping, error) {
	f, err := m.stack.Find(off, end)
	if err != nil {
		return Mapping{}, err
	}
	top := len(m.layers) - 1
	next := Mapping{Start: off, Length: f.Length, Depth: top - f.Layer, Present: true, Host: f.Host}
	switch {
	case f.Layer == NoLayer:
		return m.nothing(next, 0)
	case f.Layer < top && off >= m.layers[f.Layer].Image().VirtualSize:
		return m.nothing(next, f.Layer+1) // the layer above it decides
	case f.Kind == Zero:
		next.Zero = true
	case f.Kind == Data:
		next.Data = true
		return m.data(next, f.Layer)
	default:
		next.Data = true
	}
	return next, nil
}

// nothing is a hole that layer i ends. The image may have room there.
func (m *mapper) nothing(next Mapping, i int) (Mapping, error) {
	next.Depth, next.Present, next.Zero, next.Host = len(m.layers)-1-i, false, true, NoHost
	l, ok := m.layers[i].(interface {
		Room(off, end int64) (host, n int64, err error)
	})
	if !ok {
		return next, nil
	}
	var err error
	next.Host, next.Length, err = l.Room(next.Start, next.Start+next.Length)
	return next, err
}

// data divides data of layer i where its file has holes, or ends.
func (m *mapper) data(next Mapping, i int) (Mapping, error) {
	if m.sparse[i] {
		start, end, err := hostOf(m.layers[i]).NextData(next.Host)
		if err != nil {
			return next, err
		}
		if next.Zero = start > next.Host; next.Zero {
			end = start
			if start == m.length[i] {
				return next, nil // nothing but zeros up to the end of the file
			}
		}
		next.Length = min(next.Length, end-next.Host)
		return next, nil
	}
	if _, raw := m.layers[i].(*Raw); raw && next.Host+next.Length > m.length[i] {
		if next.Host >= m.length[i] {
			next.Zero, next.Data = true, false
			return next, nil
		}
		next.Length = m.length[i] - next.Host
	}
	return next, nil
}
