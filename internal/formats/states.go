package formats

import (
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// States are the internal snapshots of an open image, in the order of their table.
func States(src chain.Source) ([]chain.State, error) {
	f, err := Named(src.Image().Format)
	if err != nil {
		return nil, err
	}
	if f.States == nil {
		return nil, chain.ErrNoStates
	}
	return f.States(src)
}

// qcow2States are the internal snapshots of an open image, in the order of their table.
func qcow2States(src chain.Source) ([]chain.State, error) {
	m, ok := src.(*qcow2.Image)
	if !ok {
		return nil, chain.ErrNoStates
	}
	list, err := m.Snapshots()
	if err != nil {
		return nil, err
	}
	states := make([]chain.State, 0, len(list))
	for _, s := range list {
		state := chain.State{ID: s.ID, Name: s.Name, Time: time.Unix(s.Seconds, s.Nanoseconds), Clock: time.Duration(s.Clock), MemorySize: s.StateSize}
		if state.Source, err = m.At(s); err != nil {
			return nil, err
		}
		if s.StateSize > 0 {
			if state.Memory, err = m.MemoryAt(s); err != nil {
				return nil, err
			}
		}
		states = append(states, state)
	}
	return states, nil
}
