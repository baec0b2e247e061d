package chain

import "errors"

// A View is a disk as a guest reads it through its chain, open and locked against writers.
type View struct {
	*Stack
	opened *opened
}

// View opens a chain, lowest first, for reading.
func (s *Store) View(nodes []Node) (*View, error) {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return nil, err
	}
	stack, err := NewStack(o.of(nodes...)...)
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return &View{stack, o}, nil
}

// Close closes all layers.
func (v *View) Close() error { return v.opened.Close() }
