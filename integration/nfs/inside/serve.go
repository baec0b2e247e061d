package inside

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"sync"
)

// None is for calls that take or return nothing.
type None struct{}

// Serve answers calls until the connection ends.
func Serve(conn io.ReadWriteCloser) error {
	s := rpc.NewServer()
	open := &things{all: map[int]any{}}
	if err := errors.Join(s.Register(&Machine{}), s.Register(&Images{open}), s.Register(&Storages{open})); err != nil {
		return err
	}
	s.ServeConn(conn)
	return nil
}

// Things are what stays open between calls, by number.
type things struct {
	mu   sync.Mutex // guards all below
	all  map[int]any
	last int
}

func (t *things) add(thing any) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.all[t.last] = thing
	return t.last
}

// thing finds one; it is an error if it is not of type T.
func thing[T any](t *things, number int) (T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.all[number].(T)
	if !ok {
		return found, fmt.Errorf("nothing of that kind has number %d", number)
	}
	return found, nil
}
