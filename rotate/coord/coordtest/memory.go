package coordtest

import (
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// A Memory is a Store of one process, for tests of what is decided by one. Etcd's own tests are
// those of members that run.
type Memory struct {
	// Lost is what each slot says of itself.
	Lost error

	mu       sync.Mutex // guards all below
	values   map[string][]byte
	changed  map[string]int64
	revision int64
}

var _ coord.Store = (*Memory)(nil)

// String names it.
func (m *Memory) String() string { return "memory" }

// List never fails.
func (m *Memory) List(ctx context.Context, prefix string) (map[string][]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := maps.Clone(m.values)
	maps.DeleteFunc(found, func(key string, _ []byte) bool { return !strings.HasPrefix(key, prefix) })
	if found == nil {
		found = map[string][]byte{}
	}
	return found, m.revision, ctx.Err()
}

// Get is of the last revision.
func (m *Memory) Get(ctx context.Context, key string, _ int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], ctx.Err()
}

// Change is guarded as etcd's is.
func (m *Memory) Change(ctx context.Context, guard string, revision int64, put map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, at := range m.changed {
		if strings.HasPrefix(key, guard) && at > revision {
			return coord.ErrChanged
		}
	}
	if m.values == nil {
		m.values, m.changed = map[string][]byte{}, map[string]int64{}
	}
	m.revision++
	for key, value := range put {
		m.values[key], m.changed[key] = value, m.revision
	}
	return ctx.Err()
}

// Hold waits for nobody: all slots are free.
func (m *Memory) Hold(ctx context.Context, _ string, _ int) (coord.Hold, error) {
	return memoryHold{m.Lost}, ctx.Err()
}

type memoryHold struct{ lost error }

// Release does nothing.
func (h memoryHold) Release() {}

// Err is what the store was told to say.
func (h memoryHold) Err() error { return h.lost }
