package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A State is one of several that an image holds: an internal snapshot, or what the guest
// sees now.
type State struct {
	ID, Name   string // "" for the active state; not to be trusted
	Time       time.Time
	Clock      time.Duration // of the guest
	Source     Source
	Memory     io.Reader // of a guest that ran; nil for none
	MemorySize int64     // bytes
}

// WriteMemory writes the saved memory, tells of what is written, and stops when ctx ends.
func (s *State) WriteMemory(ctx context.Context, to io.Writer, done func(n int64)) error {
	_, err := io.Copy(&memoryWriter{ctx, to, done}, s.Memory)
	return err
}

// A memoryWriter is what io.Copy writes to.
type memoryWriter struct {
	ctx  context.Context //nolint:containedctx // io.Copy has none
	to   io.Writer
	done func(n int64)
}

func (w *memoryWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.to.Write(b)
	w.done(int64(n))
	return n, err
}

// A sharing source knows what it has in common with another state of the same file.
type sharing interface {
	SharedWith(other Source, off, end int64) (shared bool, n int64, err error)
}

// sharedWith is false where that is not known.
func sharedWith(x, y Source, off, end int64) (shared bool, n int64, err error) {
	if s, ok := x.(sharing); ok && y != nil {
		return s.SharedWith(y, off, end)
	}
	return false, end - off, nil
}

// A Distance is what one state has that another one of the same image has not, in bytes.
type Distance struct {
	Data  int64 // that would be stored in a layer on the other state
	Other int64 // all in which they differ, holes and zeros included
}

// Less prefers little data, and then little that is only hidden.
func (d Distance) Less(e Distance) bool {
	return d.Data < e.Data || d.Data == e.Data && d.Other < e.Other
}

// DistanceOf compares x with y, or with nothing if y is nil, by what the tables say: no data
// is read. Below says that something shows through holes: where y has data it has to be
// stored again.
func DistanceOf(ctx context.Context, x, y Source, below bool) (d Distance, err error) {
	size := x.Image().VirtualSize
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		shared, n, err := sharedWith(x, y, off, size)
		if err != nil {
			return d, err
		}
		if shared {
			off += n
			continue
		}
		for end := off + n; off < end; {
			e, err := x.Extent(off, end)
			if err != nil {
				return d, err
			}
			d.Other += e.Length
			if e.Kind == Data || e.Kind == Compressed || e.Kind == Hole && below && y != nil {
				d.Data += e.Length
			}
			off = e.End()
		}
	}
	return d, nil
}

// A Split brings states of one image into images of their own.
type Split struct {
	Below []Source // what the image builds on, base first
	To    Target   // empty, of the size of State, on Parent or on Below
	State Source
	// Parent is the state that the image below To has; nil: To builds on Below.
	Parent Source
	Done   func(n int64) // progress, in bytes
}

func (s *Split) stack(top Source) (*Stack, error) {
	return NewStack(append(append([]Source(nil), s.Below...), top)...)
}

// Run fills To, durably: with what the image has itself, or with what differs from Parent.
// What both states share is not read.
func (s *Split) Run(ctx context.Context) error {
	f, err := s.fill()
	if err != nil {
		return err
	}
	f.done = s.Done
	if err := s.To.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(s.To), err)
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	return s.To.Flush()
}

func (s *Split) fill() (*fill, error) {
	view, err := s.stack(s.State)
	if err != nil {
		return nil, err
	}
	f := &fill{to: s.To, except: NoLayer, view: view}
	if s.Parent == nil {
		if f.from, err = NewStack(s.State); len(s.Below) > 0 {
			f.below = view.Size()
		}
		return f, err
	}
	was, err := s.stack(s.State)
	if err != nil {
		return nil, err
	}
	next, err := s.stack(s.Parent)
	if err != nil {
		return nil, err
	}
	f.from, f.below, f.holes = view, next.Size(), true
	f.wanted = (&difference{was: was, next: next, granule: s.To.Granule(), shared: func(off, end int64) (bool, int64, error) {
		return sharedWith(s.State, s.Parent, off, end)
	}}).at
	return f, nil
}

// Verify reads layers, base first, and State, and wants them to be the same.
func (s *Split) Verify(ctx context.Context, layers []Source) error {
	x, err := NewStack(layers...)
	if err != nil {
		return err
	}
	y, err := s.stack(s.State)
	if err != nil {
		return err
	}
	c, err := (&pairing{x: x, y: y, done: s.Done}).run(ctx)
	if err == nil && (!c.Same || c.Sizes) {
		err = fmt.Errorf("%s: it does not read as the snapshot, at byte %d", pathOf(layers[len(layers)-1]), c.Offset)
	}
	return err
}

// OpenSources opens images, which nobody may write to until they are closed.
func (s *Store) OpenSources(nodes []Node) (sources []Source, closeAll func() error, err error) {
	o, err := s.openAll(nodes, func(Node) access { return toRead })
	if err != nil {
		return nil, nil, err
	}
	return o.of(nodes...), o.Close, nil
}

// ErrNoStates says that images of a format have one state each.
var ErrNoStates = errors.New("images of this format have no internal snapshots")
