package coord

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// A local storage is one of this host alone: nobody else is told anything, and there is
// nobody to ask.
type local struct {
	dir   string
	mu    sync.Mutex // guards all below
	told  Told
	gen   uint64
	taken chan struct{}
}

// NewLocal is a storage of this host alone.
func NewLocal(dir string) Storage { return &local{dir: dir} }

func (l *local) Dir() string { return l.dir }

func (l *local) Records() (string, error) { return "", fs.ErrNotExist }

func (l *local) UUID() string { return "" }

func (l *local) Locate(string, uint64, uint64) (Layer, bool) { return Layer{}, false }

func (l *local) Tell(ctx context.Context, _ time.Time, claim func(View) Told) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = claim(l.view())
	l.gen++
	return ctx.Err()
}

func (l *local) view() View { return View{Mine: l.told, Generation: l.gen} }

func (l *local) View(ctx context.Context) (View, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view(), ctx.Err()
}

func (l *local) Forget(_ context.Context, name string) error {
	return fmt.Errorf("%s: %w", name, ErrNoSuchHost)
}

func (l *local) Enter(ctx context.Context) (func(), error) { return func() {}, ctx.Err() }

func (l *local) Locks(ctx context.Context) (Crossing, error) { return LocksCross, ctx.Err() }

// Take counts by what is asked for first.
func (l *local) Take(ctx context.Context, n int) (Hold, error) {
	l.mu.Lock()
	if l.taken == nil {
		l.taken = make(chan struct{}, max(n, 1))
	}
	taken := l.taken
	l.mu.Unlock()
	select {
	case taken <- struct{}{}:
		return held(func() { <-taken }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
